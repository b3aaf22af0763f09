"""Keep a schedule: the knowledge update of a line as a Prefect deployment, run by this process.

    python -m deployments.serve --line main --cron "0 3 * * *"

Needs a Prefect server (PREFECT_API_URL, or the one that `errata ui` starts) to be useful for longer than this process.
"""

import argparse

from tasks.settings import load_settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deployments.serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--line", default="main", help="the line to update")
    parser.add_argument("--cron", default="0 3 * * *", help="when, as five cron fields in UTC; default: %(default)s")
    arguments = parser.parse_args()
    load_settings()
    from flows.knowledge_update import knowledge_update  # after the settings that it reads when it is imported

    knowledge_update.serve(
        name=f"{arguments.line}-nightly",
        cron=arguments.cron,
        parameters={"line": arguments.line},
        tags=["errata", arguments.line],
        limit=1,
    )


if __name__ == "__main__":
    main()
