"""What the watches of a line remember: whom they told what, and where their numbers go. One small object a line.

It is changed by compare-and-swap, so of two watches at once none forgets what the other one noted. Nothing rests on it
but that people are not told the same twice: one that cannot be read is begun anew.
"""

import logging
import uuid
from collections.abc import Callable
from datetime import date, datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.names import check_line
from tasks.stores.errors import NewerFormat, ObjectConflict, ObjectNotFound, RecordError
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record, record_bytes
from tasks.text import Text

_TRIES = 20
_logger = logging.getLogger(__name__)


class Told(BaseModel):
    """That people were told of a finding, on a day (UTC), or that it was tried so often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    day: date
    tries: int = Field(1, ge=1)
    reached: bool = True


class WatchRecord(BaseModel):
    """What is stored in `lines/<line>/watch.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    FORMAT: ClassVar[int] = 1

    format: Literal[1] = 1
    line: str
    watches: int = Field(0, ge=0, description="How many there were; the step of their numbers.")
    mlflow_run_id: str | None = Field(None, description="Where their numbers stand.")
    held: int = Field(0, ge=0, description="Sequence of the HEAD that was asked last and held.")
    held_at: datetime | None = None
    token: str = Field("", description="Random: of two changes that come to the same, one is still made on the other.")
    told: dict[Text, Told] = Field(default_factory=dict, description="By the name of the finding.")
    emitted: dict[Text, datetime] = Field(default_factory=dict, description="When an event was sent, by its name.")


class Memory:
    """The record of one line."""

    def __init__(self, store: ObjectStore, line: str) -> None:
        self.store, self.line, self._key = store, line, f"lines/{check_line(line)}/watch.json"

    def read(self) -> WatchRecord:
        """The record as it is now; an empty one where there is none. Raises NewerFormat."""
        return self._found()[0]

    def change(self, make: Callable[[WatchRecord], WatchRecord]) -> WatchRecord:
        """Replace the record by what `make` makes of it, of the newest one each time that another was faster.

        Raises:
            ObjectConflict: others are always faster.
        """
        for _ in range(_TRIES):
            before, etag = self._found()
            after = make(before).model_copy(update={"token": uuid.uuid4().hex})
            try:
                if etag:
                    self.store.put_if_match(self._key, record_bytes(after), etag)
                else:
                    self.store.put_if_absent(self._key, record_bytes(after))
                return after
            except ObjectConflict as error:
                _logger.debug("%s; again", error)
        raise ObjectConflict(f"'{self._key}' in '{self.store.uri}': many watches change it at once; watch again later")

    def _found(self) -> tuple[WatchRecord, str]:
        try:
            data, etag = self.store.get(self._key)
        except ObjectNotFound:
            return WatchRecord(line=self.line), ""
        try:
            return read_record(WatchRecord, data, f"'{self._key}' in '{self.store.uri}'"), etag
        except NewerFormat:
            raise
        except RecordError as error:
            _logger.warning("%s; it is begun anew, and people may be told something again", error)
            return WatchRecord(line=self.line), etag
