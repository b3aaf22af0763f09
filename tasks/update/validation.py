"""Does the model still answer as it should? What every batch is measured by, and the verdict on it.

A batch just written and a candidate as a whole are measured by the same function and judged by the same judge. What
decides is asked in the order of what it costs, and no more of a batch that failed already: its parts are asked anew.
"""

from collections.abc import Callable, Sequence
from functools import partial

from editing.edit import Edit
from editing.measure.metrics import EditScores, edit_pairs, summarise
from editing.measure.said import CHAT_TOKENS, PROMPT_TOKENS, Said, others_of_its_kind, summarise_said
from editing.weights import Undo
from tasks.meter import Meter
from tasks.report.data import Check
from tasks.update.champion import asked_after_a_batch, said_by_champion
from tasks.update.judge import MEASURES, Lost, Measured, judge, judge_neighbors
from tasks.update.measured import Served, first_asked, judged_ways, lost_at, lost_of, paired_text
from tasks.update.policy import Policy
from tasks.update.quantised_copy import Copy, ask_copy
from tasks.update.run import Reference
from tasks.update.saying import conversation, said_about
from tasks.update.screening import REQUEST_FAULTS, readable
from tasks.update.session import Session
from tasks.update.since import fallen_before, lost_since, no_longer_said, what_is_said_counts
from tasks.update.texts import fluency_prompts, measure_fluency, measure_perplexity
from tasks.update.verdicts import CandidateVerdict, Verdict, neighbors_lost
from tasks.update.wider import Wider, ask_wider

CHARACTERS_A_TOKEN = 4
ROWS_AT_ONCE = 16
"""Texts that are generated in one step of that cost."""
STEP_TOKENS = 16
"""What one more token of a few generated texts takes, in tokens of a batch: a step reads all weights."""


def validate_batch(
    session: Session,
    batch: Sequence[Edit],
    earlier: Sequence[Edit],
    reference: Reference,
    policy: Policy,
    beside: Sequence[Edit] = (),
    undo: Undo | None = None,
) -> Verdict:
    """Measure a batch that was just written, a sample of earlier facts, fluency and perplexity; judge by the policy.

    Of `beside`, earlier facts whose key is that of one of the batch, or nearly, each must still hold. `undo` takes the
    batch back: a batch answers for the earlier facts that held before it; none given: for all of them.

    It ends with what fails; what it then did not ask stands in no number. A single edit is asked all its own questions.
    A request that cannot be measured fails the batch, under its name: it raises nothing that one request can cause.
    """
    found = readable(session.loaded, batch)
    if found.rejected:
        checks = tuple(_fault(reason, request_id) for request_id, reason in found.rejected.items())
        return Verdict({}, {}, checks, failing=tuple(found.rejected))
    return _judged(session, found.accepted, earlier, reference, policy, beside, undo=undo)


def judge_candidate(
    session: Session,
    edits: Sequence[Edit],
    earlier: Sequence[Edit],
    reference: Reference,
    policy: Policy,
    served: Served | None = None,
) -> CandidateVerdict:
    """The candidate as a whole, by the judge of the batches: every fact that waits, and a sample of those in service.

    Everything is measured, whatever fails. A fact that this model can no longer be asked about is left out.
    `served`: the version in service, where there is one.
    """
    asked = readable(session.loaded, edits).accepted
    verdict = _judged(session, asked, earlier, reference, policy, whole=served or Served())
    then = {name: value for name, value in verdict.metrics.items() if name.startswith("before_")}
    numbers = {name: value for name, value in verdict.metrics.items() if name not in then}
    baseline = {name.removeprefix("before_"): value for name, value in then.items()}
    baseline |= {"perplexity": reference.perplexity, "perplexity_ratio": 1.0}
    if ratio := numbers.get("fluency_ratio"):
        baseline["fluency"] = numbers["fluency"] / ratio
    return CandidateVerdict(verdict, numbers, baseline)


def failed_verdict(error: Exception) -> Verdict:
    """The verdict on a batch that could not be searched, solved, written or measured."""
    return Verdict({}, {}, (_fault(str(error)),))


def _fault(reason: str, request_id: str | None = None) -> Check:
    return Check(measure="written", holds=False, reason=reason, request_id=request_id)


def _judged(
    session: Session,
    batch: Sequence[Edit],
    earlier: Sequence[Edit],
    reference: Reference,
    policy: Policy,
    beside: Sequence[Edit] = (),
    *,
    whole: Served | None = None,
    undo: Undo | None = None,
) -> Verdict:
    try:
        return _Validation(session, batch, earlier, reference, policy, beside, whole, undo).verdict()
    except REQUEST_FAULTS as error:
        return failed_verdict(error)


class _Validation:
    """One validation: what is asked in which order, and what it came to so far."""

    def __init__(
        self,
        session: Session,
        batch: Sequence[Edit],
        earlier: Sequence[Edit],
        reference: Reference,
        policy: Policy,
        beside: Sequence[Edit],
        whole: Served | None,
        undo: Undo | None,
    ) -> None:
        self.session, self.batch, self.reference, self.policy, self.whole = session, batch, reference, policy, whole
        self.undo, self.copy = undo, Copy()
        # Apart, since scores go by ids: the facts of a candidate are among the earlier ones, too, with less to ask.
        self.earlier = readable(session.loaded, [bare(edit) for edit in earlier]).accepted
        self.beside = readable(session.loaded, [bare(edit) for edit in beside]).accepted
        self.prompts = fluency_prompts(session, batch, policy)
        self.before = session.base_scores(batch, policy.neighborhood_probes)
        # As a person asks, where the line writes for it; of a candidate always, for whoever decides on it.
        self.chat = conversation(session) if whole else session.method_input.chat
        self.others = others_of_its_kind([*batch, *earlier, *beside])
        self.paraphrases, self.of_base = (whole is not None or one for one in asked_after_a_batch(policy))
        sizes = {"own": _tokens([bare(edit) for edit in batch]) + _tokens(self.beside), "said": self._said_tokens()}
        sizes |= {"said by the base": sizes["said"] * self.of_base, "earlier": _tokens(self.earlier)}
        sizes |= {"neighbors": _tokens(batch, policy), "perplexity": policy.perplexity_tokens}
        sizes |= {"fluency": STEP_TOKENS * policy.fluency_tokens}
        self.meter = Meter("evaluation" if whole else "validation", sum(sizes.values()))
        self.parts = {name: self.meter.part(size) for name, size in sizes.items()}
        self.metrics: dict[str, float] = {}
        self.own: list[EditScores] = []
        self.lost: dict[str, Lost] = {}
        self.once: dict[str, Lost] = {}
        self.fresh = first_asked(batch, policy.neighborhood_probes)
        self.held: dict[str, float] = {}
        self.said: dict[str, Said] = {}
        self.base_said: dict[str, Said] = {}
        self.wider = Wider()
        self.live: dict[str, float] = {}
        self.fallen: frozenset[str] = frozenset()
        self.samples: dict[str, int] = {"efficacy": len(batch)}

    def verdict(self) -> Verdict:
        with self.meter:
            for ask, measures in self._order():
                ask()
                checks = judge(self._measured(), self.policy, measures, "job" if self.whole else "batch")
                if not self.whole and any(check.fails for check in checks) and not self._must_go_on(measures):
                    break
        self.session.begun = None
        return self._verdict(checks)

    def _order(self) -> list[tuple[Callable[[], None], Sequence[str]]]:
        """What is asked, and what is judged then: by what it costs, or where nothing ends early what is said first."""
        decides: list[tuple[Callable[[], None], Sequence[str]]] = [
            (self._ask_efficacy, ("efficacy",)),
            (self._ask_said, ("efficacy",)),
        ]
        if self.whole:
            decides.reverse()
        return [*decides, (self._ask_others, ("efficacy", "retained", "retained_said")), (self._ask_texts, MEASURES)]

    def _measured(self) -> Measured:
        known = self.whole.scores if self.whole and self.lost else {}
        again = [one for one in self.own if one.edit_id in known]
        since = {one.edit_id: lost_at(one, known[one.edit_id], self.fresh[one.edit_id]) for one in again}
        paired = paired_text(self.metrics, self.reference.perplexity, self.whole) | self.copy.paired
        said = judged_ways(self.said, in_chat=self.session.method_input.chat is not None)
        champion, wider = said_by_champion(self.session, self.whole, self.batch, self.chat, self.others), self.wider
        found = self.metrics, self.lost, self.samples, self.held, said, self.base_said, since, champion
        return Measured(*found, paired | wider.paired, self.once)

    def _must_go_on(self, measures: Sequence[str]) -> bool:
        """Whether a verdict that fails already is still to have more numbers: a single edit's own ones."""
        return len(self.batch) == 1 and measures == ("efficacy",)

    def _ask_efficacy(self) -> None:
        asked = [*(bare(edit) for edit in self.batch), *self.beside]
        found = self.session.scores(asked, on_progress=self.parts["own"])
        self.own, others = found[: len(self.batch)], found[len(self.batch) :]
        self.held = {one.edit_id: one.efficacy_prob or 0.0 for one in others}
        self.held |= dict.fromkeys(self._no_longer_said([one for one in self.beside if self.held[one.id]]) or (), 0.0)
        self.metrics |= summarise(self.own)

    def _no_longer_said(self, facts: Sequence[Edit]) -> frozenset[str] | None:
        """None where that does not decide on a batch."""
        if self.undo is None or not what_is_said_counts(self.policy, self.session.method_input.chat):
            return None
        return no_longer_said(self.session, facts, self.others, self.undo)

    def _said_tokens(self) -> int:
        a_way = PROMPT_TOKENS + (CHAT_TOKENS if self.chat else 0)
        return STEP_TOKENS * a_way * max(1, len(self.batch) // ROWS_AT_ONCE) * (2 if self.whole else 1)

    def _ask_said(self) -> None:
        ask = partial(said_about, self.session, self.batch, self.chat, self.others, paraphrases=self.paraphrases)
        beside = ([] if self.whole else self.prompts), self.policy.fluency_tokens
        pairs = [pair for edit in self.batch for pair in edit_pairs(edit, ())] if self.whole else ()
        self.said = ask(on_progress=self.parts["said"], beside=beside, pairs=pairs)
        self.metrics |= summarise_said([*self.said.values()])
        if self.of_base:
            self.base_said = ask(at_base=True, on_progress=self.parts["said by the base"])
        if self.whole:
            self.copy = ask_copy(self.session, self.batch, self.before, self.policy, self.chat, self.others)

    def _ask_others(self) -> None:
        session, probes = self.session, self.policy.neighborhood_probes
        old = session.scores(self.earlier, on_progress=self.parts["earlier"])
        self.own = session.scores(self.batch, self.before, probes, self.parts["neighbors"])
        self.metrics |= summarise(self.own)
        lost = {one.edit_id for one in old if not one.efficacy_prob}
        self.fallen = fallen_before(session, [edit for edit in self.earlier if edit.id in lost], self.undo)
        answered_for = [one for one in old if one.edit_id not in self.fallen]
        self.metrics |= {f"retained_{k}": v for k, v in summarise(answered_for).items() if k.startswith("efficacy")}
        near = self.lost, self.once = lost_of(self.own, self.before, self.fresh)
        if self.undo is not None and self.earlier and any(row.fails for row in judge_neighbors(*near, self.policy)):
            near = lost_since(session, self.batch, near, self.own, self.before, probes, self.undo, self.fresh)
            self.lost, self.once = near
        self.samples["retained"] = len(answered_for)
        holding = [edit for edit in self.earlier if edit.id not in lost]
        if holding and (silenced := self._no_longer_said(holding)) is not None:
            self.metrics["retained_said"] = 1 - len(silenced) / len(holding)
            self.samples["retained_said"] = len(holding)
        self.live = {one.edit_id: one.efficacy_prob or 0.0 for one in old}

    def _ask_texts(self) -> None:
        self.metrics |= measure_perplexity(self.session, self.reference, self.policy, self.parts["perplexity"])
        self.metrics |= measure_fluency(self.session, self.prompts, self.policy, self.parts["fluency"])
        self.samples["fluency"] = len(self.prompts)
        self.meter.end()  # what follows tells itself how far it is
        self.wider = ask_wider(self.session, self.batch, self.reference, self.policy, self.chat, self.whole)
        self.metrics |= self.wider.metrics

    def _verdict(self, checks: tuple[Check, ...]) -> Verdict:
        then = summarise([self.before[edit.id] for edit in self.batch])
        then |= summarise_said([*self.base_said.values()]) | self.wider.before
        before = {f"before_{name}": value for name, value in then.items() if name in self.metrics}
        broken = [edit for edit in self.beside if not self.held.get(edit.id, 1.0)]
        guilty = {edit.id for edit in self.session.sharing(broken, self.batch)}
        guilty |= {check.request_id or "" for check in checks if check.fails and check.kind == "tripwire"}
        failing = tuple(
            scores.edit_id
            for scores in self.own
            if scores.efficacy_prob == 0
            or scores.edit_id in guilty
            or self.lost.get(scores.edit_id, Lost()).exceeds(self.policy.max_edit_locality_drop)
        )
        numbers = {one.edit_id: one.numbers() for one in self.own}
        for edit_id, said in self.said.items():
            numbers[edit_id] |= summarise_said([said]) | self.wider.probes.get(edit_id, {})
        return Verdict(
            self.metrics | before,
            numbers,
            checks,
            failing,
            self.own,
            self.said,
            self.base_said,
            {
                edit.id: neighbors_lost(edit, scores, self.before[edit.id], self.session.loaded.tokenizer)
                for edit, scores in zip(self.batch, self.own, strict=True)
            },
            self.live,
            self.fallen,
            self.copy.numbers,
        )


def _tokens(edits: Sequence[Edit], policy: Policy | None = None) -> int:
    """About how many tokens it takes to ask these edits all that is asked about them, for the time that it takes."""
    return (
        sum(
            len(prompt)
            for edit in edits
            for prompt in (
                edit.text,
                *edit.paraphrases,
                *(probe.prompt for probe in edit.neighborhood[: policy.neighborhood_probes if policy else None]),
                *(probe.prompt for probe in edit.portability),
            )
        )
        // CHARACTERS_A_TOKEN
    )


def bare(edit: Edit) -> Edit:
    """Only the edited prompt: all that is asked about an earlier fact."""
    return edit.model_copy(update={"paraphrases": (), "neighborhood": (), "portability": ()})
