"""Records that are not flat: what they hold as flat facts, and why some cannot be read.

MQuAKE: Zhong et al. 2023, https://arxiv.org/abs/2305.14795; https://github.com/princeton-nlp/MQuAKE describes the form.
A record has one to four facts in `requested_rewrite`, in CounterFact's form, three wordings of one question over
several hops, of which one rightly answered is enough, and `new_single_hops`, the chain of facts that leads to its new
answer. The questions stand as portability at the record's last fact, with which all of them are written: groups `2-hop`
to `4-hop`, and `1-hop` for the chain.
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from editing.edit import PROBES, InvalidField
from editing.readers.probes import right_answers
from editing.readers.values import Fields, flat, is_none, list_of, object_of

REWRITE: Final = "requested_rewrite"
_LANGUAGE: Final = re.compile(r"[a-zA-Z]{2,3}([-_][a-zA-Z]{2,4})?")


class Fact(NamedTuple):
    """One fact of a record, flat."""

    where: str
    """Where it stands in the record; '' where it is the record."""
    fields: Fields
    more: Fields = MappingProxyType({})
    """What the record says of it beside that."""


def ripple_edits(fields: Fields) -> list[Fact]:
    raise InvalidField(
        "the record is of RippleEdits' own files, whose subjects are ids of Wikidata and whose prompts are whole "
        "sentences; read KnowEdit's repackaging of it (wiki_recent, wiki_counterfact)",
        field="edit",
    )


def counterfact(fields: Fields) -> list[Fact]:
    """A fact, and outside of it what is asked about it."""
    rewrite = object_of(fields[REWRITE], REWRITE)
    more = {name: value for name, value in fields.items() if name != REWRITE}
    if aliases := aliases_in_hops(fields, target(rewrite)):
        more["target_new_alias"] = aliases
    return [Fact(REWRITE, rewrite, more)]


def rewrites(fields: Fields) -> list[Fact]:
    """A log: what was asked for stands in it whole, beside what came of it."""
    rewrite = object_of(fields[REWRITE], REWRITE)
    return [Fact(REWRITE, rewrite, {"case_id": fields.get("case_id")})]


def mquake(fields: Fields) -> list[Fact]:
    """The facts that are edited together, the last of them with the questions."""
    found = [
        (f"{REWRITE}[{place}]", object_of(rewrite, f"{REWRITE}[{place}]"))
        for place, rewrite in enumerate(list_of(fields[REWRITE], REWRITE))
    ]
    if not found:
        raise InvalidField(f"field '{REWRITE}' is an empty list; give at least one fact", REWRITE)
    facts: list[Fact] = []
    for where, rewrite in found:
        more: dict[str, object] = {"target_new_alias": aliases_in_hops(fields, target(rewrite))}
        if len(facts) + 1 == len(found):
            more["portability"] = list(_questions(fields))[:PROBES]
        facts.append(Fact(where, rewrite, more))
    return facts


def languages(fields: Fields) -> list[Fact]:
    """The same fact in several languages, each a record of MEND's form; none where it is nothing of that."""
    if "subject" in fields or "requested_rewrite" in fields:
        return []
    found = [Fact(str(name), value) for name, value in fields.items() if isinstance(value, Mapping) and "src" in value]
    coded = all(_LANGUAGE.fullmatch(fact.where) and "alt" in fact.fields for fact in found)
    return found if coded else []


def target(rewrite: Fields) -> object:
    """CounterFact's {"str": ..., "id": ...}, or the text alone."""
    value = rewrite.get("target_new")
    return value.get("str") if isinstance(value, Mapping) else value


def aliases_in_hops(fields: Fields, new: object) -> list[Any]:
    """Other names of the new answer in a record of MQuAKE: of its last hop, or of the hop that the edit changes."""
    hops = list_of(fields.get("new_single_hops"), "new_single_hops")
    answers = [(hop.get("answer"), hop.get("answer_alias")) for hop in hops if isinstance(hop, Mapping)]
    answers.append((fields.get("new_answer"), fields.get("new_answer_alias")))
    return [alias for answer, aliases in answers if answer == new for alias in flat(aliases) if not is_none(alias)]


def _questions(fields: Fields) -> Iterator[dict[str, object]]:
    hops = [
        object_of(hop, f"new_single_hops[{place}]")
        for place, hop in enumerate(list_of(fields.get("new_single_hops"), "new_single_hops"))
    ]
    questions: list[Any] = list_of(fields.get("questions"), "questions")
    if questions:
        group = f"{len(hops)}-hop" if hops else "multi-hop"
        yield {"prompt": questions[0], "wordings": questions[1:], "group": group, **_answers(fields, "new_answer")}
    for hop in hops:
        wordings = [hop[name] for name in ("cloze", "question") if hop.get(name)]
        if wordings:
            yield {"prompt": wordings[0], "wordings": wordings[1:], "group": "1-hop", **_answers(hop, "answer")}


def _answers(fields: Mapping[str, object], name: str) -> dict[str, object]:
    return right_answers([fields.get(name), *list_of(fields.get(f"{name}_alias"), f"{name}_alias")], name)
