"""A listener that remembers what is noted."""

from tasks.progress import NoteKind, Silent


class Heard(Silent):
    """Notes with their kinds, in their order."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []

    def note(self, text: str, kind: NoteKind) -> None:
        self.notes.append((kind, text))
