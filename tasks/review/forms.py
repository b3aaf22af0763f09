"""Forms in Prefect that nobody needs to fill in any more, because the version was decided elsewhere."""

import json
import logging
import os
import urllib.error
import urllib.request

from tasks.addresses import asked
from tasks.ledger.view import look
from tasks.review.decided import decided
from tasks.secrets import without_secrets
from tasks.workplace import Workplace

FLOW = "review"
"""The flow whose runs show the forms; its deployment for a line has the line's name."""
HEALTH_SECONDS = 3

logger = logging.getLogger(__name__)


def close_reviews(workplace: Workplace, line: str) -> list[str]:
    """End the suspended runs of `review` whose version waits no more; says which, a line each.

    Best effort: whatever ails Prefect's server, the decision stands, and the next look of `watch` closes them.
    """
    try:
        return _close(workplace, line) if prefect_answers() and _any_form(line) else []
    except Exception as error:  # whatever it is, it is no reason to call the decision into question
        logger.warning("line %s: the review in Prefect was not closed: %s", line, error)
        return []


def prefect_answers() -> bool:
    """Whether a Prefect server is configured and answers; where none is, its client is not even imported."""
    address = os.environ.get("PREFECT_API_URL", "")
    try:
        if address:
            urllib.request.urlopen(asked(f"{address.rstrip('/')}/health"), timeout=HEALTH_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # it answers, to those who have a password
    except (OSError, ValueError) as error:
        logger.info("no Prefect server answers at %s: %s", without_secrets(address), error)
        return False
    return bool(address)


def _any_form(line: str) -> bool:
    """Whether a form of the line waits; where the server does not say, its client will hear why."""
    asking = {
        "flows": {"name": {"any_": [FLOW]}},
        "deployments": {"name": {"any_": [line]}},
        "flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}},
        "limit": 1,
    }
    address = f"{os.environ['PREFECT_API_URL'].rstrip('/')}/flow_runs/filter"
    request = asked(address, os.environ.get("PREFECT_API_AUTH_STRING", ""))
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, json.dumps(asking).encode(), timeout=HEALTH_SECONDS) as answer:
            return bool(json.load(answer))
    except (OSError, ValueError):
        return True


def _close(workplace: Workplace, line: str) -> list[str]:
    # Prefect takes a second to import, and only where a server is configured there is anything to close.
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, FlowFilter, FlowRunFilter
    from prefect.states import Completed

    said = []
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": [FLOW]}}),
            deployment_filter=DeploymentFilter.model_validate({"name": {"any_": [line]}}),
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["PAUSED"]}}}),
        )
        view = look(workplace.store, workplace.ledger, line) if runs else None
        for run in runs:
            number = run.parameters.get("version")
            if view is None or not isinstance(number, int) or number in {one.number for one in view.waiting}:
                continue
            found = decided(workplace.store, view, number)
            message = found.sentence if found else f"version {number} of line '{line}' does not wait"
            client.set_flow_run_state(run.id, Completed(name="Decided", message=message), force=True)
            said.append(f"the form for version {number} is closed: {message}")
    return said
