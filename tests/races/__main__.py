"""Every race so many times, and a table: `python -m tests.races --trials 200 [--code FOLDER] [name ...]`."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.homes.release import HERE
from tests.races.trial import RACES, opened


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.races", description="Two processes, one line.")
    parser.add_argument("names", nargs="*", help=f"{', '.join(RACES)}; all without a name")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="draws other versions and delays")
    parser.add_argument("--code", type=Path, default=HERE, help="the code to race, e.g. a checkout of a release")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - RACES.keys():
        parser.error(f"unknown race {', '.join(sorted(unknown))}; choose from {', '.join(RACES)}")
    folder = Path(tempfile.mkdtemp(prefix="errata-races-"))
    good = True
    try:
        with opened(arguments.code.resolve(), folder / "track") as track:
            print(f"{'race':30} {'trials':>6} {'agree':>6} {'not':>5} {'died':>5} {'s/trial':>8}")
            for name in arguments.names or RACES:
                started = time.monotonic()
                outcome = track.run(RACES[name], arguments.trials, arguments.seed)
                good &= outcome.good
                each = (time.monotonic() - started) / max(outcome.trials, 1)
                agree = outcome.trials - outcome.disagree
                print(f"{name:30} {outcome.trials:6} {agree:6} {outcome.disagree:5} {outcome.died:5} {each:8.2f}")
                for kind, count in outcome.kinds.most_common():
                    print(f"    {count:4} x {kind}\n           {outcome.examples[kind]}")
                sys.stdout.flush()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
