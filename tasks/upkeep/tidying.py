"""Everything that may be taken, found and taken: ledger, snapshots, trainings, cache. What is listed first is taken."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from editing.errors import ErrataError
from tasks.ledger.table import Ledger
from tasks.progress import note, stage
from tasks.upkeep.caches import left_in_cache
from tasks.upkeep.leftovers import Kind, Leftover
from tasks.upkeep.searches import left_by_searches
from tasks.upkeep.snapshots import left_by_jobs
from tasks.upkeep.trainings import left_by_trainings
from tasks.workplace import Workplace

LEDGER_FILES = 16
"""With more files than that the ledger is joined; a job does it with more than 64."""
GIB = 2**30


class Limits(BaseModel):
    """From when on what is whole, and could be made again, is taken too."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unused_days: int = Field(30, ge=1, le=3650, description="Results in the cache that nobody used since are taken.")
    rest_days: int = Field(90, ge=1, le=3650, description="A training untouched since keeps its best checkpoint alone.")
    cache_gib: float = Field(20.0, ge=0, description="Above this size the cache loses what was unused longest.")


DEFAULTS = Limits()


class Row(BaseModel):
    """Something that was found, and whether it was taken."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    name: str
    size: int | None = None
    """Bytes, where they are known."""
    used: datetime | None = None
    taken: bool


class Tidied(BaseModel):
    """What a tidying came to."""

    model_config = ConfigDict(frozen=True)

    dry_run: bool
    joined: bool = False
    """The ledger's many small files are few again."""
    rows: tuple[Row, ...] = ()
    skipped: tuple[str, ...] = ()
    """What could not be looked at or taken, and why."""

    @property
    def gone(self) -> list[Row]:
        """What was taken, or would be."""
        return [row for row in self.rows if row.taken or self.dry_run]

    @property
    def in_short(self) -> str:
        verb = "would take" if self.dry_run else "took"
        mib = sum(row.size or 0 for row in self.gone) / 2**20
        joined = ", joined the ledger's small files" if self.joined else ""
        return f"{verb} {len(self.gone)} leftover{'s' * (len(self.gone) != 1)}, {mib:,.1f} MiB{joined}"

    def by_kind(self) -> list[tuple[Kind, int, int]]:
        """Of each kind, how many are gone and how many bytes they had."""
        kinds = dict.fromkeys(row.kind for row in self.gone)
        return [
            (kind, len(sizes), sum(sizes))
            for kind in kinds
            if (sizes := [row.size or 0 for row in self.gone if row.kind == kind])
        ]


def tidy_up(workplace: Workplace, min_age_days: int = 7, dry_run: bool = False, limits: Limits = DEFAULTS) -> Tidied:
    """Take what nothing leads to and nobody wrote or used in the last days; with `dry_run` only list it.

    Safe beside jobs, decisions and itself, and when it is killed: leftovers alone are looked for, and each is looked at
    once more right before it is taken. What cannot be looked at or taken is left alone, and said.
    """
    now = datetime.now(UTC)
    before, unused, rest = (
        now - timedelta(days=max(days, min_age_days)) for days in (min_age_days, limits.unused_days, limits.rest_days)
    )
    store, cache, done = workplace.store.store, workplace.settings.cache_folder, _Done(dry_run)
    with stage("upkeep") as tell:
        done.ledger(workplace.ledger)
        tell(1, 5)
        done.leftovers("snapshots", lambda: left_by_jobs(store, before))
        tell(2, 5)
        done.leftovers("trainings", lambda: left_by_trainings(store, before, rest))
        tell(3, 5)
        done.leftovers("searches", lambda: left_by_searches(store, before))
        tell(4, 5)
        done.leftovers("cache", lambda: left_in_cache(cache, before, unused, int(limits.cache_gib * GIB)))
    return Tidied(dry_run=dry_run, joined=done.joined, rows=tuple(done.rows), skipped=tuple(done.skipped))


class _Done:
    """What was done so far."""

    def __init__(self, dry_run: bool) -> None:
        self.dry_run, self.joined = dry_run, False
        self.rows: list[Row] = []
        self.skipped: list[str] = []

    def ledger(self, ledger: Ledger) -> None:
        """Join the files of small appends, and remove those that no state of the last days holds."""
        with self._said("ledger"):
            self.joined = not self.dry_run and ledger.compact(LEDGER_FILES)
            files = ledger.unused_files()
            taken = {*(ledger.unused_files(remove=True) if files and not self.dry_run else ())}
            self.rows += [Row(kind="ledger file", name=name, taken=name in taken) for name in files]

    def leftovers(self, part: str, find: Callable[[], Sequence[Leftover]]) -> None:
        with self._said(part):
            for left in find():
                taken = not self.dry_run and left.take()
                self.rows.append(Row(kind=left.kind, name=left.name, size=left.size, used=left.used, taken=taken))

    @contextmanager
    def _said(self, part: str) -> Iterator[None]:
        """Inside, what cannot be looked at or taken ends this part alone."""
        try:
            yield
        except (ErrataError, OSError) as error:
            self.skipped.append(f"{part}: {' '.join(str(error).split())}")
            note(f"{self.skipped[-1]}; left as it is", "warning")
