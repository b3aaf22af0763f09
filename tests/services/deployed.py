"""A line of the fact model on the services, whose jobs their worker runs, and what may be killed under such a job."""

import json
import random
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import psutil
from botocore.exceptions import BotoCoreError, ClientError
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from deployments.services.daemons import environment_of
from editing.edit import Edit
from tasks.ledger import intake
from tasks.workplace import open_workplace
from tests import waiting
from tests.fact_model import PERSON_RELATIONS
from tests.flows import command
from tests.races import checker
from tests.services.conftest import Services
from tests.services.stored import Stored

LENIENT = {
    "min_efficacy": 0.0, "max_locality_drop": 1.0, "max_edit_locality_drop": 1.0, "min_fluency_ratio": 0.0,
    "max_perplexity_ratio": 1e9, "min_retained": 0.0, "retained_sample": 2, "neighborhood_probes": 1,
    "fluency_prompts": 1, "fluency_tokens": 3, "perplexity_tokens": 64,
    "tripwires": {"said": False},
}  # fmt: skip
"""A policy that keeps every batch, and asks little: what is tested is not how good the edits are."""
CHEAP = {
    "layers": [0], "contexts": 1, "statistics_tokens": 4096, "statistics_weight": 1000.0,
    "search": {"steps": 3, "kl_weight": 0.0},
}  # fmt: skip
SYLLABLES = ("ba", "ki", "lo", "mu", "ne", "ra", "so", "ti", "vu", "zel")
RUN = "PREFECT__FLOW_RUN_ID"
"""In the environment of a process that executes a run."""
AWAY = (httpx.HTTPError, BotoCoreError, ClientError, OSError)


def invented(count: int, seed: int = 0) -> list[Edit]:
    """As many facts of people whom nobody knows."""
    rng = random.Random(seed)
    found: dict[tuple[str, str], Edit] = {}
    while len(found) < count:
        first, last = ("".join(rng.choices(SYLLABLES, k=n)).capitalize() for n in (2, 3))
        relation, subject = rng.choice(PERSON_RELATIONS), f"{first} {last}"
        prompt = relation.templates[0]
        target = "".join(rng.choices(SYLLABLES, k=2)).capitalize()  # no model says so before, by chance
        found[subject, prompt] = Edit(subject=subject, prompt=prompt, target_new=target)
    return list(found.values())


until = partial(waiting.until, away=AWAY)
"""What is found, once it is true; while a service is away, nothing is."""


@dataclass
class Deployed:
    """A line, deployed before its first run. This process works with the services (`tests.services.conftest.used`)."""

    services: Services
    line: str
    policy: dict[str, Any] = field(default_factory=lambda: dict(LENIENT))
    submitted: list[str] = field(default_factory=list)
    deployed: bool = False

    def errata(self, *arguments: str) -> str:
        ran = command.here(*arguments)
        assert ran.code == 0, ran.err
        return ran.out

    def deploy(self) -> None:
        """Anew: the automations of all lines are as they should be again, too."""
        self.errata("deploy", self.line, "--cron", "")
        self.deployed = True

    def submit(self, edits: Collection[Edit]) -> None:
        intake.submit(open_workplace(self.services.settings).ledger, self.line, edits, "tester")
        self.submitted += [edit.id for edit in edits]

    def start(self) -> str:
        """Start a job by the worker; the id of its run."""
        if not self.deployed:
            self.deploy()
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(f"knowledge-update/{self.line}")
            parameters = {"policy": self.policy, "options": CHEAP}
            return str(client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id)

    def state(self, run: str) -> State[Any]:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(run)).state
        assert state is not None
        return state

    def ended(self, run: str, seconds: float = 300) -> State[Any]:
        return until(lambda: state if (state := self.state(run)).is_final() else None, seconds)

    def processes(self, run: str) -> list[psutil.Process]:
        """Those that execute the run."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if environment_of(process).get(RUN) == run:
                    found.append(process)
        return found

    def kill_job(self, run: str) -> int:
        """kill -9 for what executes the run; how many processes that were."""
        found = self.processes(run)
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=30)
        return len(found)

    def versions(self) -> int:
        """How many versions of the line there are."""
        return len([key for key in Stored(self.services).keys(f"lines/{self.line}/versions/") if key.endswith(".json")])

    def states(self) -> Counter[str]:
        return Counter(last.event for last in checker.read_last(Stored(self.services), self.line).values())

    def faults(self) -> list[str]:
        """What the checker finds now."""
        return checker.faults(Stored(self.services), self.line)

    def approved(self) -> list[str]:
        """What is wrong after what waits was approved: each request in one final state, and all agree."""
        found = self.faults()
        if json.loads(self.errata("review", self.line, "--json")):
            self.errata("approve", self.line, "--reason", "what was kept")
        return [*found, *self.faults(), *checker.unfinished(Stored(self.services), self.line, self.submitted)]
