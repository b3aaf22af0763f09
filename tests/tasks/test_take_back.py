"""What a breach does to a line, and what looking after it costs."""

import pytest

from tasks.review import decisions
from tasks.review.pending import carry_out
from tasks.stores.folder import FolderStore
from tasks.stores.snapshots import SnapshotStore


def test_a_second_breach_never_brings_back_what_the_first_took_out(line):
    decisions.approve(line.workplace, line.name, 1)
    decisions.approve(line.workplace, line.name, 2)
    decisions.take_back(line.workplace, line.name, 2, since=2, reason="breached")
    assert line.serving() == 1
    decisions.take_back(line.workplace, line.name, 1, since=3, reason="breached")
    assert line.serving() == 0
    with pytest.raises(decisions.NotInService, match=r"version 1 .* is not in service"):
        decisions.take_back(line.workplace, line.name, 1, since=3)


def test_what_was_put_back_since_a_breach_is_not_taken_out_by_it(line):
    decisions.approve(line.workplace, line.name, 1)
    decisions.roll_back(line.workplace, line.name)
    decisions.roll_back(line.workplace, line.name, 1, "the disk was at fault")
    for since in (1, 9):
        with pytest.raises(decisions.NotInService):
            decisions.take_back(line.workplace, line.name, 1, since=since)
    assert line.serving() == 1


@pytest.mark.parametrize(("elsewhere", "serving"), [("promote", 2), ("reject", 0)])
def test_a_breach_looks_again_where_head_moves_meanwhile(line, monkeypatch, elsewhere, serving):
    decisions.approve(line.workplace, line.name, 1)
    move, moved = SnapshotStore.move_head, []

    def first_another(store, *args, **kwargs):
        if not moved:
            moved.append(True)
            if elsewhere == "promote":
                decisions.approve(line.workplace, line.name, 2)
            else:
                decisions.reject(line.workplace, line.name, 2, "wrong source")
        return move(store, *args, **kwargs)

    monkeypatch.setattr(SnapshotStore, "move_head", first_another)
    try:
        decisions.take_back(line.workplace, line.name, 1, since=1)
    except decisions.NotInService:
        assert serving == 2
    assert line.serving() == serving


@pytest.mark.slow
def test_to_carry_out_reads_the_store_no_more_often_for_more_decided_versions(line, monkeypatch):
    def calls():
        made = []
        for name in ("get", "list"):
            do = getattr(FolderStore, name)
            monkeypatch.setattr(FolderStore, name, lambda *args, do=do: made.append(args) or do(*args))
        assert carry_out(line.workplace, line.name) == []
        monkeypatch.undo()
        return len(made)

    decisions.approve(line.workplace, line.name)
    carry_out(line.workplace, line.name)
    two = calls()
    for _ in range(3):
        line.make()
        decisions.approve(line.workplace, line.name)
    carry_out(line.workplace, line.name)
    assert calls() == two
