"""What an audit found, as rows of data: the command prints the same ones that a script reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from editing.errors import ErrataError
from tasks.text import Text

Place = Literal["store", "ledger", "agreement", "MLflow"]
Weight = Literal["fault", "note"]
"""A fault is something damaged, gone, or that contradicts another; a note is what the next job or upkeep sees to."""


class Finding(BaseModel):
    """One thing that is not as it should be."""

    model_config = ConfigDict(frozen=True)

    place: Place
    weight: Weight = "fault"
    line: str = ""
    """Empty: of no line alone."""
    text: Text
    """One line: the thing, the value, the remedy."""


class Audited(BaseModel):
    """What an audit came to."""

    model_config = ConfigDict(frozen=True)

    lines: tuple[str, ...]
    looked_at: dict[str, int]
    """How many there were of each kind of thing."""
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.weight == "fault"]

    @property
    def in_short(self) -> str:
        counted = ", ".join(f"{count:,} {what}" for what, count in self.looked_at.items())
        number = len(self.faults)
        found = f"{number} fault{'s' * (number != 1)}" if number else "all is whole, and agrees"
        return f"{counted or 'nothing is stored yet'}: {found}"


@dataclass
class Findings:
    """What one audit found so far, about one place."""

    place: Place
    line: str = ""
    found: list[Finding] = field(default_factory=list)
    looked_at: dict[str, int] = field(default_factory=dict)

    def fault(self, text: str) -> None:
        self._add(text, "fault")

    def note(self, text: str) -> None:
        self._add(text, "note")

    def count(self, what: str, number: int = 1) -> None:
        """So many more of these were looked at."""
        self.looked_at[what] = self.looked_at.get(what, 0) + number

    @contextmanager
    def tried(self) -> Iterator[None]:
        """Inside, what cannot be read is a fault, and ends this part alone."""
        try:
            yield
        except (ErrataError, OSError) as error:
            self.fault(str(error))

    def _add(self, text: str, weight: Weight) -> None:
        finding = Finding(place=self.place, weight=weight, line=self.line, text=" ".join(text.split()))
        if finding not in self.found:  # one damaged manifest is met on the way from every version above it
            self.found.append(finding)
