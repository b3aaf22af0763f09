"""The forms in which sets of edits are published, told apart by their fields and turned into Edit's own.

| form | told by | where it comes from |
|---|---|---|
| CounterFact | requested_rewrite | Meng et al., ROME, https://arxiv.org/abs/2202.05262 |
| zsRE (MEND) | src and alt | Mitchell et al., MEND, https://arxiv.org/abs/2110.11309 |
| EasyEdit, KnowEdit | ground_truth, rephrase_prompt, locality or one of their kin | https://arxiv.org/abs/2401.01286 |
| MQuAKE | requested_rewrite that is a list (editing.readers.mquake) | https://arxiv.org/abs/2305.14795 |
| Errata's own | none of these | Request's fields; in CSV, lists are written 'a | b' and probes 'prompt => answer' |

What a request carries besides its fact (source, ticket and so on) is read by its own names in every form.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from pydantic_core import PydanticCustomError

from editing.edit import SLOT, Edit, InvalidField, template
from editing.readers import names
from editing.readers.probes import probe_from_text, probes_in
from editing.readers.values import Fields, first, flat, list_of, needed, object_of, texts, wrong
from editing.request import CARRIED, make_request


class Translated(NamedTuple):
    """A record in the fields of Edit, and the names that these had in the record's own form."""

    fields: dict[str, object]
    called: dict[str, str]


_OWN_ONLY: Final = frozenset({"target_true", "paraphrases", "aliases", "neighborhood"})
# zsRE's questions for locality come from Natural Questions and still carry the tag of a T5 training mixture.
_NQ_TAG: Final = "nq question: "


class Form(NamedTuple):
    """How a form is read, and the names of its fields."""

    translated: Callable[[Fields], Translated]
    read: frozenset[str]


def edit_from(fields: Fields, unused: set[str] | None = None) -> Edit:
    """One record of any known form as an edit.

    Args:
        unused: takes the names of fields that nobody reads.

    Raises:
        InvalidField: one line that names the edit, the field as the record calls it, the value and the remedy.
    """
    form = _form(fields)
    names.check_names(fields, form.read, unused)
    own, called = form.translated(fields)
    return make_request(own | carried(fields), called=called)


def carried(fields: Fields) -> dict[str, object]:
    """What a record of any form says besides its fact."""
    return {name: fields[name] for name in CARRIED if fields.get(name) is not None}


def _form(fields: Fields) -> Form:
    if "requested_rewrite" in fields:
        return Form(_counterfact, names.COUNTERFACT)
    if "src" in fields and "alt" in fields:
        return Form(_zsre, names.ZSRE)
    marks = names.EASYEDIT_MARKS & fields.keys()
    if isinstance(fields.get("portability"), Mapping):
        marks |= {"portability"}
    if not marks:
        return Form(_own, names.OWN)
    if mixed := _OWN_ONLY & fields.keys():
        # EasyEdit's extra fields are ignored, so a mixture would lose what stands in Errata's own.
        raise InvalidField(
            f"the record mixes EasyEdit's field '{min(marks)}' with Errata's '{min(mixed)}'; "
            "keep to the fields of one form",
            field=min(mixed),
        )
    return Form(_easyedit, names.EASYEDIT)


def _own(fields: Fields) -> Translated:
    # A table has every column in every row: null is how it says that a field is absent.
    return Translated({name: fields[name] for name in Edit.model_fields if fields.get(name) is not None}, {})


def own_from_text(row: Mapping[str, str]) -> dict[str, object]:
    """A CSV row, in which an empty cell is an absent field and lists are written out, as plain fields."""
    fields: dict[str, object] = {name: text for name, text in row.items() if text.strip()}
    if names.EASYEDIT_MARKS & row.keys() or "src" in row:
        return fields | ({"tags": _parts(row["tags"])} if "tags" in fields else {})
    for name in {"paraphrases", "aliases", "neighborhood", "portability", "tags"} & fields.keys():
        parts = _parts(row[name])
        probes = name in ("neighborhood", "portability")
        fields[name] = [probe_from_text(part) for part in parts] if probes else parts
    return fields


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split("|") if part.strip()]


def _counterfact(fields: Fields) -> Translated:
    inside = "requested_rewrite"
    rewrite = object_of(fields[inside], inside)
    new, true = target(rewrite, "target_new"), target(rewrite, "target_true")
    own: dict[str, object] = {
        "id": _case_id(fields),
        "subject": needed(rewrite, "subject", inside),
        "prompt": needed(rewrite, "prompt", inside),
        "target_new": new,
        "target_true": true,
        "paraphrases": texts(fields, "paraphrase_prompts"),
        "question": question_in(rewrite),
        "aliases": other_spellings(aliases_in_hops(fields, new), old=true),
        "neighborhood": [{"prompt": prompt, "answer": true} for prompt in texts(fields, "neighborhood_prompts")],
    }
    called = {name: f"{inside}.{name}" for name in ("subject", "prompt", "target_new", "target_true", "question")}
    return Translated(
        own,
        called | {"id": "case_id", "paraphrases": "paraphrase_prompts", "neighborhood": "neighborhood_prompts"},
    )


def _zsre(fields: Fields) -> Translated:
    own: dict[str, object] = {
        "subject": needed(fields, "subject"),
        "prompt": needed(fields, "src"),
        "target_new": needed(fields, "alt"),
        "target_true": _old_answer(fields, "answers", new=fields["alt"]),
        "paraphrases": texts(fields, "rephrase"),
        "neighborhood": [
            {
                "prompt": question.removeprefix(_NQ_TAG) if isinstance(question, str) else question,
                "answer": first(fields.get("loc_ans"), "loc_ans"),
            }
            for question in texts(fields, "loc")
        ],
    }
    called = {"prompt": "src", "target_new": "alt", "target_true": "answers"}
    return Translated(own, called | {"paraphrases": "rephrase", "neighborhood": "loc"})


def _easyedit(fields: Fields) -> Translated:
    rephrase = "rephrase" if "rephrase" in fields else "rephrase_prompt"
    ready = fields.get("prompt_template")
    prompt = "prompt_template" if isinstance(ready, str) and ready.count(SLOT) == 1 else "prompt"
    target = first(needed(fields, "target_new"), "target_new")
    old = _old_answer(fields, "ground_truth", new=target)
    spellings = [*flat(fields["target_new"])[1:], *flat(fields.get("target_new_alias"))]
    neighborhood = list(probes_in(fields, "locality"))
    neighborhood += [
        {"prompt": text, "answer": first(fields.get("locality_ground_truth"), "locality_ground_truth")}
        for text in texts(fields, "locality_prompt")
    ]
    own: dict[str, object] = {
        "id": fields.get("id") or _case_id(fields),
        "subject": needed(fields, "subject"),
        "prompt": needed(fields, prompt),
        "target_new": target,
        "target_true": old,
        "paraphrases": texts(fields, rephrase),
        "question": question_in(fields),
        "aliases": other_spellings(spellings, old=old),
        "neighborhood": neighborhood,
        "portability": list(probes_in(fields, "portability")),
    }
    called = {"prompt": prompt, "target_true": "ground_truth", "paraphrases": rephrase, "aliases": "target_new_alias"}
    return Translated(own, called | {"neighborhood": "locality" if "locality" in fields else "locality_prompt"})


def _old_answer(fields: Fields, name: str, *, new: object) -> object:
    """The first known answer; none where it is the new one, as happens in zsRE: then nothing is to be replaced."""
    old = first(fields.get(name), name)
    same = isinstance(old, str) and isinstance(new, str) and old.strip() == new.strip()
    return None if same else old


def question_in(fields: Fields) -> object:
    """How the form asks for the fact, where that is another text than its prompt and holds the subject once."""
    question, subject = fields.get("question"), fields.get("subject")
    if not isinstance(question, str) or not isinstance(subject, str) or not subject:
        return None
    try:
        asked = template(question.strip(), subject.strip())
    except PydanticCustomError:
        return None
    return None if asked == fields.get("prompt") else asked


def aliases_in_hops(fields: Fields, new: object) -> list[Any]:
    """Other names of the new answer in a record of MQuAKE: of its last hop, or of the hop that the edit changes."""
    hops = list_of(fields.get("new_single_hops"), "new_single_hops")
    answers = [(hop.get("answer"), hop.get("answer_alias")) for hop in hops if isinstance(hop, Mapping)]
    answers.append((fields.get("new_answer"), fields.get("new_answer_alias")))
    return [alias for answer, aliases in answers if answer == new for alias in flat(aliases)]


def other_spellings(given: Iterable[Any], *, old: object) -> list[Any]:
    """Without the old answer: published lists of names hold that of another thing at times."""
    was = old.strip().casefold() if isinstance(old, str) else None
    return [alias for alias in given if not isinstance(alias, str) or alias.strip().casefold() != was]


def target(rewrite: Fields, name: str) -> object:
    """CounterFact's {"str": ..., "id": ...}, or the text alone."""
    value = rewrite.get(name)
    return value.get("str") if isinstance(value, Mapping) else value


def _case_id(fields: Fields) -> str:
    case = fields.get("case_id")
    if case is None:
        return ""
    if isinstance(case, bool) or not isinstance(case, (int, str)):
        raise wrong("case_id", "a number or a text", case)
    return f"cf-{case}"
