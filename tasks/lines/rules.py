"""The rules of a line: how its versions are decided, and whether anything may be put in service at all.

lines/<line>/rules.json     one object, changed by compare-and-swap; none: the defaults

They are read at the moment of each decision, and hold for what waits already.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError, model_validator

from editing.edit import shown
from editing.errors import PolicyError, UsageError
from editing.numbers_given import NumbersAreNoBooleans
from tasks.names import check_line
from tasks.stores.errors import ObjectConflict, ObjectNotFound, StorageError
from tasks.stores.manifest import Version
from tasks.stores.objects import ObjectStore
from tasks.stores.records import read_record, record_bytes
from tasks.text import Text, check_length

SETTABLE = ("expires_after_hours", "reviewers", "queues_for", "auto_approve")
"""What `errata rules --set` changes; to freeze is a command of its own."""
_TRIES = 5


class AutoApprove(NumbersAreNoBooleans):
    """What approves by itself: every number of every version that waits is within these, and the report passed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_facts: int = Field(10, ge=1, description="Most facts that wait.")
    min_efficacy: float = Field(1.0, ge=0, le=1, description="Least share of facts that take.")
    min_generalization: float = Field(0.9, ge=0, le=1, description="Least share of paraphrases that take.")
    min_locality_kept: float = Field(0.95, ge=0, le=1, description="Least share of neighbors that answer as before.")
    max_perplexity_ratio: float = Field(1.02, ge=1, description="Most perplexity, as a multiple of the base's.")


class LineRules(NumbersAreNoBooleans):
    """How the versions of a line are decided."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    FORMAT: ClassVar[int] = 1

    format: Literal[1] = 1
    expires_after_hours: float | None = Field(
        168.0, gt=0, le=87_600, description="What waits is refused so long after the newest of it; null: it never is."
    )
    reviewers: Literal[1, 2] = Field(1, description="How many different people have to approve.")
    queues_for: tuple[Text, ...] = Field(
        (), max_length=20, description="Who has a review queue in MLflow, by the names that they sign in with there."
    )
    auto_approve: AutoApprove | None = Field(None, description="What is approved without a person; null: nothing.")
    frozen: Text = Field("", description="Why nothing is put in service and no job starts; empty: it is not so.")
    thawed: AwareDatetime | None = Field(None, description="When it was last unfrozen: expiry counts from then.")

    @model_validator(mode="after")
    def _two_are_two(self) -> "LineRules":
        if self.reviewers > 1 and self.auto_approve is not None:
            raise ValueError("with reviewers = 2 nothing is approved without a person: take one of them away with null")
        return self

    def expiry(self, newest: Version) -> datetime | None:
        """When what waits is refused, `newest` being the last of it; None: never, or not while the line is frozen."""
        if self.expires_after_hours is None or self.frozen:
            return None
        made = datetime.fromisoformat(newest.manifest.created).astimezone(UTC)
        since = max(made, self.thawed) if self.thawed else made
        return since + timedelta(hours=self.expires_after_hours)


def read_rules(store: ObjectStore, line: str) -> LineRules:
    """The line's rules as they are now; the defaults where nobody set any."""
    return _read(store, line)[0]


def set_rules(store: ObjectStore, line: str, values: Mapping[str, Any]) -> LineRules:
    """Change some rules; a part of `auto_approve` is named with a dot, its other parts stay.

    Raises:
        PolicyError: a name is unknown, or a value is out of range; nothing is written.
    """
    for name in values:
        if name not in SETTABLE and not name.startswith("auto_approve."):
            raise PolicyError(f"rule {shown(name)} is unknown; rules are {', '.join(SETTABLE)}")
    return _change(store, line, lambda rules: _merged(rules, values))


def freeze(store: ObjectStore, line: str, reason: str) -> LineRules:
    """Nothing is put in service and no job starts from now on; to go back is still possible.

    Raises:
        UsageError: no reason is given.
    """
    if not check_length(reason).strip():
        raise UsageError("to freeze a line needs a reason: whoever is refused is told it")
    return _change(store, line, lambda rules: rules.model_dump() | {"frozen": reason})


def unfreeze(store: ObjectStore, line: str) -> LineRules:
    """The end of that; what waits has its whole time anew."""
    thawed = {"frozen": "", "thawed": datetime.now(UTC)}
    return _change(store, line, lambda rules: rules.model_dump() | (thawed if rules.frozen else {}))


def check_not_frozen(store: ObjectStore, line: str) -> None:
    """Raises UsageError with the reason where the line is frozen."""
    if reason := read_rules(store, line).frozen:
        raise UsageError(f"line '{line}' is frozen ({' '.join(reason.split())}); `errata unfreeze {line}` ends that")


def _merged(rules: LineRules, values: Mapping[str, Any]) -> dict[str, Any]:
    fields = rules.model_dump()
    for name, value in values.items():
        whole, _, part = name.partition(".")
        fields[whole] = {**(fields[whole] or {}), part: value} if part else value
    return fields


def _change(store: ObjectStore, line: str, change: Callable[[LineRules], dict[str, Any]]) -> LineRules:
    """Read, change, swap; again where somebody else was faster."""
    for _ in range(_TRIES):
        before, etag = _read(store, line)
        after = _checked(change(before))
        if after == before:
            return after
        try:
            if etag:
                store.put_if_match(_key(line), record_bytes(after), etag)
            else:
                store.put_if_absent(_key(line), record_bytes(after))
            return after
        except ObjectConflict:
            continue
    raise StorageError(f"the rules of line '{line}' are changed by many at once; try again")


def _checked(fields: dict[str, Any]) -> LineRules:
    try:
        return LineRules.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if not name:
            raise PolicyError(f"rules: {first['msg'].removeprefix('Value error, ')}") from error
        known = f"; fields are {', '.join(AutoApprove.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise PolicyError(f"rule {name} = {shown(first.get('input'))}: {first['msg'].lower()}{known}") from error


def _read(store: ObjectStore, line: str) -> tuple[LineRules, str]:
    try:
        data, etag = store.get(_key(line))
    except ObjectNotFound:
        return LineRules(), ""
    where = f"the rules '{_key(line)}' of line '{line}' in '{store.uri}'"
    return read_record(LineRules, data, where, "remove it, then set them anew"), etag


def _key(line: str) -> str:
    return f"lines/{check_line(line)}/rules.json"
