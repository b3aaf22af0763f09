"""What the demo's second act changes: a fact that changed again is replaced, another is taken out."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from editing.edit import Edit
from flows.cli import requests, retracting
from tasks.ledger.removals import WRITTEN, removals_of
from tasks.ledger.table import Ledger

REASON = "the demo takes it out"
NEXT = "-next"
"""Ends the id of the request that replaces a fact."""


@dataclass(frozen=True)
class Changes:
    """One fact that is replaced, by which answer, and one that leaves."""

    replaced: Edit
    target: str
    leaves: Edit

    def commands(self, line: str) -> str:
        """What a person types for it, a line each."""
        fact = self.replaced
        named = {"subject": fact.subject, "prompt": fact.prompt, "target": self.target, "line": line}
        submit = " ".join(f"--{name} {shlex.quote(value)}" for name, value in named.items())
        reason = shlex.quote(REASON)
        return f"errata submit {submit}\nerrata retract {shlex.quote(self.leaves.id)} --line {line} --reason {reason}"


def changes_of(ledger: Ledger, line: str, edits: Sequence[Edit], targets: Mapping[str, str]) -> Changes | None:
    """The first fact of `targets`, and the last of the others, that are or were in service; None without such.

    They are read from the ledger, where they are the same ones before and after they have changed.
    """
    states = ledger.states(line)
    served = {e.id: e for e in edits if e.id in states and states[e.id].state in WRITTEN | {"superseded", "retracted"}}
    replaced = next((served[name] for name in targets if name in served), None)
    if replaced is None or len(served) == 1:
        return None
    leaves = next(edit for edit in reversed(served.values()) if edit is not replaced)
    return Changes(replaced, targets[replaced.id], leaves)


def ask_for(changes: Changes, ledger: Ledger, line: str) -> None:
    """Queue both; what is asked for already is not asked for again."""
    fact = changes.replaced
    requests.submit(
        line=line,
        subject=fact.subject,
        prompt=fact.prompt,
        target=changes.target,
        paraphrase=list(fact.paraphrases),
        question=fact.question,
        neighbor=[f"{probe.prompt} => {probe.answer}" for probe in fact.neighborhood],
        request_id=f"{fact.id}{NEXT}",
    )
    if not removals_of(ledger, line, changes.leaves.id):
        retracting.retract([changes.leaves.id], line, reason=REASON)
