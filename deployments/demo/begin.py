"""The demo's first second: whose folder it is, and the job's server, which starts while all else is imported."""

from contextlib import ExitStack
from pathlib import Path

from deployments.demo import CANDIDATES, REQUESTS
from deployments.demo.home import opened
from editing.digests import json_digest
from flows.cli.console import waiting
from flows.cli.prefect_api import prefect_api


def begin(folder: Path, model: str, candidates: Path = CANDIDATES, changes: bool = False) -> None:
    """Every step that this folder's demo has not done yet; ends with where to go from here.

    Args:
        candidates: the table of facts; of the demo's own, the requests for the embedded model are made already.
        changes: whether the second act follows: facts that change again and leave.

    Raises:
        UsageError: the folder is none of a demo, or another demo runs in it.
        ErrataError: what the commands raise.
    """
    about = json_digest([model, *(path.read_text(encoding="utf-8") for path in (candidates, REQUESTS))])
    with opened(folder, about) as home, ExitStack() as meanwhile:
        jobs = {"run", "run-changed"} if changes else {"run"}
        started = meanwhile.enter_context(prefect_api()) if jobs - {*home.record.done} else None
        with waiting("loading torch and transformers"):
            from deployments.demo.play import play  # seconds, in which the server starts

        play(home, model, candidates, started, changes)
