"""What a watch found about a line, as rows of data: every page and command prints the same ones."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.markdown import literal, table
from tasks.text import Text

Kind = Literal[
    "efficacy", "perplexity", "damaged", "queue", "lease", "run", "schedule", "worker", "aliases", "not seen"
]
Weight = Literal["breach", "late", "repaired"]
"""A breach is about what is in service; what is late concerns the work on it; what was repaired is only said."""


class Finding(BaseModel):
    """Something that is not as it should be."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    weight: Weight
    text: Text
    """One line: the thing, the value, the remedy."""
    about: str = ""
    """Which one, where there can be several of a kind."""

    @property
    def name(self) -> str:
        """The same at every watch that finds the same."""
        return f"{self.kind} {self.about}".strip()


class WatchReport(BaseModel):
    """One watch over a line."""

    model_config = ConfigDict(frozen=True)

    line: str
    version: int
    """In service when the watch began; 0: the base."""
    waiting: tuple[tuple[int, str], ...] = ()
    """Number and snapshot of each version that waits for review."""
    asked: int = 0
    """How many of the facts in service were asked."""
    numbers: dict[str, float] = {}
    findings: tuple[Finding, ...] = ()
    done: tuple[Text, ...] = ()
    """What the watch carried out: decisions made elsewhere, versions that expired."""

    @property
    def breached(self) -> bool:
        return any(finding.weight == "breach" for finding in self.findings)

    @property
    def seen(self) -> bool:
        """Whether everything could be looked at."""
        return not any(finding.kind == "not seen" for finding in self.findings)

    @property
    def in_short(self) -> str:
        serving = f"version {self.version}" if self.version else "the base"
        weights = [finding.weight for finding in self.findings]
        counts = [f"{weights.count(weight)} {weight}" for weight in dict.fromkeys(weights)]
        return f"line {self.line}, {serving} in service: {', '.join(counts) or 'all is well'}"

    def markdown(self) -> str:
        """The page of this watch; nothing in it that others wrote is markup."""
        found = [(one.weight, one.kind, one.text) for one in self.findings]
        numbers = [(name, f"{value:.4g}") for name, value in self.numbers.items()]
        parts = [
            table(["", "what", "found"], found),
            table(["measured", "value"], numbers),
            [f"- {literal(text)}" for text in self.done],
        ]
        return "\n\n".join([f"**{literal(self.in_short)}**", *("\n".join(part) for part in parts if part)])
