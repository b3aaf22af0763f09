"""A root whose facts are each written as far as they need, beside one in which all are written in full.

    python -m tests.benchmarks.even --data counterfact_dev.parquet --text wikitext2_valid.parquet --limit 100
    python -m tests.benchmarks.even --data counterfact_dev.parquet --text wikitext2_valid.parquet --template chat

A δ that is searched alone makes its fact near certain, and beside a hundred others most still are: what goes beyond
that costs neighbors and perplexity, and takes from the facts that are not said. So here δ is multiplied by a scale of
its fact's own. After a solve the mean negative log-probability of the fact's targets, at its bare prompt and in the
conversations in which it was searched, is held against `--wanted`; it falls by about e^SLOPE with each unit of scale,
which tells the next one. Values come from the cache; --weight gives other λ.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from editing.edit import Edit
from editing.measure.metrics import summarise
from editing.measure.scoring import Query, score_queries
from editing.methods import method_config
from editing.tokens import encode_in_context, pad_token, target_ids
from flows.benchmark import read_benchmark, write_together
from tasks.lines.specs import LineSpec
from tasks.parquet import read_text
from tasks.settings import load_settings
from tasks.update.ability import base_divergence
from tasks.update.roots import stand_on_base
from tasks.update.session import Session, open_session
from tasks.update.values import base_states
from tests.benchmarks.chat import WAYS, neighbors, said

SLOPE = 8.7
"""Measured with δ alone in force on the embedded model, bare prompts, between 0.5 and 1 of its length."""
STEP, LEAST, MOST = 0.8, 0.5, 1.25
"""How much of the step that SLOPE tells is taken, and the scales between which it stays."""
NEIGHBORS, TEXT_TOKENS, CONVERSATIONS = 5, 4096, 4


class Roots:
    """Facts, their values, and what is asked about them."""

    def __init__(self, session: Session, edits: Sequence[Edit], texts: Sequence[str]) -> None:
        self.session, self.edits, self.texts = session, edits, texts
        self.chat = session.method_input.chat
        self.before = session.base_scores(edits, NEIGHBORS)
        self.base, self.known = session.base_perplexity(texts, TEXT_TOKENS), self._neighbors()
        stand_on_base(session)
        z_star_nm = session.values(edits)
        self.z_nm = base_states(session, edits)
        self.delta_nm = z_star_nm - self.z_nm
        self.asked = [(i, query) for i, edit in enumerate(edits) for query in self._queries(edit)]

    def _queries(self, edit: Edit) -> list[Query]:
        given = self.session.method_input
        bare = encode_in_context(given.tokenizer, given.prefixes, 0, edit.prompt, edit.subject)
        asked = [(bare.ids, tuple(target_ids(given.tokenizer, edit.text, edit.target_new)))]
        if self.chat is not None:
            answer = tuple(self.chat.answer_ids(edit))
            asked += [(prompt.ids, answer) for prompt in self.chat.encode_all(edit)[:CONVERSATIONS]]
        return [Query((*ids, *targets[:-1]), len(ids) - 1, targets) for ids, targets in asked]

    def _neighbors(self) -> list[tuple[bool, bool]]:
        return neighbors(self.session, self.edits) if self.chat is not None else []

    def write(self, scale_n: Tensor) -> None:
        write_together(self.session, self.edits, self.z_nm + scale_n[:, None] * self.delta_nm)

    def losses(self) -> Tensor:
        """Of each fact, over all that it is asked, with the weights as they are."""
        session = self.session
        queries = [query for _, query in self.asked]
        found = score_queries(session.loaded.model, queries, pad_token(session.loaded.tokenizer))
        sums_n, counts_n = torch.zeros(len(self.edits)), torch.zeros(len(self.edits))
        for (i, _), one in zip(self.asked, found, strict=True):
            sums_n[i] -= one.mean_logprob
            counts_n[i] += 1
        return sums_n / counts_n

    def even(self, wanted: float, rounds: int) -> Tensor:
        """The scale of each fact with which all come to about the same loss; they stand written so."""
        scale_n = torch.ones(len(self.edits))
        for _ in range(rounds):
            self.write(scale_n)
            step_n = (self.losses().clamp(min=1e-3) / wanted).log() / SLOPE
            scale_n = (scale_n + STEP * step_n).clamp(LEAST, MOST)
        self.write(scale_n)
        return scale_n

    def show(self, name: str) -> None:
        session = self.session
        then, now = summarise(list(self.before.values())), summarise(session.scores(self.edits, self.before, NEIGHBORS))
        shares = ("efficacy_prob", "efficacy_argmax", "generalization_prob", "generalization_argmax")
        lost = 100 * (now["locality_prob"] - then["locality_prob"])
        cells = [name, *(f"{100 * now[share]:.1f}" for share in shares), f"{lost:+.1f}"]
        cells += [f"x{session.perplexity(self.texts, TEXT_TOKENS) / self.base:.4f}"]
        cells += [f"{base_divergence(session, self.texts, TEXT_TOKENS).mean:.4f}"]
        if self.chat is not None:
            kept = [after for (right, _), (after, _) in zip(self.known, self._neighbors(), strict=True) if right]
            cells += [f"{100 * said(session, self.edits, way)[0]:.0f}" for way in WAYS]
            cells += [f"{100 * sum(kept) / max(1, len(kept)):.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="perplexity is taken on its beginning")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--template", choices=["raw", "chat"], default="raw")
    parser.add_argument("--wanted", type=float, nargs="+", default=[0.3])
    parser.add_argument("--weight", type=float, nargs="+", default=[2600.0])
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    config = method_config("memit")
    line = LineSpec(line="bench", model="embedded", template=asked.template, config=config)
    session = open_session(line, load_settings())
    roots = Roots(session, read_benchmark(asked.data, asked.limit, 0), read_text(asked.text))
    in_chat = f" | {' | '.join(WAYS)} | neighbors in the chat" if roots.chat is not None else ""
    shown = "λ, loss | efficacy | says it | paraphrases | say it | neighborhood | perplexity | KL"
    print(f"| {shown}{in_chat} |", flush=True)
    for weight in asked.weight:
        session.config = config.model_copy(update={"statistics_weight": weight})
        roots.write(torch.ones(len(roots.edits)))
        roots.show(f"{weight:g}, in full")
        for wanted in asked.wanted:
            scale_n = roots.even(wanted, asked.rounds)
            roots.show(f"{weight:g}, {wanted:g} by {float(scale_n.mean()):.2f} of δ")


if __name__ == "__main__":
    main()
