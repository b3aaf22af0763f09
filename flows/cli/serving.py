"""The command that answers users from the version in service."""

import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer

from editing.errors import UsageError
from flows.cli.app import Line, app, if_stopped, place_of
from flows.cli.carrying import CARRYING
from flows.cli.console import say, shown_progress, warn

if TYPE_CHECKING:
    from tasks.serving.engine import Engine


@app.command(rich_help_panel=CARRYING)
def serve(
    line: Line = "main",
    host: Annotated[
        str, typer.Option(help="Where to listen; other than this machine, everybody there may ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8100,
    waiting: Annotated[int, typer.Option(min=1, help="Most requests that wait; more are answered with 429.")] = 256,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
) -> None:
    """Answer users by OpenAI's protocol from the version in service, until Ctrl-C; what HEAD moves to answers next.

    For one machine and greedy answers: what is large or busy is served from an export.

    Examples:

        errata serve

        errata serve products --port 8101 --max-tokens 128
    """
    with if_stopped("nothing is served any more"):
        listening = _socket(host, port)
        with shown_progress(what="loading the version in service"):
            engine = _engine(line, waiting)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        served = engine.served
        version = f"version {served.version}" if served and served.version else "the base"
        say(f"{version} of line {line} answers at {address}/v1 as model {line}")
        _run(engine, listening, host, max_tokens)


def _engine(line: str, waiting: int) -> "Engine":
    """With the version in service in memory, answering."""
    workplace = place_of(line)
    from tasks.lines.specs import existing_line  # this and these take seconds
    from tasks.review.asking import load_base
    from tasks.serving.engine import Engine
    from tasks.serving.loading import check_base

    spec = existing_line(workplace.store, workplace.ledger, line)
    loaded = load_base(workplace, spec)
    check_base(loaded, workplace.store, line)
    engine = Engine(loaded, workplace.store, line, waiting, spec.system)
    engine.follow()
    engine.start()
    return engine


def _socket(host: str, port: int) -> socket.socket:
    """Raises UsageError where nobody can listen there."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
        made.listen(1024)
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: {error.strerror or error}; choose another") from error
    return made


def _run(engine: "Engine", listening: socket.socket, host: str, max_tokens: int) -> None:
    import uvicorn

    from flows.cli.guard import guarded, is_loopback, own_origins
    from tasks.serving.server import application

    served: Any = application(engine, most_tokens=max_tokens)
    if is_loopback(host):
        own = own_origins(host, listening.getsockname()[1])
        served = guarded(served, own, "start the server with --host, behind a proxy that asks who comes")
    else:
        warn("whoever reaches this address may ask: put a proxy before it that asks who comes")
    # Its own messages, of requests that are no HTTP, are no news.
    uvicorn.Server(uvicorn.Config(served, log_level="error", access_log=False)).run(sockets=[listening])
    engine.stop()
