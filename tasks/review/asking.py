"""Questions to a line: the same prompts to base, champion and challenger."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from editing.chat import chat_of
from editing.errors import UsageError
from editing.filled import Filled
from editing.measure.fluency import generate
from editing.models import LoadedModel
from tasks.base_model import loaded_base
from tasks.lines.specs import LineSpec
from tasks.meter import Meter
from tasks.stores.batches import Travelling
from tasks.stores.manifest import Head, Version
from tasks.workplace import Workplace


@dataclass(frozen=True)
class Column:
    """A state of a line that answers."""

    name: str
    snapshot: str | None
    """None: the base."""


def columns_of(head: Head | None, waiting: Sequence[Version]) -> list[Column]:
    """The base, the version in service and the newest that waits, as they were when HEAD and queue were read."""
    found = [Column("base", None)]
    if head is not None and head.snapshot is not None:
        found.append(Column(f"champion (version {head.version})", head.snapshot))
    if waiting:
        found.append(Column(f"challenger (version {waiting[-1].number})", waiting[-1].snapshot))
    return found


def ask_all(
    workplace: Workplace,
    spec: LineSpec,
    columns: Sequence[Column],
    prompts: Sequence[str],
    tokens: int,
    chat: bool | None = None,
) -> list[dict[str, Any]]:
    """Each prompt with the answers (at most `tokens` long) by column, from one model in memory.

    Args:
        chat: the prompts are what a user says in the model's chat; none, where the line's template says so.

    Raises:
        DigestMismatch: a stored file or a resulting tensor is not what was recorded.
        UsageError: there is no chat template.
    """
    base = load_base(workplace, spec)
    template = spec.template if chat is None else "chat" if chat else "raw"
    if template == "chat" and not base.tokenizer.chat_template:
        raise UsageError(f"model '{spec.model}' has no chat template; ask it with --raw")
    conversation = chat_of(base.tokenizer, template, spec.system)
    asked = [conversation.asked(prompt) if conversation else Filled(prompt) for prompt in prompts]
    rows = ask_loaded(workplace, base, columns, asked, tokens)
    return [row | {"prompt": prompt} for row, prompt in zip(rows, prompts, strict=True)]


def load_base(workplace: Workplace, spec: LineSpec) -> LoadedModel:
    """The base of a line."""
    return loaded_base(spec.model, spec.dtype, workplace.settings)


def ask_loaded(
    workplace: Workplace, base: LoadedModel, columns: Sequence[Column], prompts: Sequence[str], tokens: int
) -> list[dict[str, Any]]:
    """The same from a base that is in memory, and is the base again afterwards."""
    model = Travelling(base, workplace.store)
    answers: dict[str, list[str]] = {}
    meter = Meter("answers", len(columns) * len(prompts) * tokens)
    try:
        for column in columns:
            model.to(column.snapshot)
            part = meter.part(len(prompts) * tokens)
            answers[column.name] = generate(base.model, base.tokenizer, prompts, tokens, on_progress=part)
    finally:
        model.to_base()
        meter.end()
    return [
        {"prompt": prompt, "answers": {name: said[i].strip() for name, said in answers.items()}}
        for i, prompt in enumerate(prompts)
    ]
