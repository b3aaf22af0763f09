"""MQuAKE's records: facts that are edited together, and questions that are answered by way of all of them.

Zhong et al. 2023, https://arxiv.org/abs/2305.14795; https://github.com/princeton-nlp/MQuAKE describes the form. A
record has one to four facts in `requested_rewrite`, in CounterFact's form, three wordings of one question over several
hops, of which one rightly answered is enough, and `new_single_hops`, the chain of facts that leads to its new answer.
The questions stand as portability at the record's first fact: groups `2-hop` to `4-hop`, and `1-hop` for the chain.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from editing.edit import PROBES, Edit, InvalidField
from editing.readers.forms import aliases_in_hops, carried, other_spellings, question_in, target
from editing.readers.names import MQUAKE, check_names
from editing.readers.probes import right_answers
from editing.readers.values import Fields, list_of, needed, object_of
from editing.request import make_request


def is_mquake(fields: Fields) -> bool:
    return isinstance(fields.get("requested_rewrite"), list)


def mquake_edits(fields: Fields, unused: set[str] | None = None) -> list[Edit]:
    """The facts of one record, the first of them with its questions.

    Raises:
        InvalidField: one line that names the field as the record calls it, the value and the remedy.
    """
    check_names(fields, MQUAKE, unused)
    rewrites = [
        (f"requested_rewrite[{place}]", object_of(rewrite, f"requested_rewrite[{place}]"))
        for place, rewrite in enumerate(list_of(fields["requested_rewrite"], "requested_rewrite"))
    ]
    if not rewrites:
        raise InvalidField("field 'requested_rewrite' is an empty list; give at least one fact", "requested_rewrite")
    edits = []
    for number, (where, rewrite) in enumerate(rewrites):
        own = _fact(fields, rewrite, where)
        if number == 0:
            own["portability"] = list(_questions(fields))[:PROBES]
        names = ("subject", "prompt", "question", "target_new", "target_true")
        edits.append(make_request(own | carried(fields), called={name: f"{where}.{name}" for name in names}))
    return edits


def _fact(record: Fields, rewrite: Fields, where: str) -> dict[str, object]:
    new, true = target(rewrite, "target_new"), target(rewrite, "target_true")
    return {
        "subject": needed(rewrite, "subject", where),
        "prompt": needed(rewrite, "prompt", where),
        "target_new": new,
        "target_true": None if true == new else true,
        "question": question_in(rewrite),
        "aliases": other_spellings(aliases_in_hops(record, new), old=true),
    }


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
