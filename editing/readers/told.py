"""What reading says beside the records: nothing that a record carries is left out without a word."""

from dataclasses import dataclass, field

from editing.texts import shown


@dataclass
class Told:
    """What is told of one file."""

    unused: dict[str, None] = field(default_factory=dict)
    """Fields that have no place, in the order in which they came."""
    findings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What was left out of a record, or should be looked at, by the request's id."""

    named: dict[str, int] = field(default_factory=dict)
    """Hashes of the contents that somebody gave names, by those: one name is one request, in several files, too."""
    at: int = 0
    """How far the reading is, in bytes or rows, of `size`."""
    size: int = 0

    def not_used(self, name: str) -> None:
        self.unused[name] = None

    @property
    def unused_fields(self) -> str | None:
        """A sentence; None where every field was used."""
        return f"{', '.join(f'`{shown(name)[1:-1]}`' for name in self.unused)} not used" if self.unused else None
