"""Text for a model of which parts were filled in: what makes it more than what somebody says."""


class Filled(str):
    """A text for a model in which special tokens may count, but not in the spans that were filled in.

    A plain str is what somebody says: special tokens in it are text. Nobody gets them by writing them.
    """

    spans: tuple[tuple[int, int], ...]
    rendered: bool
    """It is a conversation under a model's template, whatever it looks like."""

    def __new__(cls, text: str, *spans: tuple[int, int], rendered: bool = False) -> "Filled":
        made = super().__new__(cls, text)
        made.spans, made.rendered = spans, rendered
        return made

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """The text in its order, and of each piece whether it was filled in; the first and the last were not."""
        found, at = [], 0
        for start, end in self.spans:
            found += [(self[at:start], False), (self[start:end], True)]
            at = end
        return [*found, (self[at:], False)]
