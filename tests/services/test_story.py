"""A line in production, from a request to a version in service and back, by all that moves it.

Chapters of one story, each from where the one before left the line. After each, what is stored is judged by the
checker, which imports nothing of the code under test.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun, State

from editing.edit import Edit
from tasks.ledger.trying import as_records
from tasks.stores.manifest import Head
from tasks.workplace import open_workplace
from tests.flows.command import Errata, command
from tests.flows.conftest import METHOD, POLICY, edits_that_take
from tests.flows.harm import put_damage_in_service
from tests.flows.mlflow_pages import browser, chromium, close_assistant, picture
from tests.flows.production import Production, description
from tests.races.checker import faults, unfinished
from tests.services.conftest import Services
from tests.services.stored import Stored
from tests.waiting import until

pytestmark = pytest.mark.slow

LINE, JOB = "story", 2
"""Its name, and how many requests a job takes up."""
COMMENT = "checked, {{ 7*7 }} <b>twice</b>"


class Story:
    """The line, as a person and as the servers see it."""

    def __init__(self, services: Services, errata: Errata, edits: list[Edit], folder: Path) -> None:
        self.services, self.errata, self.edits, self.folder = services, errata, edits, folder
        self.stored = Stored(services)
        self.prefect = Production(services.settings.prefect_api_url or "", folder, {})

    def submit(self, first: int, jobs: int = 1) -> None:
        """Requests of so many jobs."""
        path = self.folder / "requests.jsonl"
        path.write_text(as_records(self.edits[first * JOB : (first + jobs) * JOB]))
        ran = self.errata("submit", path, "--line", LINE)
        assert f"{jobs * JOB} queued" in ran.out, ran.err

    def start_job(self) -> str:
        return self.start("knowledge-update", limit=JOB, policy=POLICY.as_form())

    def start(self, flow: str, **parameters: object) -> str:
        """A run of the line's deployment, as the form of its page starts it."""
        return self.prefect.start(f"{flow}/{LINE}", line=LINE, **parameters)

    def pause(self, flow: str) -> None:
        """Its schedule, which might look just before a test does."""
        with self.prefect.client() as client:
            client.pause_deployment(client.read_deployment_by_name(f"{flow}/{LINE}").id)

    def ended(self, run: str) -> State:
        """Its last state, which is Completed; else what it said."""
        return self.come_to(run, lambda state: state.is_final() and state.is_completed())

    def come_to(self, run: str, there: Callable[[State], bool], seconds: float = 120) -> State:
        try:
            state = until(
                lambda: found if there(found := self.prefect.state(run)) or found.is_final() else None, seconds
            )
        except AssertionError as error:
            raise AssertionError(self.told(run)) from error
        assert there(state), self.told(run)
        return state

    def take_turns(self, one: str, other: str) -> tuple[str, str]:
        """Two runs of a job, the one that is at work first, as soon as the other waits for it."""

        def waits(run: str, runs: str) -> bool:
            states = self.prefect.state(run), self.prefect.state(runs)
            return states[0].name == "AwaitingConcurrencySlot" and not states[1].is_final()

        return until(lambda: (one, other) if waits(other, one) else (other, one) if waits(one, other) else None)

    def told(self, run: str) -> str:
        """State and log of a run."""
        return "\n".join([f"{self.prefect.state(run)!r}", *self.prefect.log(run)])

    def form(self, version: int) -> str:
        """The run that asks about a version, as soon as it waits for a person."""
        [run] = until(lambda: self._reviews(version))
        self.come_to(str(run.id), lambda state: state.name == "Suspended")
        return str(run.id)

    def _reviews(self, version: int) -> list[FlowRun]:
        with self.prefect.client() as client:
            runs = client.read_flow_runs()
        return [one for one in runs if one.parameters == {"line": LINE, "version": version}]

    def description(self, run: str) -> str:
        with self.prefect.client() as client:
            return description(client, run)

    def breaches(self) -> list[dict[str, Any]]:
        """The events that say of the line that what serves is not as it should be."""
        wanted = {"event": {"name": ["errata.line.breached"]}, "resource": {"id": [f"errata.line.{LINE}"]}}
        with self.prefect.client() as client:
            return list(client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"])

    def serves(self, version: int) -> Head:
        """HEAD, as soon as it serves a version."""
        store = open_workplace(self.services.settings).store
        return until(lambda: head if (head := store.head(LINE)) and head.version == version else None, 300)

    @contextmanager
    def signed_in(self) -> Iterator[Any]:
        """A page of a browser that both servers know."""
        with browser(**self.services.people) as page:
            page.add_init_script(self.services.signed_in)
            yield page


@pytest.fixture(scope="module")
def edits(services: Services, fact_model_path: Path) -> list[Edit]:
    return edits_that_take(services.settings, str(fact_model_path))


@pytest.fixture
def story(
    here: Services,
    edits: list[Edit],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Iterator[Story]:
    chromium()  # a person's part is done in it, and each test goes on from the one before
    made = Story(here, command(monkeypatch, capsys), edits, tmp_path)
    yield made
    assert faults(made.stored, LINE) == []


def test_a_job_leaves_a_version_that_a_person_approves_by_the_form(story: Story):
    story.submit(0)
    assert {done["change"] for done in story.errata("deploy", LINE, "--json").json} >= {"created"}
    assert {done["change"] for done in story.errata("deploy", LINE, "--json").json} == {"unchanged", "left out"}
    story.pause("watch")
    job = story.errata("run", LINE, "--remote", *options("--option", METHOD), *options("--set", POLICY.model_dump()))
    assert (job.code, job.err) == (0, "") and "version 1 waits for review" in job.out
    run = story.form(1)
    with story.signed_in() as page:
        page.goto(f"{story.services.settings.prefect_people}/runs/flow-run/{run}")
        page.get_by_role("button", name="Resume").click()
        form = page.locator(".p-modal__card")
        form.get_by_text("What it changes").wait_for()
        assert form.get_by_text(story.edits[0].subject).count() and form.get_by_text("checks hold").count()
        with page.expect_popup() as opened:
            form.get_by_role("link", name="its run and report").click()
        opened.value.get_by_text("report.html").first.wait_for()
        opened.value.close()
        form.locator(".p-select-button__icon").click()  # a click beside it opens the choice and closes it again
        page.get_by_role("option", name="approve").click()
        for field, text in zip(form.locator("textarea").all(), ("", COMMENT, "Grace"), strict=True):
            field.fill(text)
        picture(page, "prefect-review")
        # By the key: Prefect may show a notice over the button, which stays as long as a pointer is on it.
        form.get_by_role("button", name="Submit").press("Enter")
        head = story.serves(1)
    assert (head.actor, head.way, head.reason) == ("Grace", "Prefect's form", COMMENT)
    assert story.ended(run).message == f"version 1 of line '{LINE}' approved by Grace"


def options(name: str, values: dict[str, object]) -> list[str]:
    return [part for key, value in values.items() for part in (name, f"{key}={json.dumps(value)}")]


def test_two_jobs_at_once_take_turns_and_what_they_leave_is_decided_in_two_ways(story: Story):
    story.submit(1, jobs=2)
    first, second = story.take_turns(story.start_job(), story.start_job())
    for run, number in ((first, 2), (second, 3)):
        assert f"version {number} waits for review" in (story.ended(run).message or "")
    below, newest = story.form(2), story.form(3)
    assert "Approving it puts v2 (MLflow 2) in service, too." in story.description(newest)

    ran = story.errata("reject", LINE, "--version", 3, "--reason", "a wrong source")
    assert ran.code == 0, ran.err
    said = story.ended(newest)
    assert said.name == "Decided" and "rejected by tester" in said.message and "a wrong source" in said.message

    with story.signed_in() as page:
        page.goto(f"{story.services.settings.mlflow_people}/#/models/{LINE}/versions/2")
        page.get_by_text("What it changes").wait_for()
        close_assistant(page)
        tag = page.locator("tr[data-row-key=review]")
        tag.get_by_test_id("editable-table-button-edit").click()
        tag.get_by_test_id("editable-table-edited-input").fill("approved")
        tag.get_by_test_id("editable-table-button-save").click()
        head = story.serves(2)
    assert (head.actor, head.way) == ("a person in MLflow", "tag in MLflow")
    assert "approved by a person in MLflow" in (story.ended(below).message or "")


def test_what_nobody_answers_expires_by_the_watch_that_a_worker_runs(story: Story):
    story.submit(3)
    story.ended(story.start_job())
    run = story.form(4)
    assert story.errata("rules", LINE, "--set", "expires_after_hours=0.0001").code == 0
    watch = story.start("watch", ask=False)
    story.ended(watch)
    assert "version 4 refused: no answer within 0.0001 hours" in "\n".join(story.prefect.log(watch))
    assert "no answer within" in (story.ended(run).message or "")
    assert story.serves(2)


def test_what_does_harm_is_found_by_the_watch_and_taken_back_and_a_person_goes_further_back_by_form(story: Story):
    harmful = put_damage_in_service(open_workplace(story.services.settings), LINE)
    watch = story.start("watch")
    story.ended(watch)
    said = "\n".join(story.prefect.log(watch))
    assert f"version {harmful} in service: " in said and "breach" in said and "perplexity" in said, said
    [event] = until(story.breaches)  # the server shows an event some seconds after it has it
    assert event["payload"]["version"] == harmful and len(event["payload"]["findings"]) == 2
    head = story.serves(2)
    assert (head.actor, head.action, head.way) == ("automation", "rollback", "run in Prefect")
    assert head.reason == f"breached, says event {event['id']}"
    assert head.moved > datetime.fromisoformat(event["occurred"])  # how soon is the machine's affair

    rollback = story.start("rollback", to=1, reviewer="Ada", reason="complaints")
    assert story.ended(rollback).message == f"back to version 1 of line {LINE}; in service: version 1"
    head = story.serves(1)
    assert (head.actor, head.way, head.reason) == ("Ada", "run in Prefect", "complaints")
    assert unfinished(story.stored, LINE, [edit.id for edit in story.edits[: 4 * JOB]]) == []
