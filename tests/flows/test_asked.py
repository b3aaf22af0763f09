"""Laws of a candidate that workers ask as well: the same bits, whoever asks, and nothing is asked again."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from prefect.settings import PREFECT_API_URL, temporary_settings

from editing.errors import ErrataError
from editing.measure import metrics
from flows.knowledge_update import knowledge_update
from tasks.ledger import intake
from tasks.ledger.view import chain, look
from tasks.lines.specs import existing_line
from tasks.stores.errors import StorageError
from tasks.stores.searches import Searches
from tasks.update import asked, validation
from tasks.update.asked import AskedVersion, ask_with_workers, open_asked
from tasks.update.reference import measure_reference
from tasks.update.session import open_session
from tasks.update.shards import search_shard
from tests.flows.conftest import LENIENT, with_line

POLICY = LENIENT.model_copy(update={"workers": 2})


@pytest.fixture(scope="module")
def candidate(shared_places, prefect_server, tmp_path_factory, good_edits):
    """A version of five facts that waits, the session of its job, and what is to be asked, two facts at a time."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: prefect_server}):
        patch.setattr(asked, "FACTS", 2)
        yield made(with_line(patch, shared_places, prefect_server, home, "asked"), good_edits[:5])


def made(workplace, edits):
    intake.submit(workplace.ledger, "asked", edits, "tester")
    knowledge_update("asked", LENIENT)
    spec = existing_line(workplace.store, workplace.ledger, "asked")
    session = open_session(spec, workplace.settings, only_asked=True)
    view = look(workplace.store, workplace.ledger, "asked")
    session.restore_from(workplace.store, chain(view, view.tip))
    run = SimpleNamespace(line="asked", policy=POLICY, workplace=workplace, spec=spec)
    search = asked._planned(run, session, edits[:3], edits, view.tip)
    return SimpleNamespace(run=run, session=session, edits=edits, search=search, workplace=workplace, tip=view.tip)


def nobody(*args, **options):
    raise OSError("no server is there")


def fresh(session):
    return replace(session, said={}, texts={}, perplexities={}, fluencies={})


def judged(candidate, session):
    reference = measure_reference(session, POLICY, None)
    return validation.judge_candidate(session, candidate.edits[:3], candidate.edits, reference, POLICY)


def shard(candidate, search, first=0, every=1):
    store = candidate.workplace.store.store
    return search_shard(store, candidate.workplace.settings, Searches(store).begin(search), first, every)


@pytest.mark.slow
def test_what_shards_tell_is_what_the_job_hears_itself_and_the_judge_asks_nothing_again(candidate, monkeypatch):
    search, store = candidate.search, candidate.workplace.store.store
    assert [len(chunk.groups) for chunk in search.chunks] == [2, 1, 2, 2, 1] and search.asked.whole == 2
    assert [shard(candidate, search, first, 3).chunks for first in (2, 0, 1)] == [1, 2, 2]
    own = AskedVersion(fresh(candidate.session), search)
    found = [Searches(store).told(chunk)[0] for chunk in search.chunks]
    assert found == [own.find(number, lambda done, total: None) for number in range(5)]
    assert [bool(told.texts) for told in found] == [True, True, False, False, False]

    with pytest.raises(StorageError, match=r"what was told of chunk [0-9a-f]{12} answers other questions: remove it"):
        own.know(0, found[1])
    alone = judged(candidate, fresh(candidate.session))
    for number, told in enumerate(found):
        own.know(number, told)
    scored, real = [], validation.Session.scores

    def scores(self, *args, **options):
        state = self.weights.state
        before = len(self.said.get(state, {}))
        answer = real(self, *args, **options)
        scored.append(len(self.said[state]) - before)
        return answer

    monkeypatch.setattr(validation.Session, "scores", scores)
    asked_again = []
    monkeypatch.setattr(
        "tasks.update.saying.written_and_scored",
        lambda model, tokenizer, some, *rest: (asked_again.extend(some) or [], {}),
    )
    beside = judged(candidate, own.session)
    assert scored and not any(scored) and not asked_again
    assert beside.verdict.said == alone.verdict.said
    assert beside.numbers == pytest.approx(alone.numbers, rel=1e-5)


def test_a_prompt_that_is_said_and_scored_is_read_once(candidate, monkeypatch):
    judged(candidate, fresh(candidate.session))  # what the base says is cached now
    scored, real = [], metrics.score
    monkeypatch.setattr(
        metrics,
        "score",
        lambda model, tokenizer, pairs, **rest: scored.extend(pairs) or real(model, tokenizer, pairs, **rest),
    )
    judged(candidate, fresh(candidate.session))
    own = {prompt for edit in candidate.edits[:3] for prompt in (edit.text, *edit.paraphrases)}
    assert {prompt for prompt, _ in scored}.isdisjoint(own) and scored


@pytest.mark.slow
def test_what_no_worker_asks_the_job_asks_itself_and_it_leaves_nothing(candidate, monkeypatch):
    monkeypatch.setattr("tasks.update.team.UNTAKEN_SECONDS", 0.0)
    monkeypatch.setattr("tasks.update.team.run_deployment", nobody)
    session = fresh(candidate.session)
    store = candidate.workplace.store.store
    for key in store.list("searches/"):
        store.delete(key)
    shard(candidate, candidate.search, 1, 5)  # of a job that was killed
    asked_here, real = [], AskedVersion.find
    monkeypatch.setattr(
        AskedVersion, "find", lambda self, number, tell: asked_here.append(number) or real(self, number, tell)
    )
    ask_with_workers(candidate.run, session, candidate.edits[:3], candidate.edits, candidate.tip)
    assert asked_here == [0, 3, 2, 4]  # a third is the job's own
    assert session.said[session.weights.state] and store.list("searches/answers/") == []


@pytest.mark.slow
def test_another_version_release_or_tokenizer_is_refused_in_one_line(candidate):
    search, store, settings = candidate.search, candidate.workplace.store.store, candidate.workplace.settings
    renamed = search.chunks[0].model_copy(update={"name": "0" * 64})
    for change, says in (
        ({"release": "9.9"}, r"line 'asked': its job runs Errata 9\.9, this worker has "),
        ({"base": "0" * 64}, r"line 'asked': its base '.*' has digest 000000000000 for the job and [0-9a-f]{12} here"),
        (
            {"chunks": (renamed,)},
            r"line 'asked': a search is known as 000000000000 to the job and as [0-9a-f]{12} here",
        ),
    ):
        with pytest.raises(ErrataError, match=says) as error:
            shard(candidate, search.model_copy(update=change))
        assert "\n" not in str(error.value)
    gone = search.asked.model_copy(update={"snapshot": "0" * 64})
    with pytest.raises(ErrataError):
        open_asked(search.model_copy(update={"asked": gone}), store, settings)
    assert torch.get_num_threads() == search.threads
