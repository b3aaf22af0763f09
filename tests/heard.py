"""A listener that remembers what it is told."""

from tasks.progress import NoteKind, Silent


class Heard(Silent):
    """Notes with their kinds, and how far each stage was, in their order."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.told: list[tuple[str, int, int]] = []

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.notes]

    def note(self, text: str, kind: NoteKind) -> None:
        self.notes.append((kind, text))

    def progress(self, what: str, done: int, total: int) -> None:
        self.told.append((what, done, total))
