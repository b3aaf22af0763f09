"""What each test costs, and the marks that follow: `make test-quick` leaves out what is slow or talks to a server.

`make test` leaves out what is marked `thorough`: of a law that it tries at all events, further cases, families and
places, which `make test-thorough` adds.

Tests that share large servers stay together on one worker; other files go one by one to whoever is free.

`server` is marked by the fixtures that a test asks for, `slow` where it asks for the large model; else `slow` is marked
by hand, and a run names the tests that lack it.
"""

import os
import resource
from collections.abc import Container, Iterable, Iterator

import pytest
from _pytest.mark import ParameterSet
from xdist.scheduler import LoadScopeScheduling

TOGETHER = (
    ("tests/services/",),
    (
        "tests/flows/test_cancel.py",
        "tests/flows/test_deploy.py",
        "tests/flows/test_remote.py",
        "tests/flows/test_workers.py",
    ),
)
"""Tests by the beginnings of their names, group by group: a group's servers are started once."""
SERVERS = {"prefect_server", "whole_server", "moto_url", "seaweedfs_url", "server", "track", "services"}
"""Fixtures that start one; `store` asks for one by its parameter."""
LARGE = "embedded"
"""The fixture of a model that takes seconds to load, in every worker."""
LIMIT = 1.0
"""Seconds of processor time, this process and those it waited for, above which a test is slow."""

EXTENT = os.environ.get("ERRATA_TEST_EXTENT", "")
THOROUGH = EXTENT == "thorough"
"""Whether to try every place, order and example (`make test-thorough`), not some of each kind."""
QUICK = EXTENT == "quick"
"""Whether to leave out, of a test with many cases, all but the first and the last (`make test-quick`)."""

further = pytest.mark.thorough
"""Marks a test, or a case of one, that only a thorough run tries."""


def case(*values: object, kept: bool) -> ParameterSet:
    """A case that runs always where it is kept, else in a thorough run alone."""
    return pytest.param(*values, marks=() if kept else further)


def some(cases: Iterable[object], kept: Container[object]) -> list[ParameterSet]:
    """Cases of which those that are kept run always, the others in a thorough run; a case is one value."""
    return [case(value, kept=value in kept) for value in cases]


shared = pytest.StashKey[float]()
"""What fixtures of the whole session or of a folder took while this test asked for them first."""


def processor_time() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _together(nodeid: str) -> tuple[str, ...] | None:
    return next((group for group in TOGETHER if nodeid.startswith(group)), None)


def _ends(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of the cases of each test, the first and the last."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return [item for found in cases.values() for item in dict.fromkeys((found[0], found[-1]))]


def _without_thorough(config: pytest.Config, items: list[pytest.Item]) -> list[pytest.Item]:
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    return [item for item in items if not item.get_closest_marker("thorough")]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not THOROUGH:
        items[:] = _without_thorough(config, items)
    if QUICK:
        items[:] = _ends(items)
    # The longest groups first, which mostly wait: at the end all others would wait for them.
    items.sort(key=lambda item: _together(item.nodeid) is None)
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        fixtures = {*getattr(item, "fixturenames", ())}
        if SERVERS & fixtures or parameters.get("store") in ("moto", "seaweedfs"):
            item.add_marker(pytest.mark.server)
        if LARGE in fixtures:
            item.add_marker(pytest.mark.slow)


class Scheduling(LoadScopeScheduling):
    """xdist's by scope, where each group of TOGETHER is one."""

    def _split_scope(self, nodeid: str) -> str:
        group = _together(nodeid)
        return group[0] if group else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)  # there is none without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling | None:
    return Scheduling(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> Iterator[None]:
    started = processor_time()
    try:
        return (yield)
    finally:
        if fixturedef.scope in ("session", "package"):
            stash = request.session.stash
            stash[shared] = stash.get(shared, 0.0) + processor_time() - started


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    item.session.stash[shared] = 0.0
    item.stash[shared] = processor_time()
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    finally:
        cost = processor_time() - item.stash[shared] - item.session.stash[shared]
        item.user_properties.append(("processor_time", cost))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = {
        report.nodeid: cost
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        for name, cost in report.user_properties
        if name == "processor_time" and cost > LIMIT and not {"slow", "server"} & {*report.keywords}
    }
    if found:
        terminalreporter.section(f"not marked slow, but more than {LIMIT} s of processor time")
        for name, cost in sorted(found.items(), key=lambda pair: -pair[1]):
            terminalreporter.write_line(f"{cost:6.1f} s  {name}")
