"""Events about a line to Prefect's server, which automations wait for.

Each is a request that the server has answered before anything is noted of it. Prefect's own way, a thread that writes
to a websocket, says nothing of what it loses, such as all that follows a restart of the server until it has noticed.
"""

import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from tasks.progress import note

What = Literal["breached", "late", "failed", "waiting", "served_other"]
SECONDS = 5.0
"""How long a server may take to answer."""

logger = logging.getLogger(__name__)


def send_event(what: What, line: str, payload: Mapping[str, Any], name: str = "") -> bool:
    """Send the event `errata.line.<what>` to Prefect's server; whether it took it.

    Whoever sends goes on where nobody takes it: the event is not what the work is for.

    Args:
        payload: What automations and people see of it; JSON.
        name: What it is about. The server takes an event of one name once, so that of two watches at once only one
            sets off an automation. Empty: each is one of its own.
    """
    # Here, since a watch without a server does without Prefect, which takes a while to import.
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    event = f"errata.line.{what}"
    known_by = uuid.uuid5(uuid.NAMESPACE_URL, f"errata.line.{line} {what} {name}") if name else uuid.uuid4()
    sent: dict[str, Any] = {
        "id": str(known_by),
        "event": event,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": f"errata.line.{line}", "prefect.resource.name": line},
        "payload": dict(payload),
    }
    if flow_run.id:
        run = f"prefect.flow-run.{flow_run.id}"
        sent["related"] = [{"prefect.resource.id": run, "prefect.resource.role": "flow-run"}]
    try:
        with get_client(sync_client=True, httpx_settings={"timeout": SECONDS}) as client:
            client.request("POST", "/events", json=[sent])
    except Exception as error:  # of the server or the way there
        logger.warning("the event %s of line %s was not sent: %s", event, line, error)
        note(f"the event {event} was not sent: {error}", "warning")
        return False
    return True
