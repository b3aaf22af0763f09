"""A version as files that other programs read: a plain model, a LoRA adapter, or the tensors that changed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from editing.adapters.gguf import export_gguf_lora, import_gguf_lora
from editing.adapters.lora import SERVED_RANKS, LoraExport, export_lora, import_lora
from editing.adapters.plain import save_plain
from editing.adapters.rank import factored
from editing.chat import chat_of
from editing.digests import file_digest
from editing.edit import Edit
from editing.errors import UsageError
from editing.files import whole_folder
from editing.measure.said import Said, others_of_its_kind, said
from editing.models import LoadedModel
from editing.placed import tensor_of
from editing.shortage import ELSEWHERE, within_memory
from editing.streamed import save_tensors
from editing.weights import Factors, WeightUpdate, concatenate
from tasks.carrying.card import OBJECT, Asked, Made, write_card
from tasks.carrying.chosen import Chosen, Opened, choose, facts_of, opened
from tasks.ledger.events import Event
from tasks.meter import Meter
from tasks.progress import stage
from tasks.stores.batches import finished_in, unpack
from tasks.stores.manifest import members
from tasks.workplace import Workplace

Form = Literal["merged", "lora", "gguf-lora", "safetensors-diff"]
FORMS: tuple[Form, ...] = get_args(Form)
ADAPTERS = ("lora", "gguf-lora")
GGUF_FILE, CHANGED_FILE = "adapter.gguf", "changed.safetensors"
LARGEST = max(SERVED_RANKS)


@within_memory(f"write the changed tensors alone (--as safetensors-diff), or take {ELSEWHERE}")
def export(
    workplace: Workplace, line: str, form: Form, folder: Path, version: str = "champion", rank: int | None = None
) -> dict[str, Any]:
    """Write a version into a new folder, whole or not at all; returns what its card says.

    Args:
        rank: most ranks of an adapter; what exceeds it is cut, by SVD, and the facts are asked again. None: the largest
            that servers take.

    Raises:
        UsageError: the folder is not empty, the base is asked for as a change, or a rank that is none.
        DigestMismatch: the base, a stored file or a resulting tensor is not what was recorded.
        ModelError: a weight has no name in GGUF, or the base cannot be loaded.
        LedgerError: it cannot be written down who exported what.
    """
    _check_rank(form, rank)
    chosen = choose(workplace, line, version)
    if chosen.number == 0 and form != "merged":
        raise UsageError(f"{chosen.named} is the base, so there is no change to write as {form}; export it as merged")
    with whole_folder(folder) as work:
        version_opened = opened(workplace, chosen)
        facts = facts_of(workplace, chosen)
        made = _written(version_opened, chosen, (form, rank), work, facts)
        told = write_card(work, chosen, made, facts, version_opened.loaded.digest)
        # Before the folder has its name: none goes out of which the ledger knows nothing.
        workplace.ledger.append(list(_events(chosen, form, folder, file_digest(work / OBJECT), workplace.settings.who)))
        return told


def _events(chosen: Chosen, form: Form, folder: Path, digest: str, actor: str) -> Iterator[Event]:
    """One for each fact that the version holds."""
    for name in members(chosen.chain):
        yield Event(
            request_id=name,
            event="exported",
            line=chosen.line,
            version=chosen.number,
            snapshot=chosen.snapshot,
            actor=actor,
            reason=f"as {form} to {folder.absolute()}, whose {OBJECT} has sha256 {digest}",
        )


def _check_rank(form: Form, rank: int | None) -> None:
    if form not in FORMS:
        raise UsageError(f"'{form}' is no form of an export; the forms are {', '.join(FORMS)}")
    if rank is None:
        return
    if form not in ADAPTERS:
        raise UsageError(f"a rank of {rank} is for adapters ({', '.join(ADAPTERS)}), not for {form}; leave it out")
    if form == "lora" and rank not in SERVED_RANKS:
        raise UsageError(f"servers take no adapter of rank {rank}; give one of {', '.join(map(str, SERVED_RANKS))}")
    if rank < 1:
        raise UsageError(f"rank {rank} is none; give 1 or more")


def _written(
    version: Opened, chosen: Chosen, asked: tuple[Form, int | None], work: Path, facts: Mapping[str, Edit]
) -> Made:
    (form, rank), loaded = asked, version.loaded
    if form == "merged":
        with stage("writing the model"):
            save_plain(loaded, work)
        return Made(form)
    if form == "safetensors-diff":
        changed = {name: tensor_of(loaded.model, name).cpu().contiguous() for name in version.weights.base}
        with stage("writing the changed tensors"):
            save_tensors(work / CHANGED_FILE, changed, {"format": "pt", "base_digest": loaded.digest})
        return Made(form)
    update = factors_of(version)
    with Meter("weights of the adapter", len(update)) as meter:
        options: dict[str, Any] = {"max_rank": rank or LARGEST, "on_progress": meter.part(len(update))}
        if form == "lora":
            base = str(loaded.model.name_or_path or chosen.spec.model)
            done = export_lora(update, version.weights.layout, base, work, **options)
        else:
            done = export_gguf_lora(update, loaded.model, work / GGUF_FILE, **options)
    return Made(form, done.rank, done.error, _asked_again(version, chosen, done, work, facts))


def factors_of(version: Opened) -> dict[str, Factors]:
    """The change from the base as factors: those that are stored, or of a root's finished tensors their SVD."""
    batches: list[WeightUpdate] = []
    finished: set[str] = set()
    for manifest, tensors in version.stored:
        if manifest.live is not None:
            batches, finished = [], {*finished_in(tensors)}
        batches.append(unpack(tensors).update)
    found = concatenate(batches)
    with Meter("changes as factors", len(finished)) as meter:
        for name in sorted(finished):
            tell = meter.part(1)
            change = version.weights.change(name)
            if change is not None:
                found[name] = factored(change)
            tell(1, 1)
    return found


def _asked_again(
    version: Opened, chosen: Chosen, done: LoraExport, work: Path, facts: Mapping[str, Edit]
) -> Sequence[Asked]:
    """What version and adapter say to its facts, where the adapter is not the whole change."""
    if not done.error or not facts:
        return ()
    loaded, edits = version.loaded, list(facts.values())
    with Meter("facts asked again", 2 * len(edits)) as meter:
        whole = _says(chosen, loaded, edits, None, meter)
        update = (
            import_lora(work) if not (work / GGUF_FILE).exists() else import_gguf_lora(work / GGUF_FILE, loaded.model)
        )
        with version.weights.at_base():
            cut = _says(chosen, loaded, edits, update, meter)
    return [
        Asked(name, edit.text, *_texts(then, now))
        for (name, edit), then, now in zip(facts.items(), whole, cut, strict=True)
    ]


def _says(
    chosen: Chosen, loaded: LoadedModel, edits: Sequence[Edit], update: WeightUpdate | None, meter: Meter
) -> list[Said]:
    chat = chat_of(loaded.tokenizer, chosen.spec.template, chosen.spec.system)
    others = others_of_its_kind(edits)
    updates = None if update is None else [update] * len(edits)
    tell = meter.part(len(edits))
    return said(
        loaded.model, loaded.tokenizer, edits, chat, others=others, paraphrases=False, updates=updates, on_progress=tell
    )


def _texts(then: Said, now: Said) -> tuple[str, str, bool, bool]:
    """As the line is asked: in the chat where it has one."""
    before, after = (one.chat or one.prompt for one in (then, now))
    return before.text.strip(), after.text.strip(), before.right, after.right
