"""What is wrong with a job, as far as that can be told before anything is started for it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from editing.edit import shown
from editing.errors import UsageError
from tasks.ledger.events import RequestState
from tasks.ledger.removals import removed_by
from tasks.ledger.table import Ledger
from tasks.lines.bases import check_base
from tasks.lines.specs import LineSpec
from tasks.settings import Settings
from tasks.update.ability_files import read_sets
from tasks.update.policy import Policy
from tasks.update.run import read_texts


def check_job(spec: LineSpec, settings: Settings, policy: Policy, texts: Iterable[Path | None]) -> None:
    """Look at the base of the line, and at the files that the job will read.

    Raises:
        ModelError: the base cannot be loaded here, or not be edited as the line says.
        ReadError, PolicyError: a file is missing, broken, or another one than the policy means.
    """
    check_base(spec, settings)
    for text in texts:
        read_texts(text)
    read_sets(policy.ability)


def check_queued(line: str, queued: Sequence[RequestState], only: Sequence[str] | None) -> None:
    """Raises UsageError for a request or removal of `only` that is not queued."""
    names = {name for one in queued for name in (one.request_id, removed_by(one.payload))}
    if strange := [name for name in only or () if name not in names]:
        raise UsageError(f"request {shown(strange[0])} is not queued on line '{line}'; see errata status {line}")


def check_ledger(line: str, ledger: Ledger, only: Sequence[str] | None) -> None:
    """The same of the line as it stands now. Raises LedgerError for a ledger that cannot be read, whatever is asked."""
    if only:
        check_queued(line, ledger.queued(line), only)
    else:
        ledger.check()
