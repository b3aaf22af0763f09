"""Facts that live: one taken out, some said anew, and how far batches are from the line made anew.

    python -m tests.benchmarks.live order   --data counterfact_dev.parquet --edits 50 200
    python -m tests.benchmarks.live retract --data counterfact_dev.parquet --edits 200 --facts 5
    python -m tests.benchmarks.live replace --data counterfact_dev.parquet --edits 30 --facts 5 --text FILE
    python -m tests.benchmarks.live curve   --data counterfact_dev.parquet --edits 10 50 --text wikitext2_valid.parquet

Values are searched once and cached, so that the runs share them. `retract` builds the line that never held the fact in
a process of its own, in another order. `-o NAME=VALUE` sets an option of the method.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch

from editing.edit import Edit
from editing.measure.fluency import generate
from editing.measure.metrics import summarise
from editing.methods.standing import relative_drift
from flows.benchmark import read_benchmark, write_together
from flows.cli.app import method_options
from tasks.parquet import read_text
from tasks.update.ability import base_divergence
from tasks.update.roots import stand_on_base
from tasks.update.run import spread_sample
from tasks.update.session import Session
from tasks.update.values import base_states, known_by, standing_after, standing_of
from tests.benchmarks.sequence import BATCH, open_method, write_batch

SAID_TOKENS, CONTROLS = 5, 20
NEIGHBORS, TEXT_TOKENS = 5, 2048
OTHERS, ASKED_ANEW = 4, 60
"""Answers that a fact is given in turn, the last of them at the end; facts of which neighbors are asked."""


def root(session: Session, edits: Sequence[Edit]) -> float:
    """Write these facts together from the base; seconds of processor time, with values from the cache."""
    z_star = session.values(edits)
    started = time.process_time()
    write_together(session, edits, z_star)
    return time.process_time() - started


def batches(session: Session, edits: Sequence[Edit], written: Sequence[Edit] = ()) -> None:
    """Write these facts in batches of ten, after those that are written."""
    for start in range(0, len(edits), BATCH):
        some = edits[start : start + BATCH]
        write_batch(session, some, cached=True, keep=True, live=[*written, *edits[:start]])


def says(session: Session, prompts: Sequence[str]) -> list[str]:
    return generate(session.loaded.model, session.loaded.tokenizer, prompts, SAID_TOKENS)


def takes(session: Session, edits: Sequence[Edit]) -> dict[str, bool]:
    bare = [edit.model_copy(update={"paraphrases": (), "neighborhood": (), "portability": ()}) for edit in edits]
    return {one.edit_id: bool(one.efficacy_prob) for one in session.scores(bare)}


def order(session: Session, edits: Sequence[Edit], sizes: Sequence[int]) -> None:
    """How far batches in sequence are from the root of the same facts."""
    for size in sizes:
        some = edits[:size]
        stand_on_base(session)
        batches(session, some)
        names = sorted(session.weights.base)
        grown = {name: session.weights.change(name).clone() for name in names}
        said, took = says(session, [edit.text for edit in some]), takes(session, some)
        seconds = root(session, some)
        far = [float((grown[name] - (now := session.weights.change(name))).norm() / now.norm()) for name in names]
        other, now = says(session, [edit.text for edit in some]), takes(session, some)
        new = [
            [text.strip().startswith(edit.target_new) for edit, text in zip(some, texts, strict=True)]
            for texts in (said, other)
        ]
        differ = sum(one != two for one, two in zip(said, other, strict=True))
        anew = sum(one != two for one, two in zip(*new, strict=True))
        z_base, values = base_states(session, some), session.values(some)
        standing_after(session, known_by(session, some), (values, z_base), some)
        started = time.process_time()
        standing = standing_of(session, some)
        measured = time.process_time() - started
        missing = torch.tensor([one.missing for one in standing.values()])
        print(
            f"{size} facts: root in {seconds:.1f} s of processor time; updates apart by "
            f"{', '.join(f'{x:.3f}' for x in far)} of the root's, layer by layer; the new answer is said by "
            f"{sum(new[0])} in batches and {sum(new[1])} in the root, {anew} differ in that, {differ} in "
            f"{SAID_TOKENS} tokens; more probable than the old one at {sum(took.values())} and {sum(now.values())}; "
            f"missing of a correction: median {missing.median():.3f}, 99 % {missing.quantile(0.99):.3f}, measured in "
            f"{measured:.1f} s"
        )


def curve(
    session: Session, edits: Sequence[Edit], sizes: Sequence[int], texts: Sequence[str], *, together: bool, asked: int
) -> None:
    """Batches of ten, or at each size all of them `together`; all facts so far, or `asked` of them, evenly spread, are
    asked again there, with NEIGHBORS neighbors each. The last two columns: seconds of processor time a fact, and most
    memory so far in GiB."""
    chosen = {size: spread_sample(edits[:size], asked) for size in sizes}
    before = session.base_scores([*{edit.id: edit for some in chosen.values() for edit in some}.values()], NEIGHBORS)
    base = session.base_perplexity(texts, TEXT_TOKENS)
    stand_on_base(session)
    started, spent = len(session.live), 0.0
    for size in sorted(sizes):
        begun = time.process_time()
        if together:
            root(session, edits[:size])
        else:
            batches(session, edits[started:size], edits[:started])
        started, spent = size, spent + time.process_time() - begun
        some = chosen[size]
        now = summarise(session.scores(some, before, NEIGHBORS))
        then = summarise([before[edit.id] for edit in some])
        kl = base_divergence(session, texts, TEXT_TOKENS)
        print(
            f"| {size} | {100 * now['efficacy_prob']:.1f} | {100 * now['efficacy_argmax']:.1f} | "
            f"{100 * now['generalization_prob']:.1f} | {100 * now['generalization_argmax']:.1f} | "
            f"{100 * then['locality_prob']:.1f} | {100 * (now['locality_prob'] - then['locality_prob']):+.1f} | "
            f"x{session.perplexity(texts, TEXT_TOKENS) / base:.4f} | {kl.mean:.4f} | {spent / size:.2f} | "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} |",
            flush=True,
        )


def retract(session: Session, edits: Sequence[Edit], facts: int, others: Sequence[Edit], never: Sequence[str]) -> None:
    """Take single facts out of the line, each alone."""
    root(session, edits)
    held = takes(session, edits)
    chosen = random.Random(0).sample(list(edits), facts)
    seconds, kept, changed, controls, same = [], [], [], [], []
    for fact in chosen:
        staying = [edit for edit in edits if edit.id != fact.id]
        seconds.append(root(session, staying))
        found = session.weights.digests()
        now = takes(session, staying)
        kept.append(fmean(now[edit.id] for edit in staying if held[edit.id]))
        like = [edit for edit in others if edit.prompt == fact.prompt][:CONTROLS]
        asked, control = (
            [fact.text, *fact.paraphrases],
            [text for edit in like for text in (edit.text, *edit.paraphrases)],
        )
        after = says(session, [*asked, *control])
        with session.weights.at_base():
            before = says(session, [*asked, *control])
        differs = [one != two for one, two in zip(before, after, strict=True)]
        changed += differs[: len(asked)]
        controls += differs[len(asked) :]
        built = subprocess.run([*never, fact.id], capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        same.append(json.loads(built) == found)
        print(f"{fact.id}: {seconds[-1]:.1f} s, digests of a line that never held it: {same[-1]}", flush=True)
    print(
        f"{facts} of {len(edits)} facts taken out, each alone: {fmean(seconds):.1f} s; {sum(same)} of {facts} with the "
        f"digests of a line that never held it; {100 * fmean(kept):.1f} % of the others hold still; what was asked of "
        f"it differs from the base {sum(changed)} of {len(changed)} times, control questions {sum(controls)} of "
        f"{len(controls)}"
    )
    root(session, [])
    base = session.weights.base.items()
    whole = all(torch.equal(session.loaded.model.get_parameter(name), tensor) for name, tensor in base)
    print(f"all taken out: {'the base, bit for bit' if whole else 'NOT the base'}")


def replace_often(
    session: Session,
    edits: Sequence[Edit],
    facts: int,
    revisions: Sequence[int],
    pool: Sequence[Edit],
    texts: Sequence[str],
) -> None:
    """Facts said anew some times, by roots, and by writing on: to other answers of their relation, at last to one."""
    given = {edit.id: _others(edit, pool) for edit in edits[:facts]}
    rest = list(edits[facts:])
    base = session.base_perplexity(texts, TEXT_TOKENS)

    def anew(turn: int) -> list[Edit]:
        return [edit.model_copy(update={"target_new": given[edit.id][turn]}) for edit in edits[:facts]]

    def numbers(last: Sequence[Edit]) -> str:
        drift = [relative_drift(session.method_input, session.weights, layer) for layer in session.method_input.layers]
        asked = [*last[:ASKED_ANEW], *rest[:ASKED_ANEW]]
        before = session.base_scores(asked, NEIGHBORS)
        near = [
            summarise(some)["locality_prob"] for some in (session.scores(asked, before, NEIGHBORS), [*before.values()])
        ]
        held = f"others {100 * fmean(takes(session, rest).values()):.0f} %, " if rest else ""
        taken = 100 * fmean(takes(session, last).values())
        return (
            f"take {taken:.1f} %, {held}neighbors {100 * (near[0] - near[1]):+.1f}, "
            f"perplexity x{session.perplexity(texts, TEXT_TOKENS) / base:.4f}, drift {fmean(drift):.4f}"
        )

    digests = []
    for times in revisions:
        rounds = [*(anew(turn % (OTHERS - 1)) for turn in range(times - 1)), anew(OTHERS - 1)]
        for some in rounds:  # each revision makes a root
            root(session, [*rest, *some])
        digests.append(session.weights.digests())
        by_root = numbers(rounds[-1])
        stand_on_base(session)
        batches(session, list(edits))
        for some in rounds:
            batches(session, some)  # written on, as without roots
        print(f"revised {times} times: by roots {by_root}; written on {numbers(rounds[-1])}", flush=True)
    print(f"digests are the same after {', '.join(map(str, revisions))}: {all(one == digests[0] for one in digests)}")


def _others(edit: Edit, pool: Sequence[Edit]) -> list[str]:
    """Other answers to its prompt; where those are few, to prompts that share an answer with it, too, and so on."""
    asked, pairs = {edit.target_new, str(edit.target_true)}, [(one.target_new, str(one.target_true)) for one in pool]
    found = asked | {
        answer for one, pair in zip(pool, pairs, strict=True) for answer in pair if one.prompt == edit.prompt
    }
    while len(found - asked) < OTHERS:
        wider = found | {answer for pair in pairs if found.intersection(pair) for answer in pair}
        found = wider if len(wider) > len(found) else found.union(*pairs)
    return random.Random(edit.id).sample(sorted(found - asked), OTHERS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.live", description="Facts that live.")
    parser.add_argument("what", choices=["order", "retract", "replace", "curve", "never"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--edits", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--facts", type=int, default=5)
    parser.add_argument("--revisions", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--without", default="")
    parser.add_argument("--text", type=Path, help="of `curve` and `replace`: perplexity is taken on its beginning")
    parser.add_argument("-o", "--option", action="append", metavar="NAME=VALUE", help="option of the method")
    parser.add_argument("--together", action="store_true", help="`curve` of roots, as jobs end with them")
    parser.add_argument("--asked", type=int, default=10_000, help="`curve`: most facts that are asked again")
    given = parser.parse_args()
    most = max(given.edits)
    everything = read_benchmark(given.data, None, 0)
    edits, session = everything[:most], open_method("memit", method_options(given.option))
    if given.what == "curve":
        curve(session, edits, given.edits, read_text(given.text), together=given.together, asked=given.asked)
    elif given.what == "order":
        order(session, edits, given.edits)
    elif given.what == "replace":
        replace_often(session, edits, given.facts, given.revisions, everything, read_text(given.text))
    elif given.what == "retract":
        call = [sys.executable, "-m", "tests.benchmarks.live", "never", "--data", str(given.data), "--edits", str(most)]
        call += [part for option in given.option or () for part in ("-o", option)]
        retract(session, edits, given.facts, everything[most:], [*call, "--without"])
    else:
        root(session, [edit for edit in reversed(edits) if edit.id != given.without])
        print(json.dumps(session.weights.digests()))


if __name__ == "__main__":
    main()
