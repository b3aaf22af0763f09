"""One fact to correct: the model's subject, how it is asked, and what it is to answer.

An edit's prompt holds '{}' once, where the subject stands; every other brace is plain text, so fill it in with
`Edit.text`, never with str.format. Targets carry no leading space (editing.taught says what joins them).
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

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
from pydantic_core import ErrorDetails

from editing.digests import json_digest
from editing.errors import InvalidEdit
from editing.filled import Filled, Said
from editing.places import SLOT, as_written, template
from editing.taught import join_of, taught
from editing.texts import CONTROL, SHOWN, answer, begun, cleaned, composed, fault, joining, kind_of, shown

__all__ = ["SLOT", "Edit", "InvalidField", "Probe", "content_id", "filled", "made", "make_edit", "shown"]

SUBJECT_LENGTH: Final = 500
PROMPT_LENGTH: Final = 2_000
TARGET_LENGTH: Final = 500_000
"""Characters of what any file may hold; how many tokens go is for the model to say."""
ID_LENGTH: Final = 200
PROBES: Final = 100


class InvalidField(InvalidEdit):
    """An edit cannot be carried out because of one field; `field` names it as the caller wrote it."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def _subject(value: str) -> str:
    value = cleaned(value, SUBJECT_LENGTH, CONTROL)
    if SLOT in value:
        raise fault("slot", "must not hold '{}', which marks the subject's place in the prompt; remove it")
    return value


Prompt = Annotated[StrictStr, AfterValidator(lambda value: begun(value, PROMPT_LENGTH))]
Target = Annotated[StrictStr, AfterValidator(lambda value: answer(value, TARGET_LENGTH))]
Join = Annotated[StrictStr, AfterValidator(joining)]
Identifier = Annotated[
    StrictStr, AfterValidator(lambda value: cleaned(value, ID_LENGTH, CONTROL) if value.strip() else "")
]


def filled(prompt: str, subject: str, before: str = "", joined_by: str | None = None) -> Filled:
    """`before` and the prompt with its subject."""
    start = len(before) + prompt.index(SLOT)
    return Filled(before + prompt.replace(SLOT, subject), (start, start + len(subject)), joined_by=joined_by)


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

    join: Join | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="What stands between prompt and answer, '' or white space; none: by the rule of editing.taught.",
    )

    @property
    def text(self) -> str:
        """The prompt with the subject filled in; it is `Filled`."""
        return filled(self.prompt, self.subject, joined_by=self.join)

    @property
    def taught(self) -> str:
        """The whole text that is taught: the prompt, what joins it to the new answer, the new answer."""
        return taught(self.text, self.target_new)

    @property
    def joined_by(self) -> str:
        """What stands between its prompt and its new answer."""
        return join_of(self.text, self.target_new)

    @property
    def answers(self) -> tuple[str, ...]:
        """All that count as the new answer; the first is the one that is written."""
        return self.target_new, *self.aliases

    @property
    def old_answers(self) -> tuple[str, ...]:
        """The old answer, if it is known."""
        return () if self.target_true is None else (self.target_true,)

    @model_validator(mode="before")
    @classmethod
    def _has_the_prompts_writing(cls, given: Any) -> Any:
        """The subject as its prompt writes it: that is what stands in the text that is taught."""
        if isinstance(given, Mapping):
            subject, prompt = given.get("subject"), given.get("prompt")
            if isinstance(subject, str) and isinstance(prompt, str) and SLOT not in prompt:
                return {**given, "subject": as_written(composed(prompt), composed(subject.strip()))}
        return given

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
    def _joins_alike(self) -> "Edit":
        """What a request says of how it is joined goes for all that is asked about it."""
        if self.join is not None:
            # Only what joins them is new, so that what the fields say is the same.
            object.__setattr__(self, "paraphrases", tuple(Said(text, self.join) for text in self.paraphrases))
            for name in ("neighborhood", "portability"):
                object.__setattr__(self, name, _joined(getattr(self, name), self.join))
        return self

    @model_validator(mode="after")
    def _has_id(self) -> "Edit":
        if not self.id:
            # Only way to complete a frozen model; the field counts as set, so that no dump leaves it out.
            object.__setattr__(self, "id", content_id(self.subject, self.prompt, self.target_new))
            self.model_fields_set.add("id")
        return self


def _joined(probes: tuple[Probe, ...], join: str) -> tuple[Probe, ...]:
    return tuple(
        probe.model_copy(
            update={
                "prompt": Said(probe.prompt, join),
                "wordings": tuple(Said(text, join) for text in probe.wordings),
            }
        )
        for probe in probes
    )


def content_id(subject: str, prompt: str, target_new: str) -> str:
    """'e-' and 12 hex digits that depend on nothing but the fact itself."""
    fact = {"subject": subject, "prompt": prompt, "target_new": target_new}
    return "e-" + json_digest(fact)[:12]


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
    name, sentence = explained(kind, problems[0], called or {})
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise InvalidField(f"{called_edit(fields)}: {sentence}{more}", field=name)


def explained(kind: type[Edit], problem: ErrorDetails, called: Mapping[str, str]) -> tuple[str, str]:
    """What a problem is about, by the name that its source knows, and a sentence that says what is wrong."""
    # A field's name may be anything too: keep it short and printable.
    plain = (str(part) for part in problem["loc"])
    location = [part if len(part) <= SHOWN and part.isprintable() else shown(part) for part in plain] or ["edit"]
    location[0] = called.get(location[0], location[0])
    name = location[0] + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in location[1:])
    return name, _explain(kind, name, problem)


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
        hint = f"did you mean '{near[0]}'?" if near else f"the fields are {', '.join(known)}"
        return f"unknown field {shown(name)}; {hint}"
    if kind == "too_long":
        return f"{name} has more than {PROBES} entries; keep at most {PROBES}"
    wanted = {
        "string_type": "must be a text",
        "tuple_type": "must be a list",
        "literal_error": f"must be {problem.get('ctx', {}).get('expected')}",
        "model_type": "must be an object with the fields prompt and answer",
    }.get(kind, problem["msg"])
    return f"{name} {wanted}, and is {kind_of(given)} {shown(given)}"
