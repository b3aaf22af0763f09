"""A text as it is written, handed on piece by piece: of each only what cannot change any more."""

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"
"""What a tokenizer writes for bytes that are no character yet."""


class Pieces:
    """Of one request: `hear` is told number and piece of each of its texts; together they are the whole answers.

    Args:
        hear: Is called in the thread that writes.
        stops: Texts before which an answer ends: what may be the beginning of one is held back.
        decode: What tokens say.
    """

    def __init__(
        self, hear: Callable[[int, str], None], stops: Sequence[str], decode: Callable[[Sequence[int]], str]
    ) -> None:
        self._hear, self._stops, self._decode = hear, stops, decode
        self._held_back = max(map(len, stops), default=1) - 1
        self._sent: dict[int, str] = {}

    def go_on(self, number: int, ids: Sequence[int]) -> None:
        """The text is written so far."""
        text = before(self._decode(ids), self._stops).rstrip(UNFINISHED)
        self.end(number, text[: len(text) - self._held_back])

    def end(self, number: int, text: str) -> None:
        """The text is this, to its end."""
        sent = self._sent.get(number, "")
        if len(text) > len(sent) and text.startswith(sent):
            self._sent[number] = text
            self._hear(number, text[len(sent) :])


def before(text: str, stops: Sequence[str]) -> str:
    """As far as the first of the stops, or all of it."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
