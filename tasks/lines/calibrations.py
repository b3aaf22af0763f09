"""What was found to suit a base: layers and strengths of a method, which new lines of that base take.

A calibration is `calibrations/<digest of the base>.json` in the store, so that every worker finds it whatever name the
base goes by. A line that took one keeps what it took in its definition, so that a later calibration changes nothing
there.
"""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from editing.config import MethodConfig
from editing.methods import AnyConfig, method_config
from tasks.options import merged
from tasks.stores.errors import ObjectNotFound
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record, record_bytes
from tasks.stores.snapshots import CALIBRATIONS
from tasks.text import Text

METHOD = "memit"
"""The method that is calibrated."""


class Trial(BaseModel):
    """One setting that was tried, and what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    options: dict[str, Any]
    metrics: dict[str, float]
    score: float


class Calibration(BaseModel):
    """A search and its outcome."""

    FORMAT: ClassVar[int] = 1

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    base_digest: str
    model: Text
    release: str
    plan: dict[str, Any]
    """What was asked of the search."""
    facts: tuple[str, ...]
    """What was tried on: the facts that the model knows and the answers that they were changed to, a line each."""
    trials: tuple[Trial, ...]
    rule: Trial
    """What new lines would do without it."""
    chosen: Trial

    @property
    def options(self) -> dict[str, Any]:
        """What a new line takes."""
        return self.chosen.options


def read_calibration(store: ObjectStore, base_digest: str) -> Calibration | None:
    """What was found for this base, or None.

    Raises:
        RecordError: it is damaged, or of a newer release.
    """
    try:
        data = store.get(_key(base_digest))[0]
    except ObjectNotFound:
        return None
    again = "delete it, and calibrate again: errata calibrate"
    return read_record(Calibration, data, f"the calibration '{_key(base_digest)}' in '{store.uri}'", again)


def save_calibration(store: ObjectStore, found: Calibration) -> None:
    """Keep it in the place of an earlier one of the same base."""
    store.put(_key(found.base_digest), record_bytes(found))


def taken_from(found: Calibration | None, config: MethodConfig) -> dict[str, Any]:
    """What a new line with this configuration takes of a calibration: all that its definition leaves open."""
    if found is None or config.method != METHOD:
        return {}
    given = config.model_dump(mode="json", exclude_unset=True)
    return _without(found.options, given)


def with_options(config: MethodConfig, options: dict[str, Any]) -> AnyConfig:
    """The configuration with these options in the place of its own."""
    return method_config(config.method, merged(config.model_dump(mode="json", exclude={"method"}), options))


def _without(options: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    left: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict):
            if inner := _without(value, given.get(name) or {}):
                left[name] = inner
        elif given.get(name) is None:
            left[name] = value
    return left


def _key(base_digest: str) -> str:
    return f"{CALIBRATIONS}/{base_digest}.json"
