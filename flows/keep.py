"""What keeps an installation beyond its disk, and what it must not keep, as flows: by forms and by `--remote`."""

from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.decide import Named, Said, Why
from flows.endings import ended_well, show_on_page
from tasks.keeping.backup import backup as take
from tasks.keeping.forgetting import forget as erase
from tasks.keeping.promoting import open_other
from tasks.keeping.promoting import promote as carry
from tasks.keeping.sources import named_source
from tasks.markdown import literal
from tasks.progress import note
from tasks.runlog import told_to_prefect
from tasks.settings import load_settings, settings_of
from tasks.workplace import Workplace, open_workplace


@flow(name="forget", flow_run_name="{line}", persist_result=False)
@ended_well
def forget(line: str, reviewer: Said, requests: Named, reason: Said) -> State[None]:
    """Erase what requests say, wherever this installation has written it. It cannot be undone.

    Args:
        line: The line: one served model.
        reviewer: Who asks for it, as the ledger will name it.
        requests: Which, by their ids.
        reason: Why; it stands in the ledger in the place of what was said, and in the parameters of this run.

    A fact in service or that waits is queued as a removal first; the same again forgets it once it is out.
    """
    with told_to_prefect("forgetting"):
        done = erase(_of(reviewer), line, requests, reason)
        queued = [f"{name} is to be taken out first, by request {removal}" for name, removal in done.queued.items()]
        gone = [f"versions that can be served no more: {', '.join(map(str, done.versions))}"] if done.versions else []
        said = f"{len(done.forgotten)} forgotten, {len(done.queued)} to be taken out first"
        _show(line, "forget", said, [*done.forgotten, *queued, *gone, *done.notes])
    return Completed(message=said)


@flow(name="promote", flow_run_name="{line}", persist_result=False)
@ended_well
def promote(line: str, reviewer: Said, source: Path, reason: Why = "") -> State[None]:
    """Put in service here what is in service in another home, with all that it is built on, checked by digest.

    Args:
        line: The line: one served model.
        reviewer: Who decides, as the ledger will name it.
        source: The home in which it was approved, on the machine of the worker; HOME/LINE, where its name differs.
        reason: Why; it stands in the ledger.
    """
    with told_to_prefect("promoting"):
        home, named = named_source(source, line)
        done = carry(_of(reviewer), open_other(settings_of(home)), line, reason, named)
        said = done.decision.done_before or f"{done.carried} versions carried, version {done.version} is in service"
        _show(line, "promote", said, [f"snapshot {done.snapshot}", *done.notes, done.decision.warning])
    return Completed(message=said)


@flow(name="backup", flow_run_name="backup", persist_result=False)
@ended_well
def backup(folder: Path) -> State[None]:
    """Copy everything of this installation as one consistent set, while jobs run.

    Args:
        folder: A new folder, on the machine of the worker; it is written beside and named at the end.
    """
    with told_to_prefect("copying"):
        record = take(open_workplace(), folder)
        said = f"{folder}: {record.in_short}"
        _show("errata", "backup", said, [f"not in it: {text}" for text in record.left_out])
    return Completed(message=said)


def _of(reviewer: str) -> Workplace:
    """The workplace, for somebody who need not be the user of this process."""
    return open_workplace(load_settings(actor=reviewer))


def _show(line: str, kind: str, said: str, more: list[str]) -> None:
    note(said)
    rows = [f"- {literal(text)}" for text in more if text]
    show_on_page(line, kind, "\n".join([literal(said), "", *rows]), "nothing of this on its page")
