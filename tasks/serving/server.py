"""A line behind OpenAI's protocol: the application that a web server runs, beside an engine that answers.

It reads and never writes: neither ledger nor store is changed by whatever is asked.
"""

import asyncio
import importlib.metadata
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from editing.chat import ChatTemplate
from editing.errors import ErrataError, InvalidEdit, ModelError, UsageError
from editing.filled import Filled
from tasks.serving import protocol
from tasks.serving.engine import Answers, Asked, Engine, Full, NotServed
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
        answers = await _answers(engine, Asked(lambda: prompts, asked.tokens, asked.stops))
        return _response(protocol.completed(answers), answers, asked)

    async def chat(request: Request) -> Response:
        asked = protocol.chat(await _body(request), line, most_tokens)

        def prompts() -> list[Filled]:
            return [ChatTemplate(engine.loaded.tokenizer).conversation(asked.conversation)]

        answers = await _answers(engine, Asked(prompts, asked.tokens, asked.stops))
        return _response(protocol.replied(answers), answers, asked)

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


async def _answers(engine: Engine, asked: Asked) -> Answers:
    return await asyncio.wrap_future(engine.ask(asked))


async def _body(request: Request) -> bytes:
    """Raises Refused for one that is too large, before all of it is read."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > MOST_BYTES:
            raise Refused(f"the body has more than {MOST_BYTES:,} bytes; send less", 413)
    return bytes(found)


def _response(body: dict[str, Any], answers: Answers, asked: protocol.Completion | protocol.Chat) -> Response:
    headers = {VERSION: str(answers.by.version)}
    if asked.stream:
        events = protocol.streamed(body, asked.stream_options)
        return Response(events, media_type="text/event-stream", headers=headers)
    return JSONResponse(body, headers=headers)


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
