"""What the demo is for: questions as a person would ask them, before and after, side by side.

The answers are kept in a file of the demo's home, so that what was said while the corrections were in service is still
there when they are taken back.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from deployments.demo.facts import Candidate, says
from editing.edit import Edit, Probe
from editing.files import write_atomically
from flows.cli.console import plain, say, shown_progress, table
from tasks.workplace import Workplace

Said = Mapping[str, Sequence[str]]
"""The answers to each prompt: before, and since then."""

FORM = "Question: {}\nAnswer:"
"""How a plain language model is asked: it goes on with an answer."""
TOKENS = 8
NEIGHBORS = 6
"""Questions about other things that the table of before and after holds."""
TAKEN_BACK = 5
"""Questions that are asked once more."""


@dataclass(frozen=True)
class Asked:
    """A row: what a person sees, what the model is given, what is true and where that stands."""

    shown: str
    prompt: str
    answer: str
    source: str
    corrected: bool
    """False: about something else, whose answer is to stay."""

    def is_right(self, said: str) -> bool:
        """A person's question is answered in words of the model's own, so the answer may stand anywhere in them."""
        return says(said, self.answer) if not self.corrected else self.answer.casefold() in said.casefold()


def rows_of(edits: Sequence[Edit], facts: Mapping[str, Candidate]) -> list[Asked]:
    """Each true correction among the requests, then some of their neighbors, no two of one answer."""
    good = [facts[edit.id] for edit in edits if not facts[edit.id].shows]
    probes = {probe.answer: probe for edit in edits for probe in edit.neighborhood}
    return [*map(_row, good), *map(_neighbor, list(probes.values())[:NEIGHBORS])]


def _row(fact: Candidate) -> Asked:
    return Asked(fact.question, FORM.format(fact.question), fact.target_new, fact.source, True)


def _neighbor(probe: Probe) -> Asked:
    return Asked(f"{probe.prompt} …", probe.prompt, probe.answer or "", "not corrected: is to stay", False)


def ask(workplace: Workplace, line: str, rows: Sequence[Asked]) -> Said:
    """What the base says, and what the version in service says."""
    from tasks.lines.specs import resolve_line
    from tasks.review.asking import ask_all, columns_of

    spec = resolve_line(workplace.store.store, workplace.settings, line)
    columns = columns_of(workplace.store.head(line), [])
    with shown_progress():
        answers = ask_all(workplace, spec, columns, [row.prompt for row in rows], TOKENS)
    return {answer["prompt"]: [_first_line(text) for text in answer["answers"].values()] for answer in answers}


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]


def keep(said: Said, file: Path) -> None:
    write_atomically(file, json.dumps(said, ensure_ascii=False).encode())


def kept(file: Path) -> dict[str, list[str]]:
    """What `keep` wrote. Raises OSError or ValueError where nothing is there."""
    found: dict[str, list[str]] = json.loads(file.read_bytes())
    return found


def show_corrected(rows: Sequence[Asked], said: Said) -> None:
    """Before and after, side by side, with the source of what is true; then how many are right."""
    shown = [[row.shown, *(_marked(row, text) for text in said[row.prompt]), _true(row)] for row in rows]
    table("before and after", ["question", "the base said", "now says", "true, by"], shown)
    right = [[row.is_right(text) for text in said[row.prompt]] for row in rows if row.corrected]
    kept = [row.is_right(said[row.prompt][1]) for row in rows if not row.corrected]
    say(
        f"{sum(after for _, after in right)} of {len(right)} questions about what was corrected are answered rightly, "
        f"{sum(before for before, _ in right)} were before; {sum(kept)} of {len(kept)} about other things as before"
    )


def show_taken_back(rows: Sequence[Asked], then: Said, now: Said) -> None:
    """The base's answers, those of the corrected model, and those after the rollback."""
    shown = [[row.shown, *(_marked(row, text) for text in (*then[row.prompt], *now[row.prompt][-1:]))] for row in rows]
    table("taken back", ["question", "the base said", "corrected", "taken back"], shown)
    same = sum(then[row.prompt][0] == now[row.prompt][-1] for row in rows)
    say(f"{same} of {len(rows)} answers are those of the base again, word for word")


def _marked(row: Asked, said: str) -> Text:
    return Text(plain(said), "green" if row.is_right(said) else "")


def _true(row: Asked) -> str:
    return f"{row.answer}. {row.source}" if row.corrected else row.source
