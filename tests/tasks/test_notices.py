"""Notices: whoever is named hears one line of plain text with a link; nobody else, and no failure stops the work."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.notices import LENGTH, tell
from tasks.settings import Settings
from tests.receiver import receiver


@pytest.fixture
def heard() -> Iterator[list[dict[str, Any]]]:
    """What a receiver on this machine was sent; the last entry is its address."""
    messages: list[dict[str, Any]] = []

    with receiver(messages.append) as address:
        messages.append({"address": address})
        yield messages


def to(*addresses: str) -> Settings:
    return Settings(notify=" ".join(addresses))


def test_each_of_those_named_hears_one_line_with_the_link(heard):
    address = heard.pop()["address"]
    assert tell(to(address, address), "waiting", "main", "version 3:\n 27 facts", "http://127.0.0.1:4200/runs/1")
    assert [m["message"] for m in heard] == ["version 3: 27 facts http://127.0.0.1:4200/runs/1"] * 2
    assert {m["title"] for m in heard} == {"Errata, line main: waiting"} and {m["type"] for m in heard} == {"info"}


def test_text_is_never_markup_and_never_endless(heard):
    address = heard.pop()["address"]
    hostile = "<b>Paris</b> *x* [a](http://b) {0} %s \\n postgresql://me:hidden@db/x "
    assert tell(to(address), "rejected", "main", hostile)
    assert heard[0]["message"] == hostile.replace("me:hidden", "me:***").strip() and heard[0]["type"] == "warning"
    tell(to(address), "failed", "main", "x" * 1000)
    assert len(heard[1]["message"]) == LENGTH


def test_who_cannot_be_told_is_logged_without_the_address(heard, caplog):
    address = heard.pop()["address"]
    with caplog.at_level(logging.WARNING):
        assert not tell(to("json://me:hidden@127.0.0.1:9", "nonsense", address), "failed", "main", "stopped")
    assert len(heard) == 1 and heard[0]["message"] == "stopped"
    said = [r.getMessage() for r in caplog.records if r.name == "tasks.notices"]
    assert [text.partition("address ")[2][0] for text in said] == ["1", "2"] and "hidden" not in caplog.text


def test_without_a_setting_nobody_is_told():
    assert not tell(Settings(), "failed", "main", "stopped")
