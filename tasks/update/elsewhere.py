"""What of a preparation other processes may do: text that is sampled, and sums of the keys of much text."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from editing.collection import Elsewhere
from editing.contexts import SampledRow
from editing.models import LoadedModel
from editing.token_rows import TokenRow

SAMPLING = "v4"
"""Changed when the text that the same seed gives changes."""
Sampling = tuple[range, int]
"""Rows of text by their numbers, sampled in one go, and how many tokens are drawn beside each of theirs."""
Rows = Callable[[int], list[SampledRow] | None]
"""The rows of the pass of that number, where somebody sampled them."""


class Shared(Protocol):
    """Who does parts of a preparation beside this process, inside the contexts that it gives."""

    def sampled(self, loaded: LoadedModel, passes: Sequence[Sampling], seed: int) -> AbstractContextManager[Rows]:
        """These passes of text are sampled."""
        ...

    def summed(
        self, loaded: LoadedModel, layers: tuple[int, ...], texts: Sequence[str | TokenRow], tokens: int
    ) -> AbstractContextManager[Elsewhere]:
        """The keys at these layers of at most so many tokens of the texts are summed."""
        ...


class Nobody:
    """No other process is there."""

    def sampled(self, loaded: LoadedModel, passes: Sequence[Sampling], seed: int) -> AbstractContextManager[Rows]:
        return nullcontext(lambda number: None)

    def summed(
        self, loaded: LoadedModel, layers: tuple[int, ...], texts: Sequence[str | TokenRow], tokens: int
    ) -> AbstractContextManager[Elsewhere]:
        return nullcontext(lambda number, sums: False)


NOBODY = Nobody()
