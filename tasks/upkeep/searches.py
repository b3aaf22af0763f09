"""What killed jobs left of value searches: what was to be searched, and values that no job came back for."""

from datetime import datetime

from tasks.stores.objects import ObjectStore
from tasks.stores.searches import FOLDER
from tasks.upkeep.leftovers import Leftover, left_object


def left_by_searches(store: ObjectStore, before: datetime) -> list[Leftover]:
    """Everything of searches that was written before a moment: all of it can be found again."""
    entries = [entry for entry in store.entries(f"{FOLDER}/") if entry.written < before]
    # Answers before the values that they name: killed in between, no answer names what is gone.
    return [left_object("searched value", store, entry, before) for entry in entries]
