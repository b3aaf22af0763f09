"""The command that starts the two servers of this installation."""

from typing import Annotated

import typer

from flows.cli.app import app


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on; the default is this machine alone.")] = "127.0.0.1",
    prefect_port: Annotated[int, typer.Option(min=1, max=65535)] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Start the Prefect and MLflow servers and print their addresses; Ctrl-C ends them.

    Example:

        errata ui
    """
    from flows.cli.both_servers import run_both

    run_both(host, prefect_port, mlflow_port)
