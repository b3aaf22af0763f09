"""A version of a line, loaded to answer: base and snapshot, every digest checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from editing.chat import ChatTemplate
from editing.filled import Filled
from editing.layout import layout_of
from editing.measure.fluency import generate
from editing.models import LoadedModel
from editing.weights import EditedWeights
from tasks.base_model import loaded_base
from tasks.lines.stored import stored_line
from tasks.serving.messages import Message
from tasks.settings import Settings, load_settings
from tasks.stores.batches import read_each, restore_weights
from tasks.stores.errors import DigestMismatch, RecordError
from tasks.stores.opening import open_store
from tasks.stores.snapshots import SnapshotStore

DEFAULT_NEW_TOKENS = 32


@dataclass(frozen=True)
class Answerer:
    """A plain model that answers prompts greedily, or in its chat."""

    loaded: LoadedModel
    system: str | None = None
    """The message of conversations that have none of their own; None: what the template says by itself."""

    def answer(self, prompts: Sequence[str], max_new_tokens: int = DEFAULT_NEW_TOKENS) -> list[str]:
        """What it writes after each prompt; one that is a conversation already is read as one."""
        return self._write([Filled(prompt) for prompt in prompts], max_new_tokens)

    def converse(
        self, conversations: Sequence[Sequence[Message]], max_new_tokens: int = DEFAULT_NEW_TOKENS
    ) -> list[str]:
        """What it answers in each conversation, under its own template.

        Raises:
            ModelError: it has no template.
            InvalidEdit: the template takes no such conversation, or it is longer than the model reads.
        """
        chat = ChatTemplate(self.loaded.tokenizer, self.system)
        return self._write([chat.conversation(messages) for messages in conversations], max_new_tokens)

    def _write(self, prompts: Sequence[Filled], max_new_tokens: int) -> list[str]:
        return generate(self.loaded.model, self.loaded.tokenizer, prompts, max_new_tokens)


def load_version(pointer: Mapping[str, Any], settings: Settings | None = None) -> Answerer:
    """The model that a pointer names: its base, loaded and checked, with the snapshot's chain applied.

    Raises:
        DigestMismatch: the base, a stored file or a resulting tensor is not what was recorded.
        RecordError: it names another version than it says.
    """
    used = settings or load_settings()
    store = SnapshotStore(open_store(pointer["store_uri"], endpoint_url=pointer.get("endpoint_url")))
    chain = store.chain(pointer["snapshot"])
    named = (chain[-1].line, chain[-1].version)
    if named != (pointer["line"], pointer["version"]):
        raise RecordError(
            f"what was registered as version {pointer['version']} of line '{pointer['line']}' points to version "
            f"{named[1]} of line '{named[0]}': register it anew, `errata watch {pointer['line']}` does"
        )
    dtype = str(pointer.get("dtype") or "float32")
    loaded = loaded_base(pointer["base"], dtype, used)
    _check_digest(loaded, pointer["base_digest"], pointer["line"], pointer["version"])
    weights = EditedWeights(loaded.model, layout_of(loaded.model))
    restore_weights(loaded, weights, None, read_each(chain, partial(store.tensors, values=False)))
    # Of the store, not of the pointer: MLflow shows that to every reader.
    line = stored_line(store.store, pointer["line"])
    return Answerer(loaded, line.system if line else None)


def check_base(loaded: LoadedModel, store: SnapshotStore, line: str) -> None:
    """Raises DigestMismatch where the base is not the one that the line's versions were made on."""
    if numbers := store.numbers(line):
        manifest = store.version(line, numbers[-1]).manifest
        _check_digest(loaded, manifest.base_digest, line, manifest.version)


def _check_digest(loaded: LoadedModel, digest: str, line: str, version: int) -> None:
    if loaded.digest != digest:
        raise DigestMismatch(
            f"base '{loaded.reference}' has digest {loaded.digest[:12]}, version {version} of line '{line}' needs "
            f"{digest[:12]}; put the base back as it was"
        )
