"""The facts in the weights: how much of each stands, and which are asked again in text."""

from collections.abc import Mapping
from dataclasses import replace

from editing.edit import Edit
from tasks.update.run import Taken, Written, spread_sample
from tasks.update.session import Session
from tasks.update.values import Standing, asked_first, standing_after


def stand_of(session: Session, taken: Taken, written: Written) -> Written:
    """The same with how much of every live fact's correction is missing, now that the batch is written."""
    if written.z_base is None:
        return written
    earlier, values = live_facts(session, taken), (written.z_star, written.z_base)
    return replace(written, standing=standing_after(session, written.known_by, values, written.batch.edits, earlier))


def live_sample(session: Session, taken: Taken, size: int, standing: Mapping[str, Standing]) -> list[Edit]:
    """So many of the facts in the weights, as far as the ledger still knows what they say.

    First, up to half of them, those of which less stands than when they were written; then a fixed, even sample.
    """
    live = live_facts(session, taken)
    first = asked_first(live, standing, size // 2)
    named = {edit.id for edit in first}
    return [*first, *spread_sample([edit for edit in live if edit.id not in named], size - len(first))]


def live_facts(session: Session, taken: Taken) -> list[Edit]:
    """What stands in the weights, oldest first, as far as the ledger still knows what it says."""
    return [taken.known[name] for name in session.live if name in taken.known]
