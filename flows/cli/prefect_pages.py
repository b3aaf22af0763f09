"""Prefect's whole server, with its pages and all its services, behind `flows.cli.guard`.

    python -m flows.cli.prefect_pages HOST PORT [PAGE]

PAGE is the address that people open, where that is another one. Prefect's own settings say the rest: the database
(PREFECT_API_DATABASE_CONNECTION_URL) and who may sign in (PREFECT_SERVER_API_AUTH_STRING).
"""

import os
import sys

from flows.cli.guard import guarded, own_origins


def environment(host: str, port: int, page: str) -> dict[str, str]:
    """What it needs to be told before Prefect is imported."""
    # The pages ask the address that they are told, not the one that they came from.
    return {"PREFECT_SERVER_UI_API_URL": f"{page or f'http://{host}:{port}'}/api", "PREFECT__SERVER_FINAL": "1"}


def main() -> None:
    host, port, page = sys.argv[1], int(sys.argv[2]), "".join(sys.argv[3:4])
    os.environ |= environment(host, port, page)
    os.environ.pop("PREFECT_API_URL", None)  # it is the server: its services ask itself
    import uvicorn
    from prefect.server.api.server import create_app

    app = guarded(create_app(final=True), own_origins(host, port, [page]))
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_keep_alive=5, timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
