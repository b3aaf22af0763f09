"""Lines whose method has no values: a fact that leaves is as if it had never been, by writing the others anew."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from editing.digests import tensor_digest
from editing.errors import HypernetworkError, UsageError
from editing.models import base_digest
from editing.placed import tensor_of
from flows.knowledge_update import knowledge_update
from tasks.audit.auditing import audit
from tasks.ledger import intake
from tasks.ledger.removals import take_out
from tasks.ledger.reserved import REFUSE, RETRACT
from tasks.ledger.view import chain, look
from tasks.lines.hypernetworks import cached, stored
from tasks.lines.specs import resolve_line
from tasks.review import decisions
from tasks.settings import load_settings
from tasks.update import stages
from tasks.update.session import Session, open_session
from tasks.workplace import open_workplace
from tests.costs import some
from tests.flows.conftest import LENIENT
from tests.flows.test_methods import gradient_step

pytestmark = pytest.mark.slow

OPTIONS = {
    "finetune": {"layers": [1], "steps": 2, "minibatch": 2},
    "lora": {"layers": [0, 1], "steps": 2},
    "ultraedit": {"layers": [0, 1]},
    "mend": {"layers": [0, 1]},
}
KEPT = pytest.mark.parametrize("method", some(OPTIONS, kept=("ultraedit",)))
POLICY = LENIENT.model_copy(update={"batch_size": 10, "fluency_prompts": 0, "retained_sample": 2})


class Line:
    """A line of a method without values, and what is done to it."""

    def __init__(self, workplace, name, method, options) -> None:
        self.workplace, self.name, self.how = workplace, name, {"method": method, "options": options}

    def write(self, *facts) -> dict[str, str]:
        """These facts in one job; the digests of the version that it made."""
        intake.submit(self.workplace.ledger, self.name, facts, "tester")
        return self.job()

    def take_out(self, *facts, prefix=RETRACT) -> None:
        """Queue removals for the next job."""
        names = [one.id for one in facts]
        take_out(self.workplace.store, self.workplace.ledger, self.name, names, "tester", "wrong", prefix=prefix)

    def job(self) -> dict[str, str]:
        """A job on what is queued, of which it keeps all; the digests of the version that it made."""
        made = len(self.workplace.store.versions(self.name))
        summary = knowledge_update(self.name, POLICY, **self.how)
        assert len(self.workplace.store.versions(self.name)) > made, summary.said
        assert not (summary.quarantined or summary.rejected), summary.said
        return self.digests()

    def digests(self) -> dict[str, str]:
        return self.workplace.store.versions(self.name)[-1].manifest.tensor_digests

    def approve(self) -> list[str]:
        """The facts in service then, of a line that agrees with itself."""
        decisions.approve(self.workplace, self.name)
        assert audit(self.workplace, self.name, mlflow=False).faults == []
        return list(look(self.workplace.store, self.workplace.ledger, self.name).live)

    @contextmanager
    def restored(self) -> Iterator[Session]:
        """The newest version, from what it stores."""
        workplace = self.workplace
        session = open_session(resolve_line(workplace.store.store, workplace.settings, self.name), workplace.settings)
        view = look(workplace.store, workplace.ledger, self.name)
        session.restore((one, workplace.store.tensors(one)) for one in chain(view, view.tip))
        yield session


@pytest.fixture
def line(place, shared_places, tmp_path):
    """Makes lines of a method in one home."""
    workplace = place("first")

    def make(name: str, method: str) -> Line:
        options = dict(OPTIONS[method])
        if method == "mend":
            options["hypernetwork"] = str(gradient_step(shared_places["ERRATA_MODEL"], [0, 1], tmp_path))
        return Line(workplace, f"{method}-{name}", method, options)

    return make


@KEPT
def test_a_fact_that_leaves_is_as_if_it_had_never_been(line, good_edits, method):
    a, b, c, d, e = good_edits[:5]
    other = next(one.target_new for one in good_edits if one.target_new not in (c.target_new, c.target_true))
    new = c.model_copy(update={"id": "new", "target_new": other})
    held, apart, whole = (line(name, method) for name in ("held", "apart", "whole"))
    first = held.write(a, b, c, d)
    assert held.approve() == [a.id, b.id, c.id, d.id]
    # One is retracted and one replaced: what is new is written on those that stay.
    held.take_out(b)
    changed = held.write(new, e)
    apart.write(a, d)
    assert changed == apart.write(new, e) != first
    check_restored(held, apart, [a, d, new, e])
    # One is left out of what waits.
    held.take_out(e, prefix=REFUSE)
    left = held.job()
    assert left == whole.write(a, d, new)
    check_restored(held, whole, [a, d, new])
    assert held.approve() == [a.id, d.id, "new"]
    # All are retracted.
    held.take_out(a, d, new)
    base = held.job()
    assert held.approve() == []
    with held.restored() as session:
        assert not session.live and base_digest(session.loaded.model) == session.loaded.digest
        assert base == {name: tensor_digest(tensor_of(session.loaded.model, name)) for name in left}
        history = session.method_input.history
        assert not (history.count or history.grams or history.recent or history.moments)


def check_restored(one, other, facts) -> None:
    """Two lines with the same facts come back alike, bit for bit, and a batch finds the same on them."""
    with one.restored() as found, other.restored() as same:
        assert found.live == same.live == [fact.id for fact in facts]
        assert found.weights.digests() == same.weights.digests() == one.digests()
        history, equal = found.method_input.history, same.method_input.history
        assert history.count == equal.count
        for kind in ("grams", "recent", "moments"):
            tensors, others = getattr(history, kind), getattr(equal, kind)
            assert tensors.keys() == others.keys()
            assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def test_without_its_hypernetwork_a_line_loses_no_fact_and_says_so(line, good_edits):
    held = line("refused", "mend")
    held.write(*good_edits[:2])
    held.approve()
    held.take_out(good_edits[0])
    store, settings = held.workplace.store.store, held.workplace.settings
    config = resolve_line(store, settings, held.name).config
    digest = config.hypernetwork_digest
    data = stored(store).get(digest)
    stored(store).delete(digest)
    cached(settings, digest).unlink()
    held.how = {}
    check_refused(held, HypernetworkError, digest[:12])
    stored(store).put(data)
    held.job()
    assert held.approve() == [good_edits[1].id]


def test_what_the_ledger_does_not_know_is_refused_by_name_before_the_model_is_loaded(
    line, good_edits, tmp_path, monkeypatch
):
    held, ledger = line("older", "finetune"), Path(load_settings().ledger_uri)
    held.write(good_edits[0])
    shutil.copytree(ledger, tmp_path / "copy")
    held.write(good_edits[1])
    shutil.rmtree(ledger)
    shutil.copytree(tmp_path / "copy", ledger)
    held.workplace = open_workplace(load_settings())
    held.take_out(good_edits[0])
    monkeypatch.setattr(stages, "load", lambda *asked: pytest.fail("the model was loaded"))
    check_refused(held, UsageError, f"cannot be made anew: .* its fact '{good_edits[1].id}' says; restore the ledger")


def check_refused(held, error, says) -> None:
    """The job ends with this, and versions, HEAD and the states of requests are what they were."""
    workplace, line = held.workplace, held.name

    def standing():
        states = {name: one.state for name, one in workplace.ledger.states(line).items()}
        return states, [one.snapshot for one in workplace.store.versions(line)], workplace.store.head(line)

    before = standing()
    with pytest.raises(error, match=says):
        knowledge_update(line, POLICY)
    assert standing() == before and "queued" in before[0].values()
