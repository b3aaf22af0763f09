"""A line behind OpenAI's protocol: the application that a web server runs, beside an engine that answers.

It reads and never writes: neither ledger nor store is changed by whatever is asked.
"""

import asyncio
import importlib.metadata
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from editing.chat import ChatTemplate
from editing.errors import ErrataError, InvalidEdit, ModelError, UsageError
from editing.filled import Filled
from tasks.serving import protocol
from tasks.serving.engine import Answers, Asked, Engine, Full, NotServed, Served
from tasks.serving.protocol import Refused

MOST_BYTES = 1 << 20
"""Of a request's body."""
VERSION = "X-Errata-Version"
"""The header that names the version that answered."""

logger = logging.getLogger(__name__)
Handler = Callable[[Request], Awaitable[Response]]


def application(engine: Engine, *, most_tokens: int = 512) -> FastAPI:
    """Everything that is served of the engine's line."""
    app = FastAPI(title="Errata", docs_url=None, redoc_url=None, openapi_url=None)
    line = engine.line

    async def completions(request: Request) -> Response:
        asked = protocol.completion(await _body(request), line, most_tokens)
        prompts = [Filled(prompt) for prompt in asked.prompts]
        return await _answered(engine, asked, Asked(lambda: prompts, asked.tokens, asked.stops), protocol.completed)

    async def chat(request: Request) -> Response:
        asked = protocol.chat(await _body(request), line, most_tokens)

        def prompts() -> list[Filled]:
            return [ChatTemplate(engine.loaded.tokenizer, engine.system).conversation(asked.conversation)]

        return await _answered(engine, asked, Asked(prompts, asked.tokens, asked.stops), protocol.replied)

    async def models(request: Request) -> Response:
        return JSONResponse(protocol.models([line]))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": _served(engine)["version"]})

    async def version(request: Request) -> Response:
        return JSONResponse({"errata": _release(), **_served(engine)})

    for path, handler, method in (
        ("/v1/completions", completions, "POST"),
        ("/v1/chat/completions", chat, "POST"),
        ("/v1/models", models, "GET"),
        ("/health", health, "GET"),
        ("/version", version, "GET"),
    ):
        app.add_api_route(path, _explained(handler), methods=[method], response_model=None)

    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return _error(Refused(f"{request.method} {request.url.path[:200]}: there is no such thing here", status))

    app.add_exception_handler(HTTPException, unknown)
    return app


def _release() -> str:
    try:
        return importlib.metadata.version("errata-lm")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return ""


def _served(engine: Engine) -> dict[str, Any]:
    if not engine.is_alive():
        raise NotServed("the thread that answers has ended: start the server again")
    if (served := engine.served) is None:
        raise engine.fault or NotServed("the model is being loaded")
    return {"line": served.line, "version": served.version, "snapshot": served.snapshot, "sequence": served.sequence}


async def _answered(
    engine: Engine,
    asked: protocol.Completion | protocol.Chat,
    given: Asked,
    spelled: Callable[[Answers], dict[str, Any]],
) -> Response:
    """The whole answer, or where it is asked for the beginning of one that goes on."""
    if asked.stream:
        return await _streamed(engine, asked, given)
    answers = await asyncio.wrap_future(engine.ask(given))
    return JSONResponse(spelled(answers), headers={VERSION: str(answers.by.version)})


async def _streamed(engine: Engine, asked: protocol.Completion | protocol.Chat, given: Asked) -> Response:
    """Each piece is sent as it is written; what is refused, before the first one, is answered as ever."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[Served, int, str] | None]()

    def hear(by: Served, number: int, text: str) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(pieces.put_nowait, (by, number, text))

    future = asyncio.wrap_future(engine.ask(replace(given, hear=hear)))
    future.add_done_callback(lambda _: pieces.put_nowait(None))
    if (first := await pieces.get()) is None:
        await future  # which was refused
        raise NotServed("it was not answered")
    stream = protocol.Stream(asked, first[0])

    async def events() -> AsyncIterator[str]:
        yield stream.begin()
        while (piece := await pieces.get()) is not None:
            yield stream.piece(*piece[1:])
        try:
            yield stream.end(await future)
        except Exception as error:  # its status is sent already: the stream ends without its end
            logger.warning("a stream broke off: %s", error)

    return StreamingResponse(events(), media_type="text/event-stream", headers={VERSION: str(first[0].version)})


async def _body(request: Request) -> bytes:
    """Raises Refused for one that is too large, before all of it is read."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > MOST_BYTES:
            raise Refused(f"the body has more than {MOST_BYTES:,} bytes; send less", 413)
    return bytes(found)


def _explained(handler: Handler) -> Handler:
    """The same, whose every error is one line in OpenAI's form."""

    async def explained(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Refused as error:
            return _error(error)
        except Full as error:
            return _error(Refused(str(error), 429, "queue_full"))
        except NotServed as error:
            return _error(Refused(str(error), 503, "not_served"))
        except (InvalidEdit, UsageError, ModelError) as error:
            return _error(Refused(str(error)))
        except ErrataError as error:
            return _error(Refused(str(error), 503))
        except Exception:  # whatever it is, it is answered without what it came from
            logger.exception("a request was not answered")
            return _error(Refused("it could not be answered; the server's log says why", 500))

    return explained


def _error(error: Refused) -> Response:
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body, status_code=error.status, headers=headers)
