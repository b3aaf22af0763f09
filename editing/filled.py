"""Text for a model of which more is known than its letters: what was filled in, and what joins it to a target."""


class Filled(str):
    """A text for a model in which special tokens may count, but not in the spans that were filled in.

    A plain str is what somebody says: special tokens in it are text. Nobody gets them by writing them.
    """

    spans: tuple[tuple[int, int], ...]
    rendered: bool
    """It is a conversation under a model's template, whatever it looks like."""
    joined_by: str | None
    """What is to join it to a target; None: what the rule of editing.taught says."""

    def __new__(
        cls, text: str, *spans: tuple[int, int], rendered: bool = False, joined_by: str | None = None
    ) -> "Filled":
        made = super().__new__(cls, text)
        made.spans, made.rendered, made.joined_by = spans, rendered, joined_by
        return made

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """The text in its order, and of each piece whether it was filled in; the first and the last were not."""
        found, at = [], 0
        for start, end in self.spans:
            found += [(self[at:start], False), (self[start:end], True)]
            at = end
        return [*found, (self[at:], False)]


class Said(str):
    """What somebody says before a target, with what is to join the two where that is not left to the rule."""

    joined_by: str | None

    def __new__(cls, text: str, joined_by: str | None) -> "Said":
        made = super().__new__(cls, text)
        made.joined_by = joined_by
        return made

    def __reduce__(self) -> tuple[type["Said"], tuple[str, str | None]]:
        return Said, (str(self), self.joined_by)
