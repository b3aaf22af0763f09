"""Two people approve a version on MLflow's own pages, each signed in, and `errata watch` carries out what they said."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.costs import further
from tests.flows.command import Errata, Ran, command
from tests.flows.mlflow_pages import browser, close_assistant
from tests.services.conftest import Services
from tests.tasks.reviewed_line import ReviewedLine

LINE, PEOPLE = "two-reviewers", ("alice", "bob", "carol")
PASSWORD = "a-password-of-a-test"
SUBJECT = "Ada ![x](http://evil.example/x.png) <b>bold</b>"
OWN = ("home", "cache", "actor")
"""Settings that the line has of its own."""


@pytest.fixture
def errata(here: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Errata:
    return command(monkeypatch, capsys)


@pytest.fixture
def line(here: Services, tmp_path) -> ReviewedLine:
    shared = {name: value for name, value in here.place.settings().items() if name not in OWN}
    made = ReviewedLine(tmp_path, LINE, **shared)
    made.make(subject=SUBJECT)
    return made


def make_account(services: Services, name: str) -> None:
    """As an administrator does at /signup."""
    settings = services.settings
    administrator = (settings.mlflow_username, settings.mlflow_password.get_secret_value())
    account = {"username": name, "password": PASSWORD}
    address = f"{settings.tracking_uri}/api/2.0/mlflow/users/create"
    httpx.post(address, json=account, auth=administrator).raise_for_status()


@contextmanager
def signed_in(services: Services, name: str) -> Iterator[Any]:
    """A page of MLflow as one of them sees it."""
    person = {"username": name, "password": PASSWORD, "origin": services.settings.tracking_uri}
    with browser(http_credentials=person) as page:
        yield page
        assert page.strange == []


def open_queue(page: Any, line: ReviewedLine, name: str) -> None:
    people, experiment = line.settings.mlflow_people, line.workplace.tracker().experiment_id
    page.goto(f"{people}/#/experiments/{experiment}/review-queue")
    page.get_by_text(f"{LINE} v1 {line.waiting()[0].snapshot[:8]}: {name}").click()
    page.get_by_text(f"{SUBJECT} was born in").first.wait_for()
    close_assistant(page)


def submit(page: Any, words: str) -> None:
    page.locator("textarea").fill(words)
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("Completed (1)").wait_for()


def said(ran: Ran) -> list[str]:
    assert ran.code == 0, ran.err
    return list(ran.json["done"])


@further
@pytest.mark.slow
def test_two_people_submit_on_mlflows_page_and_the_third_is_told_who_they_were(
    here: Services, line: ReviewedLine, errata: Errata
):
    for name in PEOPLE[:2]:
        make_account(here, name)
    rules = errata("rules", LINE, "--set", "reviewers=2", "--set", 'queues_for=["alice", "bob", "carol"]')
    assert rules.code == 0, rules.err
    [nobody] = said(errata("watch", LINE, "--no-ask", "--json"))
    assert "'carol' cannot review" in nobody and "/signup" in nobody
    make_account(here, "carol")

    with signed_in(here, "alice") as page:
        open_queue(page, line, "alice")
        page.get_by_role("button", name="Start review").click()
        page.get_by_text('"after": "Rome"').wait_for()
        page.get_by_text(f"{SUBJECT} was born in").wait_for()  # as text, not as a picture from elsewhere
        page.get_by_text("View full trace").click()
        drawer = page.get_by_role("dialog")
        drawer.get_by_text(f"{SUBJECT} was born in").wait_for()
        page.keyboard.press("Escape")
        drawer.wait_for(state="hidden")
        submit(page, "checked, <b>{{ 7*7 }}</b>")
        assert said(errata("watch", LINE, "--no-ask", "--json")) == ["version 1: alice approves, one of two"]
        assert line.serving() == 0
        alone = errata("approve", LINE)
        assert alone.code and "approved by alice so far: two people approve it" in alone.err
        page.get_by_text(f"{SUBJECT} was born in").first.click()
        page.get_by_role("button", name="Move to Todo").click()
        submit(page, "once more")
    assert said(errata("watch", LINE, "--no-ask", "--json")) == [] and line.serving() == 0

    with signed_in(here, "bob") as page:
        open_queue(page, line, "bob")
        page.get_by_role("button", name="Start review").click()
        submit(page, "so do I")
    assert said(errata("watch", LINE, "--no-ask", "--json"))[-1] == "version 1 approved by alice and bob"
    head = line.workplace.store.head(LINE)
    assert (head.version, head.actor, head.way) == (1, "alice and bob", "review queue of MLflow")

    with signed_in(here, "carol") as page:
        page.goto(f"{line.settings.mlflow_people}/#/models/{LINE}/versions/1")
        tag = page.locator("tr[data-row-key=review]")
        tag.get_by_test_id("editable-table-button-edit").click()
        close_assistant(page)
        tag.get_by_test_id("editable-table-edited-input").fill("rejected")
        tag.get_by_test_id("editable-table-button-save").click()
        tag.get_by_text("rejected").wait_for()
        errata("watch", LINE, "--no-ask")  # or the webhook, whoever is first
        page.reload()
        page.get_by_text(f"not carried out: version 1 of line '{LINE}' was approved by alice and bob").wait_for()
    late = errata("reject", LINE, "--version", 1, "--reason", "no source")
    assert late.code and "was approved by alice and bob" in late.err and line.serving() == 1
