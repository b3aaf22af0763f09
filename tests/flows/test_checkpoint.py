"""Which facts of a line stand in a checkpoint, and whether it holds anything else: told from its weights alone."""

import pytest
import torch
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.knowledge_update import knowledge_update
from tasks.audit.checkpoint import audit_checkpoint
from tasks.ledger import intake
from tasks.lines.stored import stored_line
from tasks.progress import listening
from tasks.review.decisions import approve
from tasks.review.registering import pointer
from tasks.review.retracting import retract
from tasks.serving.loading import load_version
from tests.flows.command import check_one_line
from tests.flows.conftest import LENIENT, with_line
from tests.tasks.test_told_parts import Heard

pytestmark = pytest.mark.slow
LINE = "kept"


@pytest.fixture(scope="module")
def home(tmp_path_factory, shared_places, prefect_server, good_edits):
    """Version 1 of three facts, 2 of two more on it, 3 a root without the first. Nobody writes to it here."""
    home = tmp_path_factory.mktemp("checkpoints") / "home"
    places = shared_places | {"ERRATA_TRACKING_URI": "", "ERRATA_ARTIFACTS": ""}
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: prefect_server}):
        workplace = with_line(patch, places, prefect_server, home, LINE)
        for edits in (good_edits[:3], good_edits[3:5]):
            intake.submit(workplace.ledger, LINE, edits, "ann")
            knowledge_update(LINE, LENIENT)
            approve(workplace, LINE, None, "good")
        retract(workplace, LINE, [good_edits[0].id], "wrong")
        knowledge_update(LINE, LENIENT)
        yield workplace


@pytest.fixture
def versions(home, good_edits, tmp_path):
    """The home, the names of the facts, and what makes a checkpoint of a version."""

    def checkpoint(number: int, change=lambda model: None):
        loaded = load_version(
            pointer(home, home.store.version(LINE, number), stored_line(home.store.store, LINE))
        ).loaded
        change(loaded.model)
        folder = tmp_path / f"checkpoint-{number}"
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        return folder

    return home, [edit.id for edit in good_edits[:5]], checkpoint


@pytest.mark.parametrize(("number", "stand"), [(1, {0, 1, 2}), (2, {0, 1, 2, 3, 4}), (3, {1, 2, 3, 4})])
def test_the_facts_of_each_version_are_told_and_nothing_else(versions, number, stand):
    home, ids, checkpoint = versions
    heard, folder = Heard(), checkpoint(number)
    with listening(heard):
        found = audit_checkpoint(home, LINE, folder)
    assert [heard.told[what][-1] for what in ("model", "checkpoint")] == [(100, 100)] * 2
    assert heard.told["asking the change for each fact"] == [(0, 1), (0, 3), (1, 3), (2, 3), (1, 1)]
    assert {fact.request_id: fact.what for fact in found.facts} == {
        name: "stands" if place in stand else "absent" for place, name in enumerate(ids)
    }, found.facts
    assert found.version == number and not found.holds_else and found.others == {}
    assert found.changed.keys() == home.store.version(LINE, number).manifest.tensor_digests.keys()


def test_what_is_none_of_the_line_s_is_found(versions, errata_here):
    home, ids, checkpoint = versions
    edited = sorted(home.store.version(LINE, 2).manifest.tensor_digests)

    def add(name: str, rank_one: bool):
        def change(model) -> None:
            weight = model.get_parameter(name).data
            torch.manual_seed(0)
            noise = (
                torch.outer(torch.randn(len(weight)), torch.randn(weight.shape[1]))
                if rank_one
                else torch.randn_like(weight)
            )
            weight += 0.01 * weight.norm() * noise / noise.norm()

        return change

    found = audit_checkpoint(home, LINE, checkpoint(2, add(edited[0], True)))
    assert found.holds_else and found.version is None and not found.others
    assert all(fact.what == "stands" for fact in found.facts)
    other = next(name for name in dict(load_names(home)) if name not in edited and "wte" in name)
    folder = checkpoint(2, add(other, False))
    ran = errata_here("audit", LINE, "--checkpoint", folder)
    assert ran.code == 1 and "none of the line's" in ran.out and other in ran.out
    assert errata_here("audit", LINE, "--checkpoint", checkpoint(2), "--json").json["version"] == 2
    small = audit_checkpoint(home, LINE, checkpoint(2, lambda model: model.to(torch.bfloat16)))  # as many serve it
    assert small.version is None and not small.holds_else
    assert [fact.what for fact in small.facts] == ["stands"] * len(ids)
    check_one_line(errata_here("audit", LINE, "--checkpoint", folder / "none"), 2, "is no folder")
    check_one_line(errata_here("audit", "nowhere", "--checkpoint", folder), 2, "there is no line 'nowhere'")


def load_names(home):
    loaded = load_version(pointer(home, home.store.version(LINE, 1), stored_line(home.store.store, LINE))).loaded
    return loaded.model.named_parameters()


def test_the_base_itself_holds_nothing(versions):
    home, _, _ = versions
    base = stored_line(home.store.store, LINE).model
    found = audit_checkpoint(home, LINE, base)
    assert found.version == 0 and not found.holds_else and {fact.what for fact in found.facts} == {"absent"}
