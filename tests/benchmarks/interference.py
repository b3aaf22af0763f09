"""What facts of a chat line lose to those before them: what stands in their conversations, and what would be said.

    python -m tests.benchmarks.interference --data counterfact_dev.parquet [--limit 100] [--watched 10]

The last of the facts are watched: written alone on the base, and as the last batch after all others. Of their
conversations, in shares of |δ| with δ = z* − z at the bare prompt, by the state z of the last edited layer at the
subject's last token:

    moved      |z − z of the base|                 what the facts before them changed, before they are written
    missing    |z of the base + δ − z|             what is not written of what was searched

and in how many of them the first token said is the answer's, with the weights as they are, and where z of the base + δ
is put in by hand, so that nothing is missing. Values come from the cache, or are searched.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from editing.edit import Edit
from editing.methods import method_config
from editing.methods.encoded import conversations
from editing.methods.located import locate
from editing.tokens import EncodedPrompt
from flows.benchmark import read_benchmark
from flows.cli.app import method_options
from tasks.lines.specs import LineSpec
from tasks.settings import load_settings
from tasks.update.session import Session, open_session
from tests.benchmarks.sequence import BATCH, write_batch


@dataclass(frozen=True)
class Watched:
    """Facts, the conversations (c of each) that ask for them, δ, and z of the base + δ in each of these."""

    session: Session
    edits: Sequence[Edit]
    chats: Sequence[Sequence[EncodedPrompt]]
    delta_nm: Tensor
    wanted_cnm: Tensor

    @classmethod
    def at_base(cls, session: Session, edits: Sequence[Edit]) -> "Watched":
        return cls(session, edits, conversations(session.method_input, edits), *_located(session, edits))

    def states(self) -> Tensor:
        """z in each conversation as the weights are, (c, n, m)."""
        change_nm, wanted_cnm = _located(self.session, self.edits)
        return wanted_cnm - change_nm

    def moved(self) -> float:
        return self._far(self.wanted_cnm - self.delta_nm)

    def missing(self) -> float:
        return self._far(self.wanted_cnm)

    def _far(self, other_cnm: Tensor) -> float:
        """The mean distance of the states from others, in shares of |δ|."""
        asked_cn = self.wanted_cnm.any(2)
        return float(((self.states() - other_cnm).norm(dim=2) / self.delta_nm.norm(dim=1))[asked_cn].mean())

    @torch.no_grad()
    def said(self, by_hand: bool) -> float:
        """The share of conversations whose first token is the answer's."""
        model, tokenizer = self.session.loaded.model, self.session.loaded.tokenizer
        right = []
        for i, (edit, some) in enumerate(zip(self.edits, self.chats, strict=True)):
            for c, prompt in enumerate(some):
                hook = _put(self.session, prompt.subject_index, self.wanted_cnm[c, i]) if by_hand else None
                token = int(model(torch.tensor([prompt.ids])).logits[0, -1].argmax())
                if hook is not None:
                    hook.remove()
                word = tokenizer.decode([token]).strip()
                right.append(bool(word) and edit.target_new.startswith(word))
        return sum(right) / len(right)

    def show(self, title: str) -> None:
        print(f"{title}: missing {self.missing():.2f}, first token said {100 * self.said(False):.0f} %", flush=True)


def _located(session: Session, edits: Sequence[Edit]) -> tuple[Tensor, Tensor]:
    """What is missing at the bare prompts, (n, m), and z and as much in the conversations, (c, n, m)."""
    given = session.method_input
    z_star_nm, layer = session.values(edits), given.layers[-1]  # at the last edited layer nothing is shared out
    found = locate(given, edits, z_star_nm, layer, [{}] * len(edits))
    return found.missing_nm, found.wanted_cnm


def _put(session: Session, place: int, state_m: Tensor) -> torch.utils.hooks.RemovableHandle:
    """Exchange the hidden state behind the last edited layer at one place, of a batch of one text."""

    def hook(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        hidden = (output if isinstance(output, Tensor) else output[0]).clone()
        hidden[0, place] = state_m.to(hidden)
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    given = session.method_input
    return given.layout.layer_list(given.model)[given.layers[-1]].register_forward_hook(hook)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--watched", type=int, default=BATCH, help="how many of them, the last ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="option of the method")
    asked = parser.parse_args()
    config = method_config("memit", method_options(asked.option))
    session = open_session(LineSpec(line="bench", model="embedded", template="chat", config=config), load_settings())
    edits = read_benchmark(asked.data, asked.limit, asked.seed)
    before, last = edits[: -asked.watched], edits[-asked.watched :]
    watched = Watched.at_base(session, last)
    print(f"by hand on the base: first token said {100 * watched.said(True):.0f} %", flush=True)
    undo, _ = write_batch(session, last, True, keep=False)
    watched.show("alone on the base")
    session.weights.revert(undo)
    for start in range(0, len(before), BATCH):
        write_batch(session, before[start : start + BATCH], True, keep=True, live=before[:start])
    print(
        f"after {len(before)} others: moved {watched.moved():.2f}, by hand said {100 * watched.said(True):.0f} %",
        flush=True,
    )
    write_batch(session, last, True, keep=True, live=before)
    watched.show(f"written after {len(before)} others")
    print(f"there by hand: first token said {100 * watched.said(True):.0f} %")


if __name__ == "__main__":
    main()
