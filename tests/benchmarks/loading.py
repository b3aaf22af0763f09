"""What the newest version of a line adds to the start of a server, and of a job, over loading the base.

    python -m tests.benchmarks.loading LINE

The line is one of the home that the settings name, with all its versions; a job reads the stored values as well.
"""

import argparse
import statistics
from functools import partial

from editing.layout import layout_of
from editing.models import LoadedModel
from editing.weights import EditedWeights
from tasks.base_model import loaded_base
from tasks.settings import load_settings
from tasks.stores.batches import read_each, restore_weights
from tasks.stores.manifest import Version
from tasks.stores.snapshots import SnapshotStore
from tasks.workplace import open_workplace
from tests.benchmarks.timing import timed

ROUNDS = 5


def restored(store: SnapshotStore, newest: Version, loaded: LoadedModel, *, values: bool) -> int:
    """The version's weights on its base; how many versions its chain has."""
    weights, chain = EditedWeights(loaded.model, layout_of(loaded.model)), store.chain(newest.snapshot)
    restore_weights(loaded, weights, None, read_each(chain, partial(store.tensors, values=values)))
    return len(chain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("line")
    asked = parser.parse_args()
    settings = load_settings()
    store = open_workplace(settings).store
    newest = store.version(asked.line, store.numbers(asked.line)[-1])
    times: dict[str, list[float]] = {"the base": [], "a server": [], "a job": []}
    for _ in range(ROUNDS):
        for who in ("a server", "a job"):
            seconds, loaded = timed(lambda: loaded_base(newest.manifest.base, "float32", settings))
            times["the base"].append(seconds)
            seconds, chain = timed(partial(restored, store, newest, loaded, values=who == "a job"))
            times[who].append(seconds)
    print(f"version {newest.number} of {asked.line}: {len(newest.manifest.live or ())} facts, a chain of {chain}")
    for who, found in times.items():
        print(f"    {who}: {statistics.median(found):.2f} s")


if __name__ == "__main__":
    main()
