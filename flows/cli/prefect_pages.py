"""Prefect's whole server, with its pages and all its services, behind `flows.cli.guard`.

    python -m flows.cli.prefect_pages HOST PORT [PAGE...]

PAGE is the address that people open, where that is another one; more are other names by which it is asked. Prefect's
own settings say the rest: the database (PREFECT_API_DATABASE_CONNECTION_URL), and who may sign in
(PREFECT_SERVER_API_AUTH_STRING), which must be set where HOST lets others in.
"""

import os
import sys

from flows.cli.guard import guarded, is_loopback, own_origins


def environment(host: str, port: int, page: str) -> dict[str, str]:
    """What it needs to be told before Prefect is imported."""
    # The pages ask the address that they are told, not the one that they came from.
    page = page or f"http://{host}:{port}"
    # What its automations write to people links there.
    return {"PREFECT_SERVER_UI_API_URL": f"{page}/api", "PREFECT_UI_URL": page, "PREFECT__SERVER_FINAL": "1"}


def main() -> None:
    host, port, pages = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    if not is_loopback(host) and not os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        sys.exit(f"error: {host} lets others in: set PREFECT_SERVER_API_AUTH_STRING to NAME:PASSWORD, or use 127.0.0.1")
    os.environ |= environment(host, port, "".join(pages[:1]))
    os.environ.pop("PREFECT_API_URL", None)  # it is the server: its services ask itself
    import uvicorn
    from prefect.server.api.server import create_app

    app = guarded(create_app(final=True), own_origins(host, port, pages))
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_keep_alive=5, timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
