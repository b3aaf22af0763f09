"""One fact to correct: the model's subject, how it is asked, and what it is to answer.

An edit's prompt holds '{}' once, where the subject stands; every other brace is plain text, so fill it in with
`Edit.text`, never with str.format. Targets carry no leading space (editing.tokens adds it).
"""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from editing.digests import json_digest
from editing.errors import InvalidEdit
from editing.filled import Filled

SLOT: Final = "{}"
SUBJECT_LENGTH: Final = 500
PROMPT_LENGTH: Final = 2_000
TARGET_LENGTH: Final = 500
ID_LENGTH: Final = 200
PROBES: Final = 100
SHOWN: Final = 80
"""Characters of a refused value that a message shows."""

# Prompts of real benchmarks hold line breaks and tabs; subjects, targets and ids have no use for them.
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HALF_PAIR: Final = re.compile(r"[\ud800-\udfff]")
_CONTROL_IN_PROMPT: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class InvalidField(InvalidEdit):
    """An edit cannot be carried out because of one field; `field` names it as the caller wrote it."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def fault(kind: str, message: str) -> PydanticCustomError:
    """What a validator raises for a value."""
    # Pydantic reads braces in a message as placeholders, and ours are full of '{}': hand the text over as a value.
    return PydanticCustomError("errata_" + kind, "{message}", {"message": message})


def cleaned(value: str, limit: int, control: re.Pattern[str]) -> str:
    """A text as it is kept, without the spaces around it. Raises what `fault` makes."""
    value = value.strip()
    if not value:
        raise fault("empty", "is empty; give it a text, or leave an optional field out")
    if len(value) > limit:
        raise fault("long", f"has {len(value):,} characters, at most {limit:,} are allowed; shorten it")
    if found := control.search(value):
        where = f"U+{ord(found[0]):04X} at position {found.start()}"
        raise fault("control", f"holds the control character {where}; remove it")
    if found := _HALF_PAIR.search(value):
        raise fault("half_pair", f"holds half a surrogate pair at position {found.start()}; write the character whole")
    return value


def _subject(value: str) -> str:
    value = cleaned(value, SUBJECT_LENGTH, CONTROL)
    if SLOT in value:
        raise fault("slot", "must not hold '{}', which marks the subject's place in the prompt; remove it")
    return value


Prompt = Annotated[StrictStr, AfterValidator(lambda value: cleaned(value, PROMPT_LENGTH, _CONTROL_IN_PROMPT))]
Target = Annotated[StrictStr, AfterValidator(lambda value: cleaned(value, TARGET_LENGTH, CONTROL))]
Identifier = Annotated[
    StrictStr, AfterValidator(lambda value: cleaned(value, ID_LENGTH, CONTROL) if value.strip() else "")
]


def filled(prompt: str, subject: str, before: str = "") -> Filled:
    """`before` and the prompt with its subject."""
    start = len(before) + prompt.index(SLOT)
    return Filled(before + prompt.replace(SLOT, subject), (start, start + len(subject)))


class Probe(BaseModel):
    """A prompt that is asked before and after an edit, with its right answer where that is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Prompt
    answer: Target | None = None
    # Left out where they are empty, as Edit's question is.
    aliases: Annotated[tuple[Target, ...], Field(max_length=PROBES)] = Field(
        (), exclude_if=lambda value: not value, description="Other answers that are as right."
    )
    wordings: Annotated[tuple[Prompt, ...], Field(max_length=PROBES)] = Field(
        (),
        exclude_if=lambda value: not value,
        description="Other wordings: right where one of all is answered rightly.",
    )
    group: Identifier | None = Field(
        None, exclude_if=lambda value: value is None, description="What the set that it is from calls its kind."
    )

    @property
    def answers(self) -> tuple[str, ...]:
        """All that count as right."""
        return (() if self.answer is None else (self.answer,)) + self.aliases


class Edit(BaseModel):
    """A fact to write into a model. Frozen; equal content gives an equal id where none is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Identifier = Field("", description="Name of the request; a digest of the content where it is left out.")
    subject: Annotated[StrictStr, AfterValidator(_subject)] = Field(description="What the fact is about.")
    prompt: Prompt = Field(description="The question or sentence to complete, with '{}' for the subject.")
    target_new: Target = Field(description="What the model is to answer.")
    target_true: Target | None = Field(None, description="What it answered before, if that is known.")
    paraphrases: Annotated[tuple[Prompt, ...], Field(max_length=PROBES)] = Field(
        (), description="Other ways to ask, whole sentences with the subject filled in."
    )
    # Left out where it is empty, as every field that release 0.1 does not know: what is stored of a request is its
    # content, by which it is known again.
    question: Prompt | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="How a person would ask in a chat, with '{}' for the subject; none: to complete the prompt.",
    )
    aliases: Annotated[tuple[Target, ...], Field(max_length=PROBES)] = Field(
        (),
        exclude_if=lambda value: not value,
        description="Other spellings of the new answer, each as right as it.",
    )
    neighborhood: Annotated[tuple[Probe, ...], Field(max_length=PROBES)] = Field(
        (), description="Prompts about other things, to be answered as before."
    )
    portability: Annotated[tuple[Probe, ...], Field(max_length=PROBES)] = Field(
        (), description="Prompts about what follows from the new fact."
    )

    @property
    def text(self) -> str:
        """The prompt with the subject filled in; it is `Filled`."""
        return filled(self.prompt, self.subject)

    @property
    def answers(self) -> tuple[str, ...]:
        """All that count as the new answer; the first is the one that is written."""
        return self.target_new, *self.aliases

    @property
    def old_answers(self) -> tuple[str, ...]:
        """The old answer, if it is known."""
        return () if self.target_true is None else (self.target_true,)

    @field_validator("prompt", "question", mode="after")
    @classmethod
    def _holds_one_slot(cls, prompt: str | None, info: ValidationInfo) -> str | None:
        subject = info.data.get("subject")
        return prompt if subject is None or prompt is None else template(prompt, subject)

    @field_validator("target_true", mode="after")
    @classmethod
    def _differs_from_target(cls, target_true: str | None, info: ValidationInfo) -> str | None:
        # Success is measured by comparing the two; equal targets could never succeed.
        if target_true is not None and target_true == info.data.get("target_new"):
            raise fault("same", "is the same as target_new; leave it out, or give the answer to be replaced")
        return target_true

    @field_validator("aliases", mode="after")
    @classmethod
    def _are_other_spellings(cls, aliases: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        # Published lists of names hold the answer itself and names twice: once is enough. The old answer is another
        # matter, in whatever case: with it every model that was never edited would be right.
        new, old = info.data.get("target_new"), info.data.get("target_true")
        if old is not None and (same := [alias for alias in aliases if alias.casefold() == old.casefold()]):
            raise fault("old", f"hold {shown(same[0])}, which is target_true; leave it out")
        return tuple(alias for alias in dict.fromkeys(aliases) if alias != new)

    @model_validator(mode="after")
    def _has_id(self) -> "Edit":
        if not self.id:
            # Only way to complete a frozen model; the field counts as set, so that no dump leaves it out.
            object.__setattr__(self, "id", content_id(self.subject, self.prompt, self.target_new))
            self.model_fields_set.add("id")
        return self


def content_id(subject: str, prompt: str, target_new: str) -> str:
    """'e-' and 12 hex digits that depend on nothing but the fact itself."""
    fact = {"subject": subject, "prompt": prompt, "target_new": target_new}
    return "e-" + json_digest(fact)[:12]


def template(prompt: str, subject: str) -> str:
    """The prompt with one '{}' in the subject's place.

    A prompt that has the subject filled in is taken where the subject stands in it exactly once: as a whole word,
    or, where it is nowhere a whole word (Chinese has no spaces), as a part of the text.
    """
    slots = prompt.count(SLOT)
    if slots == 1:
        return prompt
    must = f"must hold exactly one '{{}}' for the subject {shown(subject)}"
    if slots > 1:
        raise fault("slots", f"{must}, and holds {slots}; keep one of them")
    # The lookahead finds overlapping occurrences too: 'aa' stands in 'aaa' twice, and so not in one place.
    starts = [match.start() for match in re.finditer(rf"(?={re.escape(subject)})", prompt)]
    words = [start for start in starts if _is_whole(prompt, start, start + len(subject))]
    places = words or starts
    if len(places) != 1:
        why = "which does not stand in it" if not places else f"which stands in it {len(places)} times"
        raise fault("slots", f"{must}, {why}; for example '{{}} plays the sport of'")
    start = places[0]
    return prompt[:start] + SLOT + prompt[start + len(subject) :]


def _is_whole(text: str, start: int, end: int) -> bool:
    before, after = text[start - 1 : start], text[end : end + 1]
    return not (before.isalnum() and text[start].isalnum()) and not (after.isalnum() and text[end - 1].isalnum())


def make_edit(fields: Mapping[str, object], *, called: Mapping[str, str] | None = None) -> Edit:
    """An edit from plain fields; `called` gives the names under which their source knows them, for messages.

    Raises:
        InvalidField (an InvalidEdit): one line that names the edit, the field, the value and the remedy.
    """
    return made(Edit, fields, called)


Kind = TypeVar("Kind", bound=Edit)


def made(kind: type[Kind], fields: Mapping[str, object], called: Mapping[str, str] | None = None) -> Kind:
    """The same for a kind of edit that has more fields. Raises as `make_edit`."""
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=True)
    first, called = problems[0], called or {}
    # A field's name may be anything too: keep it short and printable.
    plain = (str(part) for part in first["loc"])
    location = [part if len(part) <= SHOWN and part.isprintable() else shown(part) for part in plain] or ["edit"]
    location[0] = called.get(location[0], location[0])
    name = location[0] + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in location[1:])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise InvalidField(f"{called_edit(fields)}: {_explain(kind, name, first)}{more}", field=name)


def shown(value: object) -> str:
    """A value in quotes on one line, cut to SHOWN characters, whatever it holds."""
    try:
        text = repr(value[: SHOWN + 1] if isinstance(value, (str, bytes)) else value)
    except (RecursionError, ValueError):
        # Nested by hundreds of levels, or a number of thousands of digits.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def called_edit(fields: Mapping[str, object]) -> str:
    """How messages call what is to be an edit."""
    for field, words in (("id", "edit"), ("subject", "edit of subject")):
        value = fields.get(field)
        if isinstance(value, str) and value.strip():
            return f"{words} {shown(value.strip())}"
    return "edit without an id"


def _explain(model: type[Edit], name: str, problem: ErrorDetails) -> str:
    kind, given = problem["type"], problem["input"]
    if kind.startswith("errata_"):
        return problem["msg"] if name == "edit" else f"{name} {shown(given)} {problem['msg']}"
    if kind == "missing":
        return f"{name} is missing; give it"
    if kind == "extra_forbidden":
        known = list((Probe if len(problem["loc"]) > 1 else model).model_fields)
        near = difflib.get_close_matches(name.rpartition(".")[2], known, n=1, cutoff=0.5)
        return f"unknown field {shown(name)}; " + (
            f"did you mean '{near[0]}'?" if near else f"the fields are {', '.join(known)}"
        )
    if kind == "too_long":
        return f"{name} has more than {PROBES} entries; keep at most {PROBES}"
    wanted = {
        "string_type": "must be a text",
        "tuple_type": "must be a list",
        "literal_error": f"must be {problem.get('ctx', {}).get('expected')}",
        "model_type": "must be an object with the fields prompt and answer",
    }.get(kind, problem["msg"])
    return f"{name} {wanted}, and is {type(given).__name__} {shown(given)}"
