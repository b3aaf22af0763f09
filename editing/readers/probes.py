"""What a data set asks beside a fact, as probes: prompt, right answers, and what the set calls their kind."""

from collections.abc import Iterator, Mapping
from typing import Any

from editing.edit import ID_LENGTH, PROBES, TARGET_LENGTH
from editing.readers.values import Fields, first, list_of, object_of


def probes_in(fields: Fields, name: str) -> Iterator[dict[str, object]]:
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
    answer = first(value, name)
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


def probe_from_text(text: str) -> dict[str, object]:
    prompt, _, answer = text.rpartition("=>") if "=>" in text else (text, "", "")
    return {"prompt": prompt.strip(), "answer": answer.strip() or None}
