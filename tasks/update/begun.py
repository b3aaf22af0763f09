"""The texts of a batch, begun in the same steps in which it is asked for its facts: a step costs hardly more for them.

They are finished where the batch does well, and left where it does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from editing.measure.fluency import FLUENCY_TOP_K, ROWS_AT_ONCE, Written, rows_of, uniform_draws, weighted_entropy
from editing.measure.said import Asked, answer_text
from editing.measure.writing import Writing
from editing.progress import OnProgress
from editing.tokens import pad_token

if TYPE_CHECKING:
    from tasks.update.session import Session

FLUENCY_SEED = 0


@dataclass(frozen=True)
class Begun:
    """Texts of one state of the weights."""

    state: int
    prompts: Sequence[str]
    tokens: int
    writing: Writing
    """Its first rows are those of the prompts."""

    def entropies(self, tokenizer: PreTrainedTokenizerBase, on_progress: OnProgress) -> dict[str, float]:
        """Of each prompt, once its text is finished."""
        total = len(self.prompts) * self.tokens
        self.writing.run(on_step=lambda done: on_progress(total - (self.writing.total - done), total))
        found = {}
        for prompt, ids in zip(self.prompts, self.writing.ids, strict=False):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            found[prompt] = weighted_entropy(prompt + text)
        return found


def begin(
    session: "Session",
    asked: Sequence[Asked],
    prompts: Sequence[str],
    tokens: int,
    on_progress: OnProgress,
) -> tuple[list[str], Begun] | None:
    """What the model says to all that is asked, greedily, and the texts after the prompts as far as they were written.

    None where there are no such prompts, or too many rows for one batch.
    """
    loaded, state = session.loaded, session.weights.state
    prompts = [one for one in dict.fromkeys(prompts) if (state, one, tokens) not in session.fluencies]
    if not prompts or len(prompts) + len(asked) > ROWS_AT_ONCE:
        return None
    texts, lengths, enough = zip(*asked, strict=True)
    rows = rows_of(
        loaded.model, loaded.tokenizer, prompts, tokens, uniform_draws(prompts, tokens, FLUENCY_SEED)
    ) + rows_of(loaded.model, loaded.tokenizer, texts, lengths, enough=enough)
    writing = Writing(loaded.model, loaded.tokenizer, rows, pad_token(loaded.tokenizer), FLUENCY_TOP_K)
    wanted, total = range(len(prompts), len(rows)), sum(lengths)
    writing.run(wanted, lambda done: on_progress(min(done, total), total))
    on_progress(total, total)
    said = [
        answer_text(loaded.tokenizer, Written([*rows[i].prompt], ids, [], len(ids) == rows[i].tokens), end)
        for i, ids, end in zip(wanted, writing.ids[len(prompts) :], enough, strict=True)
    ]
    return said, Begun(state, prompts, tokens, writing)
