"""What a version is a function of, beside its facts: what the line resolved once stays as it was.

A later release may prefer other layers or sample other contexts, and another machine collects key statistics that
differ in their last bits. A line keeps the layers, contexts and kind of statistics that its first version was made
with; of statistics that come out otherwise a job says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from editing.config import LocatingConfig
from editing.covariance import text_digest
from editing.errors import UsageError
from tasks.progress import note
from tasks.stores.manifest import Manifest
from tasks.update.session import Session


def function_of(session: Session) -> dict[str, Any]:
    """Layers, contexts and key statistics as they are in this session, as JSON's own types."""
    given = session.method_input
    found: dict[str, Any] = {"layers": list(given.layers)}
    if isinstance(session.config, LocatingConfig):
        statistics = given.statistics
        found["contexts"] = list(given.prefixes)
        found["statistics"] = {
            "source": statistics.source, "tokens": statistics.tokens, "sha256": statistics.digest
        }  # fmt: skip
    return found


def stored_function(manifests: Sequence[Manifest]) -> Mapping[str, Any]:
    """What the newest of these versions that says it is a function of; empty where none does."""
    return next((one.function for one in reversed(manifests) if one.function), {})


def check_statistics(line: str, stored: Mapping[str, Any], texts: Sequence[str] | None) -> None:
    """Refuse a text for the key statistics of a line that has others.

    Raises:
        UsageError: the line has other statistics.
    """
    if texts is None or "statistics" not in stored:
        return
    was, asked = str(stored["statistics"]["source"]), f"text {text_digest(texts)}"
    if was.removesuffix(", shrunk") != asked:
        raise UsageError(
            f"line '{line}' has key statistics of {was}, --statistics-text is {asked[:17]}…; leave it out, give that "
            "text, or choose another line"
        )


def note_other_statistics(line: str, stored: Mapping[str, Any], session: Session) -> None:
    """Say so where key statistics came out otherwise than those that the line's versions were made with."""
    was, now = stored.get("statistics", {}).get("sha256"), session.method_input.statistics.digest
    if was not in (None, now):
        note(
            f"line '{line}' was made with key statistics {was[:12]}, here they come out as {now[:12]}: what is written "
            "is as good, and equal facts no longer give equal digests; where that counts, take the folder 'statistics' "
            "of the cache along from the machine that made the line",
            "warning",
        )
