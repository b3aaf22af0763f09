"""Progress of one stage that is made of parts, each of which counts in units of its own."""

from editing.progress import OnProgress
from tasks.progress import progress


class Meter:
    """Tells how far a stage is. `total` are units that take about the same time each, such as tokens that run.

    As a context it ends with what is inside, even where that fails. `begun`: units that an earlier process did.
    """

    def __init__(self, what: str, total: int, begun: int = 0) -> None:
        self.what, self.total, self._begun, self._told = what, total, begun, begun
        progress(what, begun, total)

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def part(self, size: int) -> OnProgress:
        """For the next part, of `size` units, to tell how far it is: so much of so much, as the part counts."""
        start, self._begun = self._begun, self._begun + size

        def tell(done: int, of: int) -> None:
            self._tell(start + size * done // max(of, 1))

        return tell

    def end(self) -> None:
        """The stage is over, whatever was not needed of it."""
        self._tell(self.total)

    def _tell(self, done: int) -> None:
        # Only what is more: a part may be counted smaller than it was, and to tell of nothing would begin anew.
        if (done := min(done, self.total)) > self._told:
            self._told = done
            progress(self.what, done, self.total)
