"""What a request carries besides its fact: where it comes from, how urgent it is, and from when to when it counts.

None of it changes what is written into a model: `fact_of` gives the fact alone, which is what is searched and cached.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr, model_validator

from editing.edit import PROBES, Edit, Identifier, made, shown
from editing.texts import CONTROL, cleaned, fault

NOTE_LENGTH: Final = 500
PRIORITIES: Final = ("urgent", "normal", "low")
"""The first is taken up first."""

Note = Annotated[StrictStr, AfterValidator(lambda value: cleaned(value, NOTE_LENGTH, CONTROL))]
_HOW: Final = "write it as 2026-12-01T08:00:00Z, or 2026-12-01 for the beginning of that day in UTC"


def _moment(value: object) -> datetime:
    """A point in time, in UTC, out of a text or of what a table holds."""
    try:
        if isinstance(value, str):
            text = value.strip()
            value = date.fromisoformat(text) if len(text) == len("2026-12-01") else datetime.fromisoformat(text)
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time(), UTC)
        if isinstance(value, datetime) and value.utcoffset() is not None:
            return value.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise fault("moment", f"is no point in time; {_HOW}") from error
    if isinstance(value, datetime):
        raise fault("zone", f"has no time zone; {_HOW}")
    raise fault("moment", f"is no point in time; {_HOW}")


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


Moment = Annotated[datetime, BeforeValidator(_moment)]


class Request(Edit):
    """An edit with what a request carries. What is not told is left out of what is stored."""

    source: Note | None = Field(None, exclude_if=lambda value: value is None, description="Where the fact is from.")
    requested_by: Note | None = Field(None, exclude_if=lambda value: value is None, description="Who asked for it.")
    ticket: Note | None = Field(None, exclude_if=lambda value: value is None, description="Its number elsewhere.")
    tags: Annotated[tuple[Note, ...], Field(max_length=PROBES)] = Field(
        (), exclude_if=lambda value: not value, description="Words that it can be found by."
    )
    priority: Annotated[Literal["urgent", "normal", "low"], BeforeValidator(_lower)] = Field(
        "normal", exclude_if=lambda value: value == "normal", description="What is urgent is taken up first."
    )
    not_before: Moment | None = Field(
        None, exclude_if=lambda value: value is None, description="Until then a job leaves it queued."
    )
    expires: Moment | None = Field(
        None, exclude_if=lambda value: value is None, description="From then on it is to be taken out again."
    )
    replaces: Identifier | None = Field(
        None, exclude_if=lambda value: value is None, description="The request whose place it takes."
    )

    @model_validator(mode="after")
    def _counts_for_a_while(self) -> Self:
        if self.expires is not None and self.not_before is not None and self.expires <= self.not_before:
            raise fault("expires", f"expires {shown(str(self.expires))} is not later than not_before; correct one")
        if self.replaces == self.id:
            raise fault("replaces", f"replaces {shown(self.id)} names the request itself; give it another id")
        return self

    @property
    def carried(self) -> dict[str, object]:
        """What it carries besides its fact, as it is stored."""
        return self.model_dump(mode="json", include=set(CARRIED))


CARRIED: Final = tuple(name for name in Request.model_fields if name not in Edit.model_fields)
"""The fields of a request that are no part of its fact, in the order in which people read them."""


def make_request(fields: Mapping[str, object], *, called: Mapping[str, str] | None = None) -> Edit:
    """A request from plain fields; an edit where they say nothing but a fact.

    Raises:
        InvalidField: as `make_edit`.
    """
    request = made(Request, fields, called)
    return request if request.carried else fact_of(request)


def with_join(edit: Edit, join: str | None) -> Edit:
    """The edit as its line joins prompts and answers, unless it says so itself."""
    if join is None or edit.join is not None:
        return edit
    return type(edit).model_validate(edit.model_dump() | {"join": join})


def fact_of(edit: Edit) -> Edit:
    """The fact of a request alone."""
    if not isinstance(edit, Request):
        return edit
    fields = {name: getattr(edit, name) for name in Edit.model_fields}
    return Edit.model_construct(_fields_set=edit.model_fields_set & fields.keys(), **fields)
