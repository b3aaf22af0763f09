"""The version in service, asked what the candidate will be asked, as far as the policy compares them."""

from collections.abc import Iterable, Mapping, Sequence

from editing.chat import ChatTemplate
from editing.edit import Edit
from editing.measure.metrics import EditScores
from editing.measure.said import Said, judge_said, questions
from tasks.progress import stage
from tasks.update.ability import answers
from tasks.update.gates import Levels, applies
from tasks.update.measured import Served, blocks_of
from tasks.update.policy import Policy
from tasks.update.run import Reference
from tasks.update.saying import conversation, say
from tasks.update.session import Session
from tasks.update.wider import champion_probes, right_answers

SAID = ("said", "said_paraphrases", "said_chat", "old_chat")


def measure_served(
    session: Session, edits: Sequence[Edit], scores: Iterable[EditScores], reference: Reference, policy: Policy
) -> Served:
    """The version in service stands in the weights; `scores`: what it says to the metrics' questions."""
    levels, chat = policy.levels, conversation(session)
    texts = {}
    if any(compares(levels, name) for name in SAID):
        asked = [(one.text, one.tokens) for one in questions(session.loaded.tokenizer, edits, chat)]
        with stage("what the version in service says") as tell:
            said = say(session, [(*one, None) for one in asked], tell)
            texts = dict(zip(asked, said, strict=True))
    ability = {}
    if compares(levels, "ability"):
        ability = {one.name: right_answers(one, answers(session, one)) for one in reference.sets}
    probes = champion_probes(session, edits, reference, policy, chat) if compares(levels, "probes") else {}
    blocks: tuple[float, ...] = ()
    if compares(levels, "perplexity"):
        blocks = blocks_of(session.perplexity(reference.texts, policy.perplexity_tokens))
    return Served({one.edit_id: one for one in scores}, blocks, texts, ability, probes)


def compares(levels: Levels, name: str) -> bool:
    """Whether a level is held against the version in service."""
    level = getattr(levels, name)
    return level is not None and level.worse_than_champion is not None


def asked_after_a_batch(policy: Policy) -> tuple[bool, bool]:
    """Whether a gate wants the paraphrases said, and whether one wants to know what the base says, after each batch."""
    wire, levels = policy.tripwires.said_paraphrases, policy.levels
    at_batch = {
        name: level for name in SAID if (level := getattr(levels, name)) is not None and applies(level.when, "batch")
    }
    paraphrases = "said_paraphrases" in at_batch or (wire is not None and applies(wire.when, "batch"))
    return paraphrases, any(level.worse_than_base is not None for level in at_batch.values())


def said_by_champion(
    session: Session,
    served: Served | None,
    edits: Sequence[Edit],
    chat: ChatTemplate | None,
    others: Mapping[str, Sequence[str]],
) -> dict[str, Said] | None:
    """What the version in service says about these facts, judged as the candidate is; those that it was not asked about
    are left out. None where it was asked about nothing."""
    if served is None or not served.texts:
        return None
    known = []
    for edit in edits:
        asked = questions(session.loaded.tokenizer, [edit], chat)
        if all((one.text, one.tokens) in served.texts for one in asked):
            known.append(edit)
    asked = questions(session.loaded.tokenizer, known, chat)
    texts = [served.texts[one.text, one.tokens] for one in asked]
    return {one.edit_id: one for one in judge_said(known, asked, texts, others)}
