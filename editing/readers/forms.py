"""The forms in which sets of edits are published, told apart by their fields and turned into Edit's own.

| form | told by | where it comes from |
|---|---|---|
| CounterFact | requested_rewrite | Meng et al., ROME, https://arxiv.org/abs/2202.05262 |
| zsRE (MEND) | src and alt | Mitchell et al., MEND, https://arxiv.org/abs/2110.11309 |
| EasyEdit, KnowEdit | ground_truth, rephrase_prompt, locality or one of their kin | https://arxiv.org/abs/2401.01286 |
| MQuAKE | requested_rewrite that is a list (editing.readers.mquake) | https://arxiv.org/abs/2305.14795 |
| Errata's own | none of these | the fields of Edit; in CSV, lists are written 'a | b' and probes 'prompt => answer' |
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from editing.edit import ID_LENGTH, PROBES, SLOT, TARGET_LENGTH, Edit, InvalidField, make_edit, shown

Fields = Mapping[str, object]


class Translated(NamedTuple):
    """A record in the fields of Edit, and the names that these had in the record's own form."""

    fields: dict[str, object]
    called: dict[str, str]


_EASYEDIT_MARKS: Final = frozenset(
    {"ground_truth", "rephrase_prompt", "rephrase", "locality", "locality_prompt", "locality_ground_truth"}
)
_OWN_ONLY: Final = frozenset({"target_true", "paraphrases", "neighborhood"})
# zsRE's questions for locality come from Natural Questions and still carry the tag of a T5 training mixture.
_NQ_TAG: Final = "nq question: "


def edit_from(fields: Fields) -> Edit:
    """One record of any known form as an edit.

    Raises:
        InvalidField: one line that names the edit, the field as the record calls it, the value and the remedy.
    """
    own, called = _translation(fields)(fields)
    return make_edit(own, called=called)


def _translation(fields: Fields) -> Callable[[Fields], Translated]:
    if "requested_rewrite" in fields:
        return _counterfact
    if "src" in fields and "alt" in fields:
        return _zsre
    marks = _EASYEDIT_MARKS & fields.keys()
    if isinstance(fields.get("portability"), Mapping):
        marks |= {"portability"}
    if not marks:
        return _own
    if mixed := _OWN_ONLY & fields.keys():
        # EasyEdit's extra fields are ignored, so a mixture would lose what stands in Errata's own.
        raise InvalidField(
            f"the record mixes EasyEdit's field '{min(marks)}' with Errata's '{min(mixed)}'; "
            "keep to the fields of one form",
            field=min(mixed),
        )
    return _easyedit


def _own(fields: Fields) -> Translated:
    # A table has every column in every row: null is how it says that a field is absent.
    return Translated({n: v for n, v in fields.items() if v is not None or n not in Edit.model_fields}, {})


def own_from_text(row: Mapping[str, str]) -> dict[str, object]:
    """A CSV row, in which an empty cell is an absent field and lists are written out, as plain fields."""
    fields: dict[str, object] = {name: text for name, text in row.items() if text.strip()}
    if _EASYEDIT_MARKS & row.keys() or "src" in row:
        return fields
    for name in {"paraphrases", "neighborhood", "portability"} & fields.keys():
        parts = [part.strip() for part in row[name].split("|") if part.strip()]
        fields[name] = parts if name == "paraphrases" else [_probe_from_text(part) for part in parts]
    return fields


def _probe_from_text(text: str) -> dict[str, object]:
    prompt, _, answer = text.rpartition("=>") if "=>" in text else (text, "", "")
    return {"prompt": prompt.strip(), "answer": answer.strip() or None}


def _counterfact(fields: Fields) -> Translated:
    inside = "requested_rewrite"
    rewrite = object_of(fields[inside], inside)
    true = target(rewrite, "target_true")
    own: dict[str, object] = {
        "id": _case_id(fields),
        "subject": needed(rewrite, "subject", inside),
        "prompt": needed(rewrite, "prompt", inside),
        "target_new": target(rewrite, "target_new"),
        "target_true": true,
        "paraphrases": _texts(fields, "paraphrase_prompts"),
        "neighborhood": [{"prompt": prompt, "answer": true} for prompt in _texts(fields, "neighborhood_prompts")],
    }
    called = {name: f"{inside}.{name}" for name in ("subject", "prompt", "target_new", "target_true")}
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
        "paraphrases": _texts(fields, "rephrase"),
        "neighborhood": [
            {
                "prompt": question.removeprefix(_NQ_TAG) if isinstance(question, str) else question,
                "answer": _first(fields.get("loc_ans"), "loc_ans"),
            }
            for question in _texts(fields, "loc")
        ],
    }
    called = {"prompt": "src", "target_new": "alt", "target_true": "answers"}
    return Translated(own, called | {"paraphrases": "rephrase", "neighborhood": "loc"})


def _easyedit(fields: Fields) -> Translated:
    rephrase = "rephrase" if "rephrase" in fields else "rephrase_prompt"
    ready = fields.get("prompt_template")
    prompt = "prompt_template" if isinstance(ready, str) and ready.count(SLOT) == 1 else "prompt"
    target = _first(needed(fields, "target_new"), "target_new")
    neighborhood = list(_probes(fields, "locality"))
    neighborhood += [
        {"prompt": text, "answer": _first(fields.get("locality_ground_truth"), "locality_ground_truth")}
        for text in _texts(fields, "locality_prompt")
    ]
    own: dict[str, object] = {
        "id": fields.get("id") or _case_id(fields),
        "subject": needed(fields, "subject"),
        "prompt": needed(fields, prompt),
        "target_new": target,
        "target_true": _old_answer(fields, "ground_truth", new=target),
        "paraphrases": _texts(fields, rephrase),
        "neighborhood": neighborhood,
        "portability": list(_probes(fields, "portability")),
    }
    called = {"prompt": prompt, "target_true": "ground_truth", "paraphrases": rephrase}
    return Translated(own, called | {"neighborhood": "locality" if "locality" in fields else "locality_prompt"})


def _probes(fields: Fields, name: str) -> Iterator[dict[str, object]]:
    """The probes of KnowEdit's list of typed probes, or of EasyEdit's object of groups."""
    groups = fields.get(name)
    if isinstance(groups, Mapping):
        members = [
            (f"{name}.{group}", group, member)
            for group, given in groups.items()
            for member in (given if isinstance(given, list) else [given])
        ]
    else:
        members = [(f"{name}[{place}]", None, member) for place, member in enumerate(list_of(groups, name))]
    for where, group, member in members:
        if member is not None:
            probes = _group(object_of(member, where), where)
            kind = _sound(group or member.get("type"), ID_LENGTH)
            yield from ({**probe, "group": kind[0]} if kind else probe for probe in probes)


def _group(member: Fields, where: str) -> Iterator[dict[str, object]]:
    """{prompt, ground_truth}, either of which may be one text or a list; lists of equal length go together."""
    answers = member.get("ground_truth")
    prompts = member.get("prompt")
    if not isinstance(prompts, list):
        yield {"prompt": prompts, **right_answers(answers, f"{where}.ground_truth")}
        return
    paired = isinstance(answers, list) and len(answers) == len(prompts)
    for place, prompt in enumerate(prompts):
        answer = answers[place] if isinstance(answers, list) and paired else answers
        yield {"prompt": prompt, **right_answers(answer, f"{where}.ground_truth")}


def right_answers(value: Any, name: str) -> dict[str, object]:
    """A probe's answer, the first, and the others of its list, which are as right; those of lists after it are not."""
    answer = _first(value, name)
    while isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple)):
        value = value[0]
    others = _sound(value, TARGET_LENGTH) if isinstance(value, (list, tuple)) else []
    aliases = [other for other in others if not isinstance(answer, str) or other != answer.strip()]
    return {"answer": answer} | ({"aliases": aliases[:PROBES]} if aliases else {})


def _sound(value: Any, limit: int) -> list[str]:
    """Those of one text or several that a field could hold, each once: what only helps to judge refuses no record."""
    texts = value if isinstance(value, (list, tuple)) else [value]
    stripped = [text.strip() for text in texts if isinstance(text, str)]
    return list(dict.fromkeys(text for text in stripped if text and len(text) <= limit and text.isprintable()))


def _old_answer(fields: Fields, name: str, *, new: object) -> object:
    """The first known answer; none where it is the new one, as happens in zsRE: then nothing is to be replaced."""
    old = _first(fields.get(name), name)
    same = isinstance(old, str) and isinstance(new, str) and old.strip() == new.strip()
    return None if same else old


def _first(value: Any, name: str) -> object:
    """A text, or the first of a list (of lists) of texts; None where there is none. Other types are refused later."""
    while isinstance(value, (list, tuple)):
        value = next((member for member in value if member not in (None, "", [])), None)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise _wrong(name, "a text or a list of texts", value)
    return value


def _texts(fields: Fields, name: str) -> list[Any]:
    """A field that holds one text or several, as a list without the absent ones."""
    value = fields.get(name)
    return [text for text in ([value] if isinstance(value, str) else list_of(value, name)) if text not in (None, "")]


def target(rewrite: Fields, name: str) -> object:
    """CounterFact's {"str": ..., "id": ...}, or the text alone."""
    value = rewrite.get(name)
    return value.get("str") if isinstance(value, Mapping) else value


def _case_id(fields: Fields) -> str:
    case = fields.get("case_id")
    if case is None:
        return ""
    if isinstance(case, bool) or not isinstance(case, (int, str)):
        raise _wrong("case_id", "a number or a text", case)
    return f"cf-{case}"


def needed(fields: Fields, name: str, inside: str = "") -> object:
    value = fields.get(name)
    if value is None:
        raise InvalidField(f"field '{name}' is missing; give it", field=f"{inside}.{name}" if inside else name)
    return value


def object_of(value: object, name: str) -> Fields:
    if not isinstance(value, Mapping):
        raise _wrong(name, "an object", value)
    return value


def list_of(value: object, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(name, "a list", value)
    return value


def _wrong(name: str, wanted: str, value: object) -> InvalidField:
    return InvalidField(f"field '{name}' must be {wanted}, and is {type(value).__name__} {shown(value)}", field=name)
