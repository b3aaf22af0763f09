"""Several facts about one subject: how many are said when all are written, and for how many subjects all of them.

    python -m tests.benchmarks.subjects --text wikitext2_valid.parquet --subjects 50

People with three new facts each are written in batches of ten, all facts of a person in one batch or the three spread
over three jobs, and beside them as many people with one fact each. All are asked at the end. What could be had: all
facts as one root, and each person's alone on the base, asked and taken back.
"""

import argparse
import random
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from editing.edit import Edit
from editing.measure.fluency import generate
from editing.measure.perplexity import perplexity
from flows.cli.app import method_options
from tasks.parquet import read_text
from tests.benchmarks.live import root
from tests.benchmarks.sequence import BATCH, open_method, write_batch

FIRST = (
    "Anna Boris Clara David Elena Felix Greta Hugo Irene Jonas Karin Lukas Marta Nikolai Olga Pavel Rosa Stefan Tanja "
    "Viktor"
)
LAST = (
    "Albers Brandt Castell Dorner Engel Falk Gerber Holm Iversen Jensen Keller Lindt Moreau Novak Orlov Petrov Quist "
    "Rossi Sander Thorne Ulrich Vogel Weber Yilmaz Zeman Ashby Bellini Crane Duval Eriksen Fontaine Gallo Hayes Ibsen "
    "Janssen Kovacs Larsen Mancini Nagy Okafor Pereira Rahman Silva Tanaka Usman Varga Walsh Xavier Young Zhang Acosta "
    "Barros Costa Dimitrov Eklund Fischer Garcia Hassan Ivanov Juhasz"
)
"""Each is borne once: people of one surname have keys so alike (0.97 in the metric of the solve, where two people
otherwise have at most 0.25) that one value overwrites the other."""
CITIES = "Paris London Berlin Madrid Rome Vienna Prague Warsaw Athens Dublin Lisbon Oslo Moscow Tokyo Cairo"
LANGUAGES = "French English German Spanish Italian Polish Greek Russian Japanese Arabic Swedish Dutch Turkish Hindi"
WORK = "teacher doctor lawyer nurse farmer painter pilot chef baker tailor carpenter dentist librarian plumber butcher"
RELATIONS = {"{} lives in the city of": CITIES, "{} speaks fluent": LANGUAGES, "{} works as a": WORK}
PERPLEXITY_TOKENS = 4096
ANSWER_TOKENS = 6


def people(count: int, seed: int) -> list[list[Edit]]:
    """So many invented people with a fact of each relation."""
    rng = random.Random(seed)
    names = [f"{rng.choice(FIRST.split())} {last}" for last in rng.sample(LAST.split(), count)]
    return [
        [
            Edit(subject=name, prompt=prompt, target_new=rng.choice(answers.split()))
            for prompt, answers in RELATIONS.items()
        ]
        for name in names
    ]


def measured(
    way: str, jobs: Sequence[Sequence[Edit]], options: dict[str, Any], texts: list[str]
) -> tuple[list[bool], float | None]:
    """Whether each fact is said after all jobs, and perplexity against the base; none, where it is taken back."""
    session = open_method("memit", options)
    model, tokenizer = session.loaded.model, session.loaded.tokenizer
    base, written = session.base_perplexity(texts, PERPLEXITY_TOKENS), list[Edit]()

    def said(edits: Sequence[Edit]) -> list[bool]:
        answers = generate(model, tokenizer, [edit.text for edit in edits], ANSWER_TOKENS)
        return [answer.strip().startswith(edit.target_new) for edit, answer in zip(edits, answers, strict=True)]

    if way == "apart":
        found = list[bool]()
        for job in jobs:
            undo, _ = write_batch(session, job, cached=True, keep=False)
            found += said(job)
            session.weights.revert(undo)
        return found, None
    if way == "root":
        [job] = jobs
        root(session, job)
        return said(job), perplexity(model, tokenizer, texts, max_tokens=PERPLEXITY_TOKENS) / base
    for job in jobs:
        for batch in session.keys.batches(job, BATCH):
            write_batch(session, batch, cached=True, keep=True, live=written)
            written += batch
            print(f"{len(written)} facts", flush=True)
    return said(written), perplexity(model, tokenizer, texts, max_tokens=PERPLEXITY_TOKENS) / base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="perplexity is taken on its beginning")
    parser.add_argument("--subjects", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", action="append", metavar="NAME=VALUE", help="option of the method")
    parser.add_argument("--only", choices=["together", "spread", "alone", "root", "apart"])
    asked = parser.parse_args()
    texts, options = read_text(asked.text), method_options(asked.option)
    found = people(asked.subjects, asked.seed)
    ways = {
        "together": [list(chain.from_iterable(found))],
        "spread": [list(facts) for facts in zip(*found, strict=True)],
        "alone": [[facts[i % len(RELATIONS)] for i, facts in enumerate(found)]],
        "root": [list(chain.from_iterable(found))],
        "apart": found,
    }
    for name, jobs in ways.items():
        if asked.only in (None, name):
            said, ratio = measured(name, jobs, options, texts)
            by_subject: dict[str, list[bool]] = {}
            for edit, one in zip(chain.from_iterable(jobs), said, strict=True):
                by_subject.setdefault(edit.subject, []).append(one)
            whole = sum(map(all, by_subject.values()))
            print(
                f"{name:10}{100 * sum(said) / len(said):6.1f} % of {len(said)} facts said, all of "
                f"{100 * whole / len(by_subject):.1f} % of {len(by_subject)} subjects"
                + (f", perplexity x{ratio:.4f}" if ratio else "")
            )


if __name__ == "__main__":
    main()
