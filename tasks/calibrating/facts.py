"""Facts to calibrate on: what a model says alike in three wordings, by a list of relations of our own.

No benchmark is read. Of each relation the list names subjects and what may be said of them, and the model is asked
which of these it finds likeliest; where it says the same whatever the wording, it knows the fact, be it true or not.
Such a fact is changed to another answer of its relation; its neighbors are other subjects whose answers are known.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from editing.edit import Edit, Probe, filled
from editing.errors import UsageError
from editing.measure.scoring import score
from editing.models import LoadedModel

RELATIONS = Path(__file__).with_name("relations.json")
FEWEST = 4
"""Facts that tell one setting from another."""
NEIGHBORS = 3


class Relation(BaseModel):
    """What can be asked about a kind of subject: three templates, each completed by one of the answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    templates: tuple[str, str, str]
    answers: tuple[str, ...]
    subjects: tuple[str, ...]


_LIST = TypeAdapter(tuple[Relation, ...])


def read_relations(file: Path = RELATIONS) -> tuple[Relation, ...]:
    """The committed list."""
    return _LIST.validate_json(file.read_bytes())


def ask_relation(loaded: LoadedModel, relation: Relation) -> dict[str, str]:
    """What the model says of each subject that it knows: of the answers the likeliest, the same in all wordings."""
    prompts = {one: _prompts(relation, one) for one in relation.subjects}
    pairs = [(prompt, answer) for some in prompts.values() for prompt in some for answer in relation.answers]
    found = dict(zip(pairs, score(loaded.model, loaded.tokenizer, pairs), strict=True))

    def likeliest(prompt: str) -> str:
        return max(relation.answers, key=lambda answer: found[prompt, answer].logprob)

    said = {subject: set(map(likeliest, some)) for subject, some in prompts.items()}
    return {subject: answers.pop() for subject, answers in said.items() if len(answers) == 1}


def _prompts(relation: Relation, subject: str) -> tuple[str, ...]:
    """The three wordings with the subject filled in."""
    return tuple(filled(template, subject) for template in relation.templates)


def make_facts(known: Sequence[tuple[Relation, dict[str, str]]], count: int, seed: int) -> list[Edit]:
    """At most `count` changes of facts that are known, of the relations in turn.

    Raises:
        UsageError: the model knows too few of the facts that are asked.
    """
    drawn = random.Random(seed)
    able = [(relation, said) for relation, said in known if len(said) > NEIGHBORS]
    turns = [(relation, said, drawn.sample(sorted(said), len(said) // 2)) for relation, said in able]
    found: list[Edit] = []
    for place in range(max((len(subjects) for _, _, subjects in turns), default=0)):
        for relation, said, subjects in turns:
            if place < len(subjects) and len(found) < count:
                taken = set(subjects[: -(-count // len(turns))])
                found.append(_change(relation, said, subjects[place], taken, drawn))
    if len(found) < FEWEST:
        asked = sum(len(relation.subjects) for relation, _ in known)
        raise UsageError(
            f"the model says {sum(len(said) for _, said in known)} of {asked} facts alike in three wordings, which "
            f"makes {len(found)} to try on, and {FEWEST} are needed: it knows too little to be calibrated, so name "
            "layers by --option layers=[…], or leave them to the rule"
        )
    return found


def _change(relation: Relation, said: dict[str, str], subject: str, taken: set[str], drawn: random.Random) -> Edit:
    """The fact changed to another answer; neighbors that have the same one first, none of which is changed itself."""
    answer = said[subject]
    others = [one for one in sorted(said) if one not in taken]
    drawn.shuffle(others)
    near = sorted(others, key=lambda one: said[one] != answer)[:NEIGHBORS]
    _, *paraphrases = _prompts(relation, subject)
    return Edit(
        subject=subject,
        prompt=relation.templates[0],
        target_new=drawn.choice([one for one in relation.answers if one != answer]),
        target_true=answer,
        paraphrases=tuple(paraphrases),
        neighborhood=tuple(Probe(prompt=_prompts(relation, one)[0], answer=said[one]) for one in near),
    )


def told(edit: Edit) -> str:
    """A line about a fact, for whoever looks at what was tried on."""
    return f"{edit.text} … {edit.target_true} → {edit.target_new}"
