"""What a data set asks beside a fact, as probes: prompt, right answers, and what the set calls their kind."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from editing.edit import ID_LENGTH, PROBES, TARGET_LENGTH, InvalidField, Probe
from editing.places import SLOT, whole
from editing.readers.names import ALIKE
from editing.readers.told import Told
from editing.readers.values import (
    Fields,
    Unusable,
    all_texts,
    first,
    flat,
    further,
    is_list,
    is_none,
    is_placeholder,
    paired,
    text_of,
    wrong,
)
from editing.texts import shown

OWN: Final = frozenset(Probe.model_fields)
ASKED: Final = ("prompt", "loc", "question", "New Question")
"""How the sets call what is asked."""
ANSWERED: Final = ("ground_truth", "answer", "loc_ans", "New Answer")
"""And its answer."""
ANSWERED_TOO: Final = ("answers", "target", "target_new", "ans")
"""The same, where none of those is there."""
_KNOWN: Final = OWN | {*ASKED, *ANSWERED, "type"}
_PLAIN: Final = {"prompt", "answer"}
# zsRE's questions for locality come from Natural Questions and still carry the tag of a T5 training mixture.
NQ_TAG: Final = "nq question: "


def probes_in(value: Any, name: str, told: Told, findings: list[str]) -> Iterator[dict[str, object]]:
    """The probes of a list, of an object of groups, or of one probe; each a text, or an object with its answer.

    Args:
        findings: takes a sentence for each that nothing can be made of.

    Raises:
        InvalidField: which answer is of which prompt cannot be told, or it is nothing of that.
    """
    if value is None:
        return
    for where, group, member in _members(value, name):
        if is_none(member) or member == {}:
            continue
        if _is_plain(member):
            yield dict(member)
            continue
        try:
            yield from list(_probes(member, where, group, told))
        except Unusable as error:
            findings.append(f"{error}; it was left out")


def _is_plain(member: Any) -> bool:
    """Whether Errata itself would write it so."""
    if (
        not isinstance(member, dict)
        or not member.keys() <= _PLAIN
        or any(type(one) is not str for one in member.values())
    ):
        return False
    return not is_placeholder(member.get("answer", "")) and not member.get("prompt", "").startswith(NQ_TAG)


def probes_of(prompts: Any, answers: Any, names: tuple[str, str]) -> Iterator[dict[str, object]]:
    """Those of two fields, which are paired."""
    for prompt, answer in paired(prompts, answers, names):
        if not is_none(prompt):
            yield {"prompt": _asked(prompt, names[0]), **right_answers(answer, names[1])}


def _asked(prompt: Any, name: str) -> str | None:
    asked = text_of(prompt, name)
    return None if asked is None else asked.removeprefix(NQ_TAG)


def _probes(member: Any, where: str, group: str | None, told: Told) -> Iterator[dict[str, object]]:
    if not isinstance(member, Mapping):
        yield {"prompt": text_of(member, where)}
        return
    kind = _sound(group or member.get("group") or member.get("type"), ID_LENGTH)
    for probe in _group(member, where, told):
        yield {**probe, "group": kind[0]} if kind else probe


def _members(value: Any, name: str) -> list[tuple[str, str | None, Any]]:
    if isinstance(value, Mapping) and not any(_is_asked(value.get(asked)) for asked in ASKED):
        found: list[tuple[str, str | None, Any]] = [
            (f"{name}.{group}", str(group), member)
            for group, given in value.items()
            for member in (given if is_list(given) else [given])
        ]
        for where, group, member in found:
            if isinstance(member, str) and not is_none(member):
                raise InvalidField(
                    f"field '{name}': whether {shown(group)} is asked and {shown(member)} the answer, or the one is a "
                    "kind and the other asked, cannot be told; write {'prompt': …, 'answer': …}",
                    where,
                )
        return found
    if isinstance(value, (Mapping, str)):
        return [(name, None, value)]
    if is_none(value):
        return []
    if not is_list(value):
        raise wrong(name, "a list", value)
    return [(f"{name}[{place}]", None, member) for place, member in enumerate(value)]


def _is_asked(value: Any) -> bool:
    return isinstance(value, str) or (is_list(value) and not any(isinstance(member, Mapping) for member in value))


def _group(member: Fields, where: str, told: Told) -> Iterator[dict[str, object]]:
    """{prompt, ground_truth}, either of which may be one text or a list; lists of equal length go together."""
    _check(member, where, told)
    asked = next((name for name in ASKED if name in member), None)
    if asked is None:
        raise InvalidField(f"{where}.prompt is missing; give it", f"{where}.prompt")
    for name in ASKED:
        if name != asked and not is_none(member.get(name)):
            told.not_used(f"{where.partition('[')[0]}.{name}")
    answered = _answered(member, where)
    names = f"{where}.{asked}", f"{where}.{answered}"
    for prompt, answer in paired(member[asked], member.get(answered), names):
        probe = {"prompt": _about(_asked(prompt, names[0]), member), **right_answers(answer, names[1])}
        more = [*_listed(probe.get("aliases")), *all_texts(member.get("aliases"), f"{where}.aliases")]
        wordings = all_texts(member.get("wordings"), f"{where}.wordings")
        yield probe | ({"aliases": more} if more else {}) | ({"wordings": wordings} if wordings else {})


def _about(asked: str | None, member: Fields) -> str | None:
    """With the subject that a probe names itself."""
    subject = member.get("subject")
    return whole(asked, subject) if asked is not None and isinstance(subject, str) else asked


def _answered(member: Fields, where: str) -> str:
    """The name under which an answer stands."""
    found = [name for name in ANSWERED if not is_none(member.get(name))]
    if not found:
        return next((name for name in ANSWERED_TOO if not is_none(member.get(name))), ANSWERED[0])
    for name in found[1:]:
        if all_texts(member[name], name) != all_texts(member[found[0]], name):
            raise InvalidField(f"{where}: '{found[0]}' and '{name}' say what its answer is, and not the same; keep one")
    return found[0]


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list) else []


def _check(member: Fields, where: str, told: Told) -> None:
    for name in member:
        if name in _KNOWN or (name in ANSWERED_TOO and name == _answered(member, where)):
            continue
        if name == "subject" and any(isinstance(one, str) and SLOT in one for one in flat(member.get("prompt"))):
            continue
        near = difflib.get_close_matches(str(name)[:100], sorted(_KNOWN), n=1, cutoff=ALIKE)
        if near and near[0] not in member:
            plain = f"{where}.{name}" if str(name).isprintable() else where
            raise InvalidField(f"{where}: unknown field {shown(name)}; did you mean '{near[0]}'?", plain)
        told.not_used(f"{where.partition('[')[0]}.{name}")


def right_answers(value: Any, name: str) -> dict[str, object]:
    """A probe's answer, the first, and the others of its list, which are as right; those of lists after it are not."""
    known = [text for text in (first(value, name), *further(value, name)) if text and not is_placeholder(text)]
    answer = known[0] if known else None
    aliases = [other for other in _sound(known[1:], TARGET_LENGTH) if answer is None or other != answer.strip()]
    return {"answer": answer} | ({"aliases": aliases[:PROBES]} if aliases else {})


def _sound(value: Any, limit: int) -> list[str]:
    """Those of one text or several that a field could hold, each once: what only helps to judge refuses no record."""
    texts = value if isinstance(value, (list, tuple)) else [value]
    stripped = [text.strip() for text in texts if isinstance(text, str)]
    return list(dict.fromkeys(text for text in stripped if text and len(text) <= limit and text.isprintable()))


def probe_from_text(text: str) -> dict[str, object]:
    prompt, _, answer = text.rpartition("=>") if "=>" in text else (text, "", "")
    return {"prompt": prompt.strip(), "answer": answer.strip() or None}
