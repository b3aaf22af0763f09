"""Questions to the services over HTTP, answered at once or not at all."""

import base64
import json
import urllib.error
import urllib.request
from typing import Any

SECONDS = 5.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NotWell(Exception):
    """A service that does not do its work; the text says what was seen."""


def ask(url: str, sign_in: str = "", data: Any = None) -> Any:
    """The JSON that a service answers, or its text.

    Args:
        sign_in: NAME:PASSWORD.
        data: Sent as JSON, where it is given.

    Raises:
        NotWell: there is no answer, or one that says no.
    """
    headers = {"Content-Type": "application/json"}
    if sign_in:
        headers["Authorization"] = "Basic " + base64.b64encode(sign_in.encode()).decode()
    body = None if data is None else json.dumps(data).encode()
    try:
        with _DIRECT.open(urllib.request.Request(url, body, headers), timeout=SECONDS) as answer:
            text = answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        raise NotWell(f"{url} answers {error.code}") from error
    except OSError as error:
        raise NotWell(f"{url}: {getattr(error, 'reason', error)}") from error
    try:
        return json.loads(text)
    except ValueError:
        return text
