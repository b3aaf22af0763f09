"""Rules of a line: one object by compare-and-swap, and nothing is written that is out of range."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from editing.errors import PolicyError, UsageError
from tasks.lines.rules import LineRules, check_not_frozen, freeze, read_rules, set_rules, unfreeze

LINE = "main"


def test_without_an_object_the_defaults_hold(folder):
    assert read_rules(folder, LINE) == LineRules() and folder.list("") == []


def test_what_is_set_is_read_and_the_rest_stays(store):
    set_rules(store, LINE, {"expires_after_hours": 48})
    set_rules(store, LINE, {"auto_approve.max_facts": 3})
    set_rules(store, LINE, {"auto_approve.min_efficacy": 0.5})
    rules = read_rules(store, LINE)
    assert (rules.expires_after_hours, rules.auto_approve.max_facts, rules.auto_approve.min_efficacy) == (48.0, 3, 0.5)
    assert set_rules(store, LINE, {"auto_approve": None, "expires_after_hours": None}) == LineRules(
        expires_after_hours=None
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reviewers", 3),
        ("reviewers", "2 people"),
        ("expires_after_hours", 0),
        ("expires_after_hours", float("nan")),
        ("auto_approve.max_facts", 0),
        ("auto_approve.min_luck", 1),
        ("auto_approve", "yes"),
        ("frozen", "x"),
        ("thawed", None),
        ("colour", "red"),
    ],
)
def test_a_value_out_of_range_is_one_line_and_nothing_is_written(folder, name, value):
    with pytest.raises(PolicyError, match=name.partition(".")[2] or name) as error:
        set_rules(folder, LINE, {name: value})
    assert "\n" not in str(error.value) and folder.list("") == []


def test_nothing_is_approved_without_a_person_where_two_have_to(folder):
    set_rules(folder, LINE, {"reviewers": 2})
    with pytest.raises(PolicyError, match="reviewers = 2"):
        set_rules(folder, LINE, {"auto_approve.max_facts": 1})


def test_a_frozen_line_says_why_until_it_is_not(folder):
    with pytest.raises(UsageError, match="needs a reason"):
        freeze(folder, LINE, " ")
    freeze(folder, LINE, "an audit\nuntil Friday")
    with pytest.raises(UsageError, match=r"frozen \(an audit until Friday\); `errata unfreeze main`"):
        check_not_frozen(folder, LINE)
    unfreeze(folder, LINE)
    check_not_frozen(folder, LINE)


def test_of_many_who_change_rules_at_once_nobody_is_lost(store):
    def change(name, value):
        set_rules(store, LINE, {name: value})

    changes = [("expires_after_hours", 24), ("auto_approve.max_facts", 7), ("reviewers", 1)]
    threads = [threading.Thread(target=change, args=one) for one in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rules = read_rules(store, LINE)
    assert (rules.expires_after_hours, rules.auto_approve.max_facts) == (24.0, 7)


def test_expiry_counts_from_the_newest_version_or_from_the_end_of_a_freeze(folder, version_made):
    made = datetime(2026, 1, 1, tzinfo=UTC)
    version = version_made(made)
    rules = set_rules(folder, LINE, {"expires_after_hours": 2})
    assert rules.expiry(version) == made + timedelta(hours=2)
    assert freeze(folder, LINE, "why").expiry(version) is None
    assert unfreeze(folder, LINE).expiry(version) > datetime.now(UTC) + timedelta(hours=1)
    assert set_rules(folder, LINE, {"expires_after_hours": None}).expiry(version) is None


@pytest.fixture
def version_made():
    """A version of that time; nothing else of it counts here."""
    from tasks.stores.manifest import Manifest, Version

    def make(time):
        fields = {"line": LINE, "version": 1, "parent": None, "base": "b", "base_digest": "b", "config": {}}
        manifest = Manifest(**fields, request_ids=(), tensor_digests={}, batch=1, created=time.isoformat())
        return Version(1, "s", manifest)

    return make
