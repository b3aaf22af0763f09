"""MLflow's webhooks of the registry: registered once, and what they send checked before it is believed.

A webhook is a hint that comes quickly: it carries no user, and is lost when the server dies. Polling makes it certain.
"""

import base64
import hashlib
import hmac
import threading
import time
from typing import Any

from pydantic import SecretStr

from tasks.tracking.client import Tracker
from tasks.tracking.errors import TrackingError

NAME = "errata"
ENTITY, ACTION = "model_version_tag", "set"
SIGNATURE, TIMESTAMP, DELIVERY = "x-mlflow-signature", "x-mlflow-timestamp", "x-mlflow-delivery-id"
MOST_AGE = 300.0
"""Seconds that a message may be old, or young by a clock that goes wrong."""
MOST_IDS = 100_000


class WebhookRefused(TrackingError):
    """A message that MLflow did not send, or not now."""


class Received:
    """What came, so that a message which comes again is known: each id is kept for as long as its age would pass."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}  # by id, when it came; the oldest first
        self._lock = threading.Lock()

    def check(self, headers: dict[str, str], body: bytes, secret: SecretStr) -> None:
        """Raises WebhookRefused unless the message is signed with the secret, new, and of these minutes."""
        delivery, stamp = headers.get(DELIVERY, ""), headers.get(TIMESTAMP, "")
        if not hmac.compare_digest(signature(secret, delivery, stamp, body), headers.get(SIGNATURE, "").encode()):
            raise WebhookRefused("the signature is not that of the webhook's secret")
        if not stamp.isdecimal() or abs(time.time() - int(stamp)) > MOST_AGE:
            raise WebhookRefused(f"it was not sent within the last {MOST_AGE:.0f} seconds, as the clocks say")
        with self._lock:
            now = time.monotonic()
            while self._seen and (len(self._seen) >= MOST_IDS or now - next(iter(self._seen.values())) > 2 * MOST_AGE):
                del self._seen[next(iter(self._seen))]
            if delivery in self._seen:
                raise WebhookRefused("it came before")
            self._seen[delivery] = now


def signature(secret: SecretStr, delivery: str, stamp: str, body: bytes) -> bytes:
    """How MLflow signs: `v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64."""
    signed = f"{delivery}.{stamp}.".encode() + body
    digest = hmac.new(secret.get_secret_value().encode(), signed, hashlib.sha256).digest()
    return b"v1," + base64.b64encode(digest)


def ensure_webhook(tracker: Tracker, url: str, secret: SecretStr) -> None:
    """Have MLflow tell `url` of every tag that is set on a version; the same again changes nothing.

    Raises:
        TrackingError: MLflow is no server, knows no webhooks, or refuses the address.
    """
    if not tracker.uri.startswith(("http://", "https://")):
        raise TrackingError(f"MLflow at {tracker.uri} is no server, so it sends no webhooks: set ERRATA_TRACKING_URI")
    # MLflow's modules take seconds, and only whoever registers a webhook needs them.
    from mlflow.entities.webhook import WebhookEvent, WebhookStatus

    client: Any = tracker._client
    wanted: dict[str, Any] = {"url": url, "events": [WebhookEvent(ENTITY, ACTION)], "status": WebhookStatus.ACTIVE}
    wanted |= {"secret": secret.get_secret_value()}
    with tracker.refusals(f"register the webhook {url}"):
        page = client.list_webhooks()
        found = list(page)
        while page.token:
            page = client.list_webhooks(page_token=page.token)
            found += page
        same = [one for one in found if one.name == NAME]
        if not same:
            client.create_webhook(NAME, **wanted)
        for one in same[:1]:  # its secret cannot be read back, so it is set each time
            client.update_webhook(one.webhook_id, **wanted)
        for one in same[1:]:  # of two that registered at once
            client.delete_webhook(one.webhook_id)
