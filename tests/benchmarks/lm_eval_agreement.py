"""Ability scores against lm-evaluation-harness itself: the same items of the same files through its own tasks.

    pip install -e '.[agreement]'
    python -m tests.benchmarks.lm_eval_agreement --data FOLDER [--items 100]

The folder holds ability_{lambada_openai,piqa,hellaswag,arc_easy}_dev.parquet. Each set is written as it is published,
and asked by the harness through its own task of that name: its formats, its tokenisation, its metrics. Of each item the
log-probabilities of all choices must agree, and every score and standard error must be equal. Ends with 1 otherwise.
"""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from editing.measure.ability import Answer, answer, compare
from editing.measure.ability_sets import AbilitySet, read_ability
from editing.models import LoadedModel, load_model
from tasks.parquet import parquet_rows
from tasks.settings import load_settings

TOLERANCE = 2e-3
"""Of a log-probability summed over up to a hundred tokens, in float32, in other batches and products."""
Row = Mapping[str, Any]


def _published_question(row: Row) -> tuple[str, list[str]]:
    return row["query"].removeprefix("Question: ").removesuffix("\n"), list(row["choices"])


def _lambada(row: Row) -> dict[str, Any]:
    return {"text": f"{row['context']} {row['continuation']}"}


def _piqa(row: Row) -> dict[str, Any]:
    goal, (sol1, sol2) = _published_question(row)
    return {"goal": goal, "sol1": sol1, "sol2": sol2, "label": row["gold"]}


def _arc(row: Row) -> dict[str, Any]:
    question, texts = _published_question(row)
    labels = [chr(ord("A") + number) for number in range(len(texts))]
    return {"question": question, "choices": {"text": texts, "label": labels}, "answerKey": labels[row["gold"]]}


PUBLISHED: dict[str, tuple[str, Callable[[Row], dict[str, Any]]]] = {
    "lambada_openai": ("test", _lambada),
    "piqa": ("validation", _piqa),
    "hellaswag": ("validation", dict),
    "arc_easy": ("test", _arc),
}
"""For each task of the harness: the split that it asks, and a row as it is published."""


def harness_scores(loaded: LoadedModel, files: Mapping[str, Path], items: int) -> dict[str, Any]:
    """What the harness says of these files: results by task, and samples with each log-probability."""
    import lm_eval.tasks
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    tasks, own = [], Path(lm_eval.tasks.__file__).parent
    for name, path in files.items():
        [inside] = own.rglob(f"{name}.yaml")
        config = {
            "include": str(inside),
            "task": name,
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {PUBLISHED[name][0]: str(path)}},
            **dict.fromkeys({"training_split", "validation_split", "test_split"} - {f"{PUBLISHED[name][0]}_split"}),
        }
        tasks.append(str(path.with_suffix(".yaml")))
        Path(tasks[-1]).write_text(yaml.safe_dump(config))
    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=4)
    found: dict[str, Any] = simple_evaluate(model=model, tasks=tasks, limit=items, bootstrap_iters=1000)
    return found


def of_harness(sample: Mapping[str, Any]) -> Answer:
    answers = [response[0] for response in sample["resps"]]
    return Answer(tuple(float(one[0]) for one in answers), tuple(str(one[1]) == "True" for one in answers))


def disagreements(name: str, asked: AbilitySet, mine: Sequence[Answer], theirs: Mapping[str, Any]) -> list[str]:
    """What differs, each as a line."""
    samples = sorted(theirs["samples"][name], key=lambda sample: int(sample["doc_id"]))
    found, largest = [], 0.0
    for number, (one, sample) in enumerate(zip(mine, samples, strict=True)):
        other = of_harness(sample)
        gap = max(abs(a - b) for a, b in zip(one.logprobs, other.logprobs, strict=True))
        largest = max(largest, gap)
        if gap > TOLERANCE or one.greedy != other.greedy:
            found.append(f"{name} {number}: {one} here, {other} there")
    results = theirs["results"][name]
    for measure, value in compare(asked.questions, mine, mine).items():
        there, error = results[f"{measure},none"], results[f"{measure}_stderr,none"]
        print(
            f"{name} {measure}: {value.before:.6f} ± {value.stderr_before:.6f} here, {there:.6f} ± {error:.6f} there",
            flush=True,
        )
        exact = measure != "perplexity"  # whose error the harness draws
        if not math.isclose(value.before, there, rel_tol=1e-12 if exact else 1e-4):
            found.append(f"{name}: {measure} is {value.before} here, {there} there")
        if exact and not math.isclose(value.stderr_before or 0.0, error, rel_tol=1e-9):
            found.append(f"{name}: the standard error of {measure} is {value.stderr_before} here, {error} there")
    print(f"{name}: {len(samples)} items, log-probabilities differ by at most {largest:.2g}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of ability_*_dev.parquet")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--model", default="embedded")
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    loaded = load_model(asked.model, cache=load_settings().cache_folder)
    files, failed, mine = {}, list[str](), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (_, published) in PUBLISHED.items():
            rows = [*parquet_rows(asked.data / f"ability_{name}_dev.parquet")][: asked.items]
            files[name] = Path(folder) / f"{name}.parquet"
            pq.write_table(pa.Table.from_pylist([published(row) for row in rows]), files[name])
            prepared, raw = read_ability(rows, name), read_ability(parquet_rows(files[name]), name)
            if prepared.questions != raw.questions:
                failed.append(f"{name}: the prepared file and the published one ask differently")
            mine[name] = prepared, answer(loaded.model, loaded.tokenizer, prepared.questions)
            print(f"{name}: {len(rows)} items are asked here", flush=True)
        os.environ["HF_DATASETS_CACHE"] = folder
        theirs = harness_scores(loaded, files, asked.items)
    for name, (questions, answers) in mine.items():
        failed += disagreements(name, questions, answers, theirs)
    print("\n".join(failed) or "equal")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
