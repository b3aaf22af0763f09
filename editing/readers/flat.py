"""A fact of a record, by the names of its form, as a request."""

from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from editing.edit import ID_LENGTH, PROBES, SLOT, Edit, InvalidField, called_edit, explained
from editing.places import has_slot, template, whole
from editing.readers.forms import Form, given
from editing.readers.literals import written_out
from editing.readers.looks import worth_a_look
from editing.readers.nested import Fact
from editing.readers.probes import probes_in, probes_of
from editing.readers.told import Told
from editing.readers.values import (
    Fields,
    Unusable,
    all_texts,
    first,
    flat,
    further,
    is_none,
    is_placeholder,
    name_of,
    text_of,
)
from editing.request import CARRIED, DIGITS, Request, fact_of
from editing.texts import CONTROL, cleaned, composed, shown

STRICT: Final = ("target_true", "aliases")
"""The names under which an answer is refused that contradicts the new one: who writes them means them."""
_LISTS: Final = ("paraphrases", "aliases", "neighborhood", "portability")
_ANSWERS: Final = ("target_new", "target_true")
_NOTES: Final = ("source", "requested_by", "ticket", "replaces")


def edit_of(record: Fields, fact: Fact, form: Form, told: Told) -> Edit:
    """One fact of a record as an edit.

    Raises:
        InvalidField: one line that names the edit, the field as the record calls it, the value and the remedy.
    """
    reading = _Reading(_in_one(fact, form), form, told)
    try:
        own = reading.request()
    except InvalidField as error:
        outside = not fact.where or str(error.field).partition("[")[0] in fact.more
        raise InvalidField(str(error), error.field if outside else f"{fact.where}.{error.field}") from error
    own |= _carried(fact.fields if fact.fields is record else {**record, **fact.fields})
    if own["join"] is None:
        own["join"] = record.get("join")
    inside = fact.fields if fact.where else {}
    called = {role: f"{fact.where}.{name}" if name in inside else name for role, name in reading.called.items()}
    edit = _made(own, called, reading.findings)
    case = "" if own["id"] or fact.where.endswith("]") else name_of(reading.fields.get("case_id"), "case_id")
    if case:
        # A number within a file, and not a name: the same number of another file is another fact.
        edit = edit.model_copy(update={"id": _numbered(case, edit)})
    if findings := (*reading.findings, *worth_a_look(edit, str(own["prompt"]))):
        # A record that comes twice is one request, whatever else one of the two carries.
        told.findings[edit.id] = tuple(dict.fromkeys((*told.findings.get(edit.id, ()), *findings)))
    return edit


def _in_one(fact: Fact, form: Form) -> Fields:
    """A fact's fields, and what its record says of it beside them."""
    if not fact.where:
        return fact.fields
    for name in (fact.more.keys() & fact.fields.keys() & form.read) - {"case_id"}:
        both = fact.more[name], fact.fields[name]
        if both[0] != both[1] and {} not in both and not any(map(is_none, both)):
            raise InvalidField(
                f"{called_edit(fact.fields)}: '{name}' and '{fact.where}.{name}' are not the same; keep one", name
            )
    return {**fact.more, **fact.fields}


def _numbered(case: str, edit: Edit) -> str:
    try:
        return cleaned(f"cf-{case}-{edit.id[2 : 2 + DIGITS]}", ID_LENGTH, CONTROL)
    except PydanticCustomError as error:
        where = f"edit of subject {shown(edit.subject)}: case_id {shown(case)}"
        raise InvalidField(f"{where} {error.message()}", "case_id") from error


class _Reading:
    """The fields of one record, by what they are to a request."""

    def __init__(self, fields: Fields, form: Form, told: Told) -> None:
        self.fields, self.form, self.told = fields, form, told
        self.names = given(form, tuple(fields))
        self.called: dict[str, str] = {}
        self.findings: list[str] = []

    def request(self) -> dict[str, Any]:
        subject = self._one("subject")
        if is_none(subject):
            raise InvalidField(
                "field 'subject' is missing: a correction is about somebody or something that its prompt names; give "
                "it. A text or a rule has none: put it into the model's prompt, or train it, instead of editing",
                field="subject",
            )
        new = self._needed("target_new")
        answer = first(new, name := self.called["target_new"])
        if answer is not None and is_placeholder(answer):
            raise InvalidField(f"{name} {shown(answer)} stands for an answer that nobody knows; give the answer", name)
        prompt, old = self._prompt(), self._old(answer)
        own: dict[str, Any] = {
            "id": name_of(self._one("id"), "id"),
            "subject": text_of(subject, "subject"),
            "prompt": prompt,
            "target_new": answer,
            "target_true": old,
            "paraphrases": self._texts("paraphrases"),
            "aliases": self._aliases(new, old),
            "neighborhood": self._probes("neighborhood", old),
            "portability": self._probes("portability", old),
            "join": self.fields.get("join"),
        }
        for name in ("paraphrases", "neighborhood", "portability"):
            own[name] = [whole(asked, own["subject"]) if has_slot(asked) else asked for asked in own[name]]
        question = self._question(prompt, own["subject"])
        return own if question is None else own | {"question": question}

    def _one(self, role: str) -> object:
        """What the record gives for this, by whichever of its names."""
        found: list[tuple[str, object]] = []
        written = role in _ANSWERS and not self.form.own
        for name in self.names[role]:
            if isinstance(name, str) and not is_none(value := self.fields.get(name)):
                found.append((name, self._read(name) if written and isinstance(value, str) else value))
        if not found:
            return None
        if len(found) > 1 and any(value != found[0][1] for _, value in found):
            names = " and ".join(f"'{name}'" for name, _ in found)
            raise InvalidField(
                f"{called_edit(self.fields)}: {names} say what {role} is, and not the same; keep one", found[1][0]
            )
        self.called[role] = found[0][0]
        value = found[0][1]
        if not isinstance(value, dict) or "str" not in value:
            return value
        for member in value.keys() - {"str", "id"}:
            self.told.not_used(f"{found[0][0]}.{member}")
        return value["str"]

    def _read(self, name: str) -> object:
        """What a field holds; of a list that stands there written out, as in the cell of a table, the list."""
        value = self.fields.get(name)
        found = written_out(value) if isinstance(value, str) else None
        return value if found is None else found

    def _needed(self, role: str) -> object:
        value = self._one(role)
        if not is_none(value) and first(value, self.called[role]) is not None:
            return value
        names = [name for name in self.form.calls[role] if isinstance(name, str)]
        name = next((name for name in names if isinstance(self.fields.get(name), str)), None)
        if name is None:
            raise InvalidField(f"{called_edit(self.fields)}: field '{names[0]}' is missing; give it", names[0])
        raise InvalidField(f"{called_edit(self.fields)}: {name} {shown(self.fields[name])} is empty; give a text", name)

    def _prompt(self) -> str | None:
        ready = self.fields.get("prompt_template")
        if isinstance(ready, str) and ready.count(SLOT) == 1:
            self.called["prompt"] = "prompt_template"
            return ready
        value = self._needed("prompt")
        return text_of(value, self.called["prompt"])

    def _old(self, new: str | None) -> str | None:
        """The first known answer; of a published set none where it is the new one: then nothing is to be replaced."""
        told = self._one("target_true")
        if told is None:
            return None
        name = self.called["target_true"]
        known = [text for text in all_texts(told, name) if not is_placeholder(text)]
        if further(told, name):
            self.told.not_used(f"{name} after the first")
        old = known[0] if known else None
        same = old is not None and new is not None and _kept(old) == _kept(new)
        return None if same and name not in STRICT else old

    def _question(self, prompt: str | None, subject: Any) -> str | None:
        """How a person asks; of a published set where that is another text than its prompt and can be used."""
        if not self.names["question"]:
            return None
        question = text_of(self.fields.get("question"), "question")
        if question is None or self.form.own or not question.strip():
            return question
        try:
            asked = template(question.strip(), subject.strip())
        except PydanticCustomError as error:
            self.findings.append(f"question {shown(question)} was left out: it {error.message()}")
            return None
        return None if asked == prompt else asked

    def _texts(self, role: str) -> list[str]:
        found = []
        for name in self.names[role]:
            if isinstance(name, str) and not is_none(self.fields.get(name)):
                found += self._usable(self._read(name), name)
                self.called.setdefault(role, name)
        return found

    def _usable(self, value: object, name: str) -> list[str]:
        """The texts of a list; what is none is left out."""
        try:
            return all_texts(value, name)
        except Unusable:
            texts = []
            for member in flat(value):
                try:
                    texts += all_texts(member, name)
                except Unusable as error:
                    self.findings.append(f"{error}; it was left out")
            return texts

    def _aliases(self, new: object, old: str | None) -> list[str]:
        """Other spellings of the new answer; a published list of names holds the old one at times."""
        found = [*further(new, self.called["target_new"]), *self._texts("aliases")]
        found = [alias for alias in found if not is_placeholder(alias)]
        if old is None or self.called.get("aliases") in STRICT:
            return found
        was = _kept(old).casefold()
        return [alias for alias in found if _kept(alias).casefold() != was]

    def _probes(self, role: str, old: str | None) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        for name in self.names[role]:
            before = len(found)
            if not isinstance(name, str):
                found += probes_of(self._read(name[0]), self._read(name[1]), name)
            else:
                found += probes_in(self._read(name), name, self.told, self.findings)
                if name == "neighborhood_prompts":  # CounterFact's, of which all have the old answer
                    found[before:] = [one if one.get("answer") else one | {"answer": old} for one in found[before:]]
            if len(found) > before:
                self.called.setdefault(role, name if isinstance(name, str) else name[0])
        return found


def _kept(text: str) -> str:
    """A text as it is stored."""
    return composed(text.strip())


def _carried(fields: Fields) -> dict[str, object]:
    """What a record of any form says besides its fact."""
    found = {name: value for name in CARRIED if not is_none(value := fields.get(name))}
    for name in found.keys() & _NOTES:
        found[name] = text_of(found[name], name)
    if "tags" in found:
        found["tags"] = all_texts(found["tags"], "tags")
    return found


def _made(own: dict[str, Any], called: dict[str, str], findings: list[str]) -> Edit:
    """The request, without those of its probes that cannot be used; a sentence for each of them."""
    kind = Edit if own.keys().isdisjoint(CARRIED) else Request
    while True:
        try:
            made = kind.model_validate(own)
            return made if isinstance(made, Request) and made.carried else fact_of(made)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=True)
        kept = [one for one in problems if not _can_be_left_out(one)]
        name, sentence = explained(kind, (kept or problems)[0], called)
        if kept:
            more = f" (and {len(kept) - 1} more)" if len(kept) > 1 else ""
            raise InvalidField(f"{called_edit(own)}: {sentence}{more}", field=name)
        findings += [f"{explained(kind, one, called)[1]}; it was left out" for one in problems]
        _leave_out(own, problems)


def _can_be_left_out(problem: ErrorDetails) -> bool:
    if not problem["loc"] or problem["loc"][0] not in _LISTS or problem["type"] == "extra_forbidden":
        return False
    return len(problem["loc"]) > 1 or problem["type"] == "too_long"


def _leave_out(own: dict[str, Any], problems: list[ErrorDetails]) -> None:
    """Without the members of lists that are at fault, the alias of a probe or the probe, or that are too many."""
    for field in {str(one["loc"][0]) for one in problems if len(one["loc"]) == 1}:
        own[field] = own[field][:PROBES]
    problems = [one for one in problems if len(one["loc"]) > 1]
    for field, place in sorted({(str(one["loc"][0]), int(one["loc"][1])) for one in problems}, reverse=True):
        inner = [one["loc"] for one in problems if one["loc"][:2] == (field, place)]
        if all(len(loc) == 4 for loc in inner):
            for _, _, name, at in sorted(inner, reverse=True):
                del own[field][place][name][at]
        else:
            del own[field][place]
