"""What the demo is for: questions as a person would ask them, before and after, side by side.

The answers are kept in a file of the demo's home, so that what was said while the corrections were in service is still
there when they are taken back.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from deployments.demo.facts import Candidate, as_question, is_answer, says
from editing.edit import Edit
from editing.files import write_atomically
from editing.measure.said import CHAT_TOKENS, judged, others_of_its_kind
from editing.models import LoadedModel
from flows.cli.console import plain, say, shown_progress, table
from tasks.review.asking import ask_loaded, columns_of
from tasks.workplace import Workplace

Said = Mapping[str, Sequence[str]]
"""The answers to each question: the base's, then those of the version in service where it is another."""

NEIGHBORS = 6
"""Questions about other things that the table of before and after holds."""


@dataclass(frozen=True)
class Asked:
    """A row: what a person asks, what is true and where that stands."""

    question: str
    answer: str
    source: str
    edit: Edit | None = None
    """What was corrected; none: an unfinished sentence about something else, whose answer is to stay."""
    others: Sequence[str] = ()
    """Further answers of its kind."""

    @property
    def corrected(self) -> bool:
        return self.edit is not None

    @property
    def shown(self) -> str:
        return self.question if self.corrected else f"{self.question} …"

    def prompt(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """What the model is given."""
        return as_question(tokenizer, self.question) if self.corrected else self.question

    def is_right(self, said: str) -> bool:
        """By the judge of the job and of the report."""
        if self.edit is None:
            return says(said, self.answer)
        return judged(self.edit, said, "sentence", self.others).right


def rows_of(edits: Sequence[Edit], facts: Mapping[str, Candidate]) -> list[Asked]:
    """Each true correction among the requests, then some of their neighbors, no two of one answer."""
    good = [edit for edit in edits if not facts[edit.id].shows]
    probes = {probe.answer or "": probe.prompt for edit in good for probe in edit.neighborhood}
    kinds = others_of_its_kind(good)
    return [
        *(Asked(f.question, f.target_new, f.source, e, kinds[e.id]) for e, f in ((e, facts[e.id]) for e in good)),
        *(Asked(prompt, answer, "not corrected: stays") for answer, prompt in list(probes.items())[:NEIGHBORS]),
    ]


def ask(workplace: Workplace, line: str, base: LoadedModel, rows: Sequence[Asked]) -> Said:
    """What the base says, and what the version in service says, by question."""
    columns = columns_of(workplace.store.head(line), [])
    with shown_progress():
        found = ask_loaded(workplace, base, columns, [row.prompt(base.tokenizer) for row in rows], CHAT_TOKENS)
    said = [[_first_line(text) for text in answer["answers"].values()] for answer in found]
    return dict(zip((row.question for row in rows), said, strict=True))


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
    shown = [[row.shown, *(_marked(row, text) for text in said[row.question]), _true(row)] for row in rows]
    table("before and after", ["question", "the base said", "now says", "true, by"], shown)
    right = [[row.is_right(text) for text in said[row.question]] for row in rows if row.corrected]
    stayed = [row.is_right(said[row.question][1]) for row in rows if not row.corrected]
    say(
        f"{sum(after for _, after in right)} of {len(right)} questions about what was corrected are answered rightly, "
        f"{sum(before for before, _ in right)} were before; {sum(stayed)} of {len(stayed)} about other things as before"
    )


def show_changed(rows: Sequence[Asked], then: Said, now: Said, changed: tuple[str, str], left: str) -> None:
    """Of what is asked: the base's answer, the corrected one and today's, for the two that changed; then the rest."""
    question, target = changed
    shown = [
        [q, *map(plain, then[q]), Text(plain(now[q][-1]), "green" if good else "")]
        for q, good in ((question, is_answer(now[question][-1], target)), (left, now[left][-1] == now[left][0]))
    ]
    table("what changed", ["question", "the base said", "corrected", "now says"], shown)
    rest = [row for row in rows if row.corrected and row.question not in (question, left)]
    before, after = (sum(row.is_right(said[row.question][-1]) for row in rest) for said in (then, now))
    say(f"of the other {len(rest)} questions {after} are answered rightly, {before} were before")


def show_taken_back(rows: Sequence[Asked], then: Said, now: Said) -> None:
    """The base's answers, those of the corrected model, and those after the rollback."""
    said = {row: [*then[row.question], now[row.question][-1]] for row in rows}
    shown = [[row.shown, *(_marked(row, text) for text in said[row])] for row in rows]
    table("taken back", ["question", "the base said", "corrected", "taken back"], shown)
    same = sum(texts[0] == texts[-1] for texts in said.values())
    say(f"{same} of {len(rows)} answers are those of the base again, word for word")


def _marked(row: Asked, said: str) -> Text:
    return Text(plain(said), "green" if row.is_right(said) else "")


def _true(row: Asked) -> str:
    return f"{row.answer}. {row.source}" if row.corrected else row.source
