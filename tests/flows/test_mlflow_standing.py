"""What MLflow says of versions follows from HEAD, whatever somebody has done to its aliases and tags."""

import pytest

from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.review import decisions
from tasks.review.aliases import sync_aliases
from tests.flows.conftest import POLICY


@pytest.mark.slow
def test_tags_and_aliases_say_how_each_version_stands_and_are_made_true_again(place, good_edits):
    line = "standing"
    workplace = place(line)
    tracker = workplace.tracker()
    client = tracker._client

    def said() -> dict[int, tuple[str, str]]:
        found = tracker.line_versions(line)
        return {number: (one.tags["errata.status"], one.tags["review"]) for number, one in found.items()}

    intake.submit(workplace.ledger, line, good_edits[:6], "tester")
    newest = knowledge_update(line, POLICY).version
    assert said() == dict.fromkeys(range(1, newest + 1), ("waiting", "waiting")) and newest > 1
    assert all(f"{line} v" in one.description for one in tracker.line_versions(line).values())
    client.set_model_version_tag(line, "1", "review", "approved")  # a person; nobody has heard it yet
    sync_aliases(tracker, workplace, line)
    assert said()[1] == ("waiting", "approved")
    decisions.approve(workplace, line, version=1)
    decisions.reject(workplace, line, reason="wrong source")
    assert said() == {1: ("in service", "approved")} | dict.fromkeys(range(2, newest + 1), ("rejected", "rejected"))

    client.delete_registered_model_alias(line, "champion")
    client.set_registered_model_alias(line, "challenger", "1")
    client.set_model_version_tag(line, "2", "errata.status", "in service")
    sync_aliases(tracker, workplace, line)
    assert tracker.aliases(line) == {"champion": 1} and said()[2] == ("rejected", "rejected")
    decisions.roll_back(workplace, line, to=0)
    assert said()[1] == ("rolled back", "approved") and tracker.aliases(line) == {"previous": 1}
