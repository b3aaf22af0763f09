"""How a run ends: refused in one line, cancelled at once, MLflow's run by what ended it; and who is told of it."""

import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar, cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from editing.errors import ErrataError
from editing.shortage import within_memory
from flows.review import request_review
from tasks.ledger.errors import LedgerError
from tasks.ledger.view import LineView
from tasks.names import artifact_key
from tasks.notices import tell
from tasks.prefect_events import send_event
from tasks.progress import note
from tasks.report.data import JobReport
from tasks.report.render import render_markdown
from tasks.review.aliases import sync_aliases
from tasks.runlog import told_to_prefect
from tasks.secrets import without_secrets
from tasks.settings import Settings, load_settings
from tasks.stores.errors import LineBusy
from tasks.stores.manifest import Version
from tasks.workplace import Workplace

if TYPE_CHECKING:  # it brings torch, which decisions and upkeep do without
    from tasks.update.journal import JobSummary

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def ended_well(work: Callable[P, R]) -> Callable[P, R]:
    """A flow's function whose ErrataError ends the run as failed with its one line, and reaches a caller as it is.

    An exception that leaves a flow is logged with its traceback, and Prefect pickles it into its storage. A run that is
    cancelled says so itself when all is put in order: its worker says so only after it has loaded the flow once more.
    """

    @wraps(work)
    def ending(*args: P.args, **kwargs: P.kwargs) -> R:
        _go_on_without_console()
        try:
            with within_memory():
                return work(*args, **kwargs)
        except ErrataError as error:
            _let_go(error)
            return cast(R, Failed(message=str(error), data=error))
        except TerminationSignal:
            _say_cancelled()
            raise

    return ending


def completed(result: R, message: str) -> R:
    """What a flow returns to end with a message on its page; its caller gets the result."""
    return cast(R, Completed(message=message, data=result))


def _go_on_without_console() -> None:
    """A worker reads what its run writes; once it was killed, rich would end the run at the next line of its log."""
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    for handler in (handler for logger in loggers for handler in logger.handlers):
        if isinstance(handler, PrefectConsoleHandler):
            console = handler.console
            console.on_broken_pipe = partial(setattr, console, "quiet", True)  # type: ignore[method-assign]


def _let_go(error: BaseException) -> None:
    """What the functions held that it came through, the model among it, since Prefect keeps it with the state."""
    found: BaseException | None = error
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found = found.__cause__ or found.__context__


def _say_cancelled() -> None:
    """Where that is why the run is ended. Where the server cannot be asked, its worker will tell it."""
    with suppress(Exception), get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(str(flow_run.id)))
        if run.state is not None and run.state.is_cancelling():
            message = "cancelled; what was kept before stands, the rest is as it was"
            client.set_flow_run_state(run.id, Cancelled(message=message))


def mlflow_status(error: BaseException) -> Literal["FAILED", "KILLED"]:
    """How MLflow's run ends: what is no Exception came from outside, as Ctrl-C and a cancellation do."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def announced(line: str, what: str, work: "Callable[[], JobSummary]") -> "JobSummary":
    """The end of a flow that runs a job of a line: Prefect's page hears of `what`, and people of a job that failed."""
    settings = load_settings()
    try:
        with told_to_prefect(what, "progress"):
            summary = work()
    except LineBusy:
        raise  # somebody else's job does the work
    except Exception as error:  # whatever it is, people are told that the job failed
        failed(settings, line, error)
        raise
    return completed(summary, summary.said)


def failed(settings: Settings, line: str, error: Exception) -> None:
    """Tell people and Prefect's automations that a job of the line failed."""
    said = without_secrets(f"the job of line {line} failed: {error}")  # whatever failed, such as a driver of a database
    send_event("failed", line, {"text": said[:500]})
    tell(settings, "failed", line, said, page_of_run(settings))


def left_waiting(settings: Settings, line: str, waiting: Sequence[Version], mlflow_run: str, text: str) -> None:
    """Ask for a decision on the newest version that waits, and tell people of it.

    What fails here changes nothing of the version: the command line and whoever looks after the line ask for it, too.
    """
    newest = waiting[-1]
    send_event("waiting", line, {"version": newest.number, "snapshot": newest.snapshot})
    try:
        request_review(line, newest.number, newest.snapshot)
    except Exception as error:  # of whatever server: the job is done
        logger.warning("no review of version %s of line %s was asked for: %s", newest.number, line, error)
        note(f"no review of version {newest.number} was asked for: {error}", "warning")
    page = f"{settings.mlflow_people}/#/runs/{mlflow_run}" if settings.mlflow_people else page_of_run(settings)
    tell(settings, "waiting", line, f"version {newest.number} waits for review: {text}", page)


def page_of_run(settings: Settings) -> str:
    """Of this flow's run, for people; empty where no server of Prefect is configured."""
    return f"{settings.prefect_people}/runs/flow-run/{flow_run.id}" if settings.prefect_people and flow_run.id else ""


def show_summary(line: str, report: JobReport) -> None:
    """What the job came to, on the page of its run."""
    show_on_page(line, "summary", render_markdown(report), "no summary of this job")


def show_on_page(line: str, kind: str, text: str, lacking: str) -> None:
    """Markdown on the page of the run. What is done stands, whether or not Prefect's server is there to show it."""
    try:
        create_markdown_artifact(text, key=artifact_key(line, kind))
    except Exception as error:  # of the server or the way there
        note(f"Prefect shows {lacking}: {error}", "warning")


def compact(workplace: Workplace) -> None:
    """What is done stands, whether or not the ledger can be tidied up after it; the next job tries again."""
    try:
        workplace.ledger.compact()
    except LedgerError as error:
        note(str(error), "warning")


def set_aliases(workplace: Workplace, view: LineView) -> None:
    """Set the aliases that a decision could not set, because MLflow was away or its process was killed."""
    if view.versions:
        sync_aliases(workplace.tracker(), workplace, view.line)
