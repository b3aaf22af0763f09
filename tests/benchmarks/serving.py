"""Many clients of `errata serve` while HEAD moves: whether all are answered, by which version, and how fast.

    python -m tests.benchmarks.serving [--base embedded] [--requests 10000] [--clients 16] [--moves 20] [--tokens 8]

The server is a process of its own, as a user starts it. Every answer must be of a version that was in service at some
moment between its question and its end; of some of them, the text is compared with what that version says alone. Beside
it stands `model.generate` in a loop, one prompt at a time, in this process. Without --base: a tiny random model.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import torch

from editing.edit import Edit
from editing.readers import read_edits
from tasks.carrying.chosen import choose, opened
from tasks.serving.loading import Answerer
from tests.benchmarks.timing import timed
from tests.flows.command import environment
from tests.tasks.carried import LINE, CarriedLine

REQUESTS = Path(__file__).parents[2] / "deployments/demo/requests.jsonl"
VERSIONS, COMPARED, LOOPED = 4, 200, 50


@dataclass
class Seen:
    """What clients saw: version, prompt, text, and from when to when; and failures by what they were."""

    answers: list[tuple[int, str, str, float, float]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    busy: int = 0


@dataclass(frozen=True)
class Asking:
    url: str
    prompts: list[str]
    tokens: int
    each: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.serving")
    parser.add_argument("--base", default="", help="embedded, a folder, a hub id; none: a tiny random model")
    for name, default in (("requests", 10_000), ("clients", 16), ("moves", 20), ("tokens", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="errata-serving-") as folder:
        line = CarriedLine(Path(folder), base=given.base)
        strength = 0.05 if given.base else 0.3
        for _ in range(VERSIONS):
            line.make(strength=strength)
        move(line, 1)
        measure(line, given)


def measure(line: CarriedLine, given: argparse.Namespace) -> None:
    prompts = texts()
    settings = environment(Path(line.settings.home), ERRATA_CACHE=str(line.settings.cache))
    command = [sys.executable, "-m", "flows.cli", "serve", LINE, "--port", "0"]
    process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = next(text for text in process.stdout if " answers at " in text)
        asking = Asking(
            said.rpartition(" at ")[2].partition("/v1")[0], prompts, given.tokens, given.requests // given.clients
        )
        seconds, (seen, served) = timed(lambda: asked(line, asking, given.clients, given.moves))
    finally:
        process.terminate()
        process.wait()
    report(line, seen, served, seconds)
    compare(line, seen, given.tokens)
    loop(line, prompts, given.tokens, len(seen.answers) / seconds)


def asked(line: CarriedLine, asking: Asking, clients: int, moves: int) -> tuple[Seen, list[tuple[int, float, float]]]:
    """All requests, with HEAD moved after equal shares of the answers."""
    seen, going, versions = Seen(), threading.Semaphore(0), random.Random(0)
    served = [(1, time.monotonic(), float("inf"))]
    share = asking.each * clients // (moves + 1)
    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client, asking, seed, seen, going) for seed in range(clients)]
        for _ in range(moves):
            for _ in range(share):
                going.acquire()
            version = versions.choice([one for one in range(VERSIONS + 1) if one != served[-1][0]])
            begun = time.monotonic()
            move(line, version)
            served[-1] = (*served[-1][:2], time.monotonic())
            served.append((version, begun, float("inf")))
        for one in running:
            one.result()
    return seen, served


def client(asking: Asking, seed: int, seen: Seen, going: threading.Semaphore) -> None:
    chosen = random.Random(seed)
    with httpx.Client(base_url=asking.url, timeout=600) as connection:
        for _ in range(asking.each):
            prompt, begun = chosen.choice(asking.prompts), time.monotonic()
            body = {"model": LINE, "prompt": prompt, "max_tokens": asking.tokens}
            try:
                response = connection.post("/v1/completions", json=body)
                while response.status_code == 429:
                    seen.busy += 1
                    response = connection.post("/v1/completions", json=body)
                response.raise_for_status()
                version = int(response.headers["x-errata-version"])
                text = response.json()["choices"][0]["text"]
                seen.answers.append((version, prompt, text, begun, time.monotonic()))
            except (httpx.HTTPError, ValueError, KeyError) as error:
                seen.failures[f"{type(error).__name__}: {error}"[:100]] += 1
            going.release()


def report(line: CarriedLine, seen: Seen, served: list[tuple[int, float, float]], seconds: float) -> None:
    wrong = [
        answer for answer in seen.answers
        if not any(one == answer[0] and start <= answer[4] and answer[3] <= stop for one, start, stop in served)
    ]  # fmt: skip
    times = sorted(done - begun for *_, begun, done in seen.answers)
    print(f"{len(seen.answers):,} answered, {sum(seen.failures.values())} failed, {seen.busy} told to come again")
    print(f"HEAD moved {len(served) - 1} times; {len(wrong)} answers of a version that was not in service meanwhile")
    print(f"by version: {json.dumps(dict(sorted(Counter(one for one, *_ in seen.answers).items())))}")
    print(
        f"half within {times[len(times) // 2] * 1000:.0f} ms, 99 % within {times[len(times) * 99 // 100] * 1000:.0f} ms"
    )
    print(f"{len(seen.answers) / seconds:.1f} requests a second, {torch.get_num_threads()} threads here")
    for what, count in seen.failures.items():
        print(f"  {count} x {what}")


def compare(line: CarriedLine, seen: Seen, tokens: int) -> None:
    """Some answers beside what their version says alone."""
    some = random.Random(1).sample(seen.answers, min(COMPARED, len(seen.answers)))
    same = 0
    for version in sorted({one for one, *_ in some}):
        answerer = Answerer(opened(line.workplace, choose(line.workplace, LINE, str(version))).loaded)
        own = [(prompt, text) for one, prompt, text, *_ in some if one == version]
        same += sum(
            text == alone for (_, text), alone in zip(own, answerer.answer([p for p, _ in own], tokens), strict=True)
        )
    print(f"{same} of {len(some)} texts are what the version says alone")


def loop(line: CarriedLine, prompts: list[str], tokens: int, served: float) -> None:
    loaded = opened(line.workplace, choose(line.workplace, LINE, "1")).loaded
    given = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": loaded.tokenizer.eos_token_id}

    def run() -> None:
        for prompt in prompts[:LOOPED]:
            loaded.model.generate(**loaded.tokenizer(prompt, return_tensors="pt"), **given)

    seconds, _ = timed(run)
    alone = min(LOOPED, len(prompts)) / seconds
    print(f"model.generate in a loop: {alone:.1f} a second; served: {served / alone:.1f} times as many")


def move(line: CarriedLine, version: int) -> None:
    store = line.workplace.store
    chosen = store.version(LINE, version) if version else None
    store.move_head(LINE, chosen, store.head(LINE), "promote", "benchmark", "")


def texts() -> list[str]:
    """Prompts, paraphrases and neighbors of the demo's requests."""
    edits = [one for one in read_edits(REQUESTS) if isinstance(one, Edit)]
    found = [text for one in edits for text in (one.text, *one.paraphrases, *(p.prompt for p in one.neighborhood))]
    return [str(text) for text in dict.fromkeys(found)]


if __name__ == "__main__":
    main()
