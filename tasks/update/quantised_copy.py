"""The candidate as it will be served: asked once more with weights of fewer bits."""

from collections.abc import Mapping, Sequence

from editing.chat import ChatTemplate
from editing.config import FewerBits
from editing.edit import Edit
from editing.measure.quantised import quantised
from editing.measure.said import said
from tasks.meter import Meter
from tasks.update.measured import Paired
from tasks.update.session import Session


def said_by_copy(
    session: Session,
    edits: Sequence[Edit],
    kind: FewerBits,
    chat: ChatTemplate | None,
    others: Mapping[str, Sequence[str]],
) -> dict[str, Paired]:
    """Whether each edit is said, in the chat where there is one; nothing of it is kept for other questions."""
    loaded = session.loaded
    with Meter(f"a copy in {kind}", 1) as meter, quantised(loaded.model, kind):
        tell = meter.part(1)
        found = said(loaded.model, loaded.tokenizer, edits, chat, others=others, paraphrases=False, on_progress=tell)
    now = [float((one.chat or one.prompt).right) for one in found]
    return {f"quantised.{kind}": Paired(now, of=[one.edit_id for one in found])}
