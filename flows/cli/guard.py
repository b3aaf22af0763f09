"""Answers a web server's own pages and programs, and no page of another site.

A page that somebody opens elsewhere may ask any address of this machine: by another name that leads here (then Host is
foreign), or plainly (then Origin is). Prefect's server looks at neither and allows every origin.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from html import escape
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

Application = Callable[[Any, Any, Any], Awaitable[None]]
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
REFUSED_SOCKET = 1008


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a server that listens there."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def own_origins(host: str, port: int, pages: Iterable[str] = ()) -> set[str]:
    """Origins of the server's pages: where it listens, and where people open it, such as behind a proxy."""
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    here = {f"http://{name}:{port}" for name in (*LOOPBACK, bracketed)}
    return here | {origin for page in pages if (origin := _origin(page))}


def host_names(origins: Iterable[str]) -> set[str]:
    return {name for origin in origins if (name := urlsplit(origin).hostname)}


PAGE = "give it as ERRATA_PREFECT_PAGE where the server starts"


def guarded(app: Application, origins: Iterable[str], remedy: str = PAGE) -> Application:
    """The same ASGI application, which refuses a Host or an Origin that is none of these."""
    allowed = {origin.lower() for origin in origins}
    hosts = host_names(allowed)

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await app(scope, receive, send)
        if not {_host(host) for host in _values(scope, b"host") or [""]} <= hosts:
            return await _refuse(scope, send, "Host", remedy)
        if not {_origin(origin) for origin in _values(scope, b"origin")} <= allowed:
            return await _refuse(scope, send, "Origin", remedy)
        return await app(scope, receive, send)

    return guard


def _values(scope: Any, header: bytes) -> list[str]:
    return [value.decode("latin-1").lower() for name, value in scope["headers"] if name == header]


def _host(header: str) -> str | None:
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _origin(url: str) -> str:
    """Scheme, host and port of an address; empty where it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    if not parts.hostname or parts.scheme not in ("http", "https"):
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, usual) else "")


async def _refuse(scope: Any, send: Any, what: str, remedy: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": REFUSED_SOCKET, "reason": f"foreign {what}"})
        return
    why = f"foreign {what}: if this address is right, {remedy}"
    page = any("text/html" in accepted for accepted in _values(scope, b"accept"))  # what a browser opens as a page
    body = (
        f"<!doctype html><title>Refused</title><p>{escape(why)}" if page else json.dumps({"exception_message": why})
    ).encode()
    kind = b"text/html; charset=utf-8" if page else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
