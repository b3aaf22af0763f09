"""Hear of decisions in MLflow at once: a receiver of its registry's webhooks.

    python -m deployments.webhooks --host 127.0.0.1 --port 4300

MLflow's server has to allow it: MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https and MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true for
an address of this machine, and MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY, which keeps the secret. A message says which line
to look at and nothing more: what is decided is read from MLflow itself. One that is lost is found by `watch`.
"""

import argparse
import json
import logging
import queue
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from editing.errors import ErrataError, PolicyError
from tasks.review.pending import COMMENT, carry_out
from tasks.settings import Settings, load_settings
from tasks.tracking.errors import TrackingError
from tasks.tracking.registry import REVIEW
from tasks.tracking.webhooks import Received, WebhookRefused, ensure_webhook
from tasks.workplace import open_workplace

PATH = "/mlflow"
MOST_BYTES = 65_536
"""A tag's value has 5,000 characters at most."""
HOSTS = ("127.0.0.1", "localhost")

logger = logging.getLogger(__name__)


class Looker(threading.Thread):
    """Looks at lines one after the other, off the thread that answers; what is queued already is not queued twice."""

    def __init__(self, look_at: Callable[[str], None]) -> None:
        super().__init__(name="looker", daemon=True)
        self._look_at, self._lines = look_at, queue.SimpleQueue[str]()
        self._waiting: set[str] = set()
        self._lock = threading.Lock()

    def ask(self, line: str) -> None:
        with self._lock:
            if line not in self._waiting:
                self._waiting.add(line)
                self._lines.put(line)

    def run(self) -> None:
        while True:
            line = self._lines.get()
            with self._lock:
                self._waiting.discard(line)  # before the look: what comes during it is looked at again
            try:
                self._look_at(line)
            except Exception:  # whatever it is, the next message is heard
                logger.exception("line %s was not looked at; watch will", line)


def look_at(line: str) -> None:
    """Carry out what waits on a line, if there is such a line."""
    workplace = open_workplace()
    if line not in workplace.store.lines():
        return
    try:
        for text in carry_out(workplace, line):
            logger.info("line %s: %s", line, text)
    except ErrataError as error:
        logger.warning("line %s: %s", line, error)


def receiver(settings: Settings, ask: Callable[[str], None], hosts: tuple[str, ...] = HOSTS) -> Starlette:
    """The application: messages that MLflow signed name a line to `ask`; every other request is refused."""
    received = Received()

    async def hear(request: Request) -> Response:
        try:
            body = await _body(request)
            received.check(
                {name.lower(): value for name, value in request.headers.items()}, body, settings.webhook_secret
            )
            line = _line_of(body)
        except WebhookRefused as error:
            logger.warning("refused: %s", error)
            return JSONResponse({"refused": str(error)}, status_code=403)
        except ClientDisconnect:
            return Response(status_code=400)
        if line:
            ask(line)
        return JSONResponse({"heard": True}, status_code=202)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "up"})

    routes = [Route(PATH, hear, methods=["POST"]), Route("/health", health)]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))])


async def _body(request: Request) -> bytes:
    """What was sent, but not more than it can be. Raises WebhookRefused."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise WebhookRefused(f"it has more than {MOST_BYTES} bytes")
    return body


def _line_of(body: bytes) -> str:
    """The line whose tag was set; empty where it is none of the tags that decide. Raises WebhookRefused."""
    try:
        told = json.loads(body)
        data = told["data"]
        about = told["entity"] == "model_version_tag" and data["key"] in (REVIEW, COMMENT)
        return str(data["name"]) if about else ""
    except (ValueError, TypeError, KeyError) as error:
        raise WebhookRefused("it is no message about a tag") from error


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deployments.webhooks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at; default: %(default)s")
    parser.add_argument("--port", type=int, default=4300, help="the port; default: %(default)s")
    parser.add_argument("--url", default="", help="how MLflow reaches it, where that is another address")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        settings = load_settings()
        url = arguments.url or f"http://{arguments.host}:{arguments.port}{PATH}"
        _register(settings, url)
    except ErrataError as error:
        parser.exit(2, f"error: {error}\n")
    looker = Looker(look_at)
    looker.start()
    host = url.partition("://")[2].partition("/")[0].rpartition(":")[0]
    app = receiver(settings, looker.ask, tuple({*HOSTS, arguments.host, host} - {""}))
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning")


def _register(settings: Settings, url: str) -> None:
    """Raises PolicyError without a secret: anybody could send messages then."""
    if not settings.webhook_secret.get_secret_value():
        raise PolicyError("ERRATA_WEBHOOK_SECRET is empty, so nobody could tell who sends: set it, as long as you like")
    try:
        ensure_webhook(open_workplace(settings).tracker(), url, settings.webhook_secret)
    except TrackingError as error:
        logger.warning("%s; decisions in MLflow are found when watch looks", error)


if __name__ == "__main__":
    main()
