"""One request that wrecks its neighbors, at random places among good ones: is it alone kept out, and are all others in?

    python -m tests.benchmarks.poison --facts 30 --trials 20
    python -m tests.benchmarks.poison --data counterfact_dev.parquet --facts 100 --trials 20

On the small model of tests/fact_model.py, or with `--data` on the embedded one, values from the cache. The good facts
are written in batches of ten, and kept by the gates of a job. Before a batch in which a trial's place lies, the batch
is tried with the poison in it, parts and all, and undone, bit for bit: so the batches after it are those of the line
without it, and are written once for all trials.

The poison asks that its neighbors keep the answer that it changes: they are other wordings of its own prompt, which the
base answers; on the small model they are what else is known about its subject, which the large values there wreck. One
that loses less than half as many neighbors again as a request may, where it is written alone on the base, is none, and
is left out: beside others a request does a little more or less harm than alone.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from editing.edit import Edit, Probe
from editing.methods import method_config
from editing.methods.shared.history import KeyHistory
from editing.weights import Undo
from flows.benchmark import read_benchmark
from tasks.lines.specs import LineSpec
from tasks.settings import load_settings
from tasks.update.policy import Policy
from tasks.update.reference import measure_reference
from tasks.update.run import Batch, Judged, Reference, Sharing, spread_sample
from tasks.update.session import Session, open_session
from tasks.update.stages import halves, write
from tasks.update.validation import validate_batch
from tests.benchmarks.capacity import SMALL
from tests.benchmarks.sequence import BATCH, open_method
from tests.fact_model import FACTS, fact_edits, fact_model

LENIENT = Policy(
    max_perplexity_ratio=3.0, min_fluency_ratio=0.5, perplexity_tokens=512, fluency_prompts=2, fluency_tokens=12,
    neighborhood_probes=12, max_locality_drop=0.3, max_edit_locality_drop=0.3, tripwires={"said": None},
)  # fmt: skip
"""For the small model, which suffers more from each fact and may say a third thing."""

CANDIDATES = 10
"""Requests for each trial that are looked at: few models answer all wordings of a prompt."""

OF_HARM_ALONE = {"max_locality_drop": 1.0, "min_efficacy": 0.0, "tripwires": LENIENT.tripwires}
"""What a request is judged by where only what it does to its own neighbors and to perplexity counts."""


BEFORE = ("It is well known that ", "As far as I know, ")
"""A prompt after each of these asks the same."""


def poison_of(edit: Edit) -> Edit:
    """The same request, whose neighbors are other wordings of its own prompt, with the old answer."""
    others = (*edit.paraphrases, *(before + edit.text for before in BEFORE))
    probes = tuple(Probe(prompt=prompt, answer=edit.target_true) for prompt in others)
    given = {"id": f"poison of {edit.id}", "paraphrases": (), "neighborhood": probes, "portability": ()}
    return edit.model_copy(update=given)


def answered(session: Session, poisons: Sequence[Edit]) -> list[Edit]:
    """Those of whose neighbors the base prefers every answer."""
    scores = session.base_scores(poisons, None)
    return [poison for poison in poisons if scores[poison.id].locality_prob == 1.0]


def small_poisons(good: Sequence[Edit]) -> list[Edit]:
    """Facts of the small model about other subjects than the good ones, each beside all else about its subject."""
    others = [edit for edit in fact_edits(200) if edit.subject not in {one.subject for one in good}]
    found = []
    for edit in others:
        known = [fact for fact in FACTS if fact.subject == edit.subject and fact.answer != edit.target_true]
        probes = tuple(Probe(prompt=prompt, answer=fact.answer) for fact in known for prompt in fact.prompts())
        if len(known) > 1:
            found.append(edit.model_copy(update={"id": f"poison of {edit.id}", "neighborhood": probes}))
    return found


class Line:
    """A line without a ledger: what is kept and what is not, by the gates of a job."""

    def __init__(self, session: Session, policy: Policy) -> None:
        self.session, self.policy = session, policy
        self.reference: Reference = measure_reference(session, policy)
        self.live: list[Edit] = []
        self.refused: list[Edit] = []

    def take(self, batch: Batch) -> None:
        session = self.session
        written = write(session, batch, Sharing(tuple(session.sharing(batch.edits, self.live))))
        sample = spread_sample([*self.live, *batch.edits], self.policy.retained_sample)
        verdict = validate_batch(session, batch.edits, sample, self.reference, self.policy, undo=written.undo)
        if verdict.passed:
            session.remember(batch.ids, written.update)
            self.live += batch.edits
            return
        session.weights.revert(written.undo)
        if len(batch.edits) == 1:
            self.refused += batch.edits
            return
        for part in halves(Judged(batch, verdict, written)):
            self.take(part)

    def tried(self, batch: Batch) -> tuple[list[Edit], list[Edit]]:
        """What would be kept of a batch and what not; the line stands as it did."""
        session, live, refused = self.session, list(self.live), list(self.refused)
        given, names, weights = session.method_input, list(session.live), session.weights
        stands = {
            name: weights.model.get_parameter(name).data for name in map(weights.layout.weight_name, given.layers)
        }
        undo, history = Undo(stands, dict(weights.sums), weights.state, dict(weights.floor)), given.history
        session.method_input = replace(given, history=KeyHistory(
            {layer: gram.clone() for layer, gram in history.grams.items()}, dict(history.recent),
            dict(history.moments), history.count))  # fmt: skip
        self.take(batch)
        kept, lost = self.live[len(live) :], self.refused[len(refused) :]
        weights.revert(undo)
        session.method_input, session.live, self.live, self.refused = given, names, live, refused
        return kept, lost


def run(line: Line, good: Sequence[Edit], poisons: Sequence[Edit]) -> None:
    drawn, caught, whole, started = random.Random(0), 0, 0, time.process_time()
    places = [drawn.randrange(len(good) + 1) for _ in poisons]
    for number, start in enumerate(range(0, len(good), BATCH)):
        batch = list(good[start : start + BATCH])
        alone, _ = line.tried(Batch("0", tuple(batch)))
        for place, poison in zip(places, poisons, strict=True):
            if min(place // BATCH, (len(good) - 1) // BATCH) != number:
                continue
            at = place - start
            kept, lost = line.tried(Batch("0", (*batch[:at], poison, *batch[at:])))
            caught += poison in lost
            whole += {edit.id for edit in kept} == {edit.id for edit in alone}
            names = ", ".join(edit.id for edit in lost if edit is not poison) or "none"
            print(
                f"at {place}: '{poison.id}' is {'kept out' if poison in lost else 'IN'}; others out: {names}",
                flush=True,
            )
        line.take(Batch("0", tuple(batch)))
    print(
        f"{len(poisons)} trials among {len(good)} facts, of which {len(line.live)} are kept without a poison: kept out "
        f"{caught} times, and {whole} times all others in that are in without it; "
        f"{time.process_time() - started:.0f} s of processor time"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.poison", description="One bad request.")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--facts", type=int, default=30)
    parser.add_argument("--trials", type=int, default=20)
    asked = parser.parse_args()
    if asked.data is not None:
        edits = read_benchmark(asked.data, None, 0)
        session, policy = open_method("memit", {}), Policy()
    else:
        edits, settings = list({edit.subject: edit for edit in fact_edits(200)}.values()), load_settings()
        config = method_config("memit", SMALL | {"statistics_weight": 100.0})
        session, policy = (
            open_session(LineSpec(line="bench", model=str(fact_model()), config=config), settings),
            LENIENT,
        )
    good, rest = edits[: asked.facts], edits[asked.facts :]
    if asked.data is not None:
        able = answered(session, [poison_of(edit) for edit in rest[: CANDIDATES * asked.trials]])
    else:
        able = small_poisons(good)
    harm = OF_HARM_ALONE | {"max_edit_locality_drop": 1.5 * policy.max_edit_locality_drop}
    alone, poisons = Line(session, policy.model_copy(update=harm)), list[Edit]()
    for poison in able:
        if len(poisons) < asked.trials and alone.tried(Batch("0", (poison,)))[1]:
            poisons.append(poison)
    print(f"{len(poisons)} requests wreck their neighbors where each is written alone", flush=True)
    run(Line(session, policy), good, poisons)


if __name__ == "__main__":
    main()
