"""A kept factor gives what solving anew gives, whatever came before, and only what was kept leaves a trace."""

import pytest
import torch

from editing.errors import SolveError
from editing.methods.shared.growing import GrowingFactor
from editing.methods.shared.history import RECENT_SHARE, KeyHistory
from editing.methods.shared.solve import memit_gain

D, WEIGHT = 64, 0.3
BATCHES = (3, 2, 4, 1, 6, 20, 2)
"""Sizes of batches: some stay recent, some pass D / RECENT_SHARE."""


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TEXT = random(D, 300, seed=0)
C = TEXT @ TEXT.T / 300


def keys(number: int) -> torch.Tensor:
    return random(D, BATCHES[number], seed=number + 1).float()


def kept_gain(history: KeyHistory, K: torch.Tensor, made: list[int] | None = None) -> torch.Tensor:
    def matrix(H):
        if made is not None:
            made.append(1)
        return WEIGHT * C if H is None else WEIGHT * C + H

    return history.factored(1, C, (WEIGHT,), matrix).gain(K)


def test_after_any_batches_the_gain_is_that_of_the_whole_matrix():
    history, H = KeyHistory(), torch.zeros(D, D, dtype=torch.float64)
    for number in range(len(BATCHES)):
        K = keys(number)
        torch.testing.assert_close(kept_gain(history, K), memit_gain(C, H, K, WEIGHT), atol=1e-11, rtol=1e-9)
        history.add({1: K.T})
        H = H + K.double() @ K.double().T
        torch.testing.assert_close(history.gram(1, D), H, atol=1e-9, rtol=1e-12)


@pytest.mark.parametrize("after", range(1, len(BATCHES) - 1))
def test_keys_that_are_gone_leave_no_trace_in_what_is_solved(after):
    history, clean = KeyHistory(), KeyHistory()
    for number in range(len(BATCHES) - 1):
        history.add({1: keys(number).T}, gone={1: keys(0).T} if number == after else None)
        if number:
            clean.add({1: keys(number).T})
        kept_gain(history, keys(number))
    torch.testing.assert_close(history.gram(1, D), clean.gram(1, D), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(kept_gain(history, keys(6)), kept_gain(clean, keys(6)), atol=1e-9, rtol=1e-7)


def test_a_batch_that_is_not_kept_leaves_no_trace():
    clean, tried = KeyHistory(), KeyHistory()
    for number in range(len(BATCHES) - 1):
        for _ in range(2):
            kept_gain(tried, keys(number + 1))
        assert torch.equal(kept_gain(tried, keys(number)), kept_gain(clean, keys(number)))
        for history in (clean, tried):
            history.add({1: keys(number).T})
    assert torch.equal(tried.gram(1, D), clean.gram(1, D))


def test_the_matrix_is_factored_once_for_many_batches():
    history, made = KeyHistory(), []
    for number in range(100):
        K = random(D, 1, seed=number)
        kept_gain(history, K, made)
        history.add({1: K.T})
    assert len(made) == -(-100 // (D // RECENT_SHARE))
    assert max(len(recent) for recent in history.recent.values()) < D // RECENT_SHARE


def test_another_matrix_is_not_answered_from_the_kept_factor():
    history, K = KeyHistory(), keys(0)
    kept_gain(history, K)
    for source, about, scale in ((C, (2 * WEIGHT,), 2), (C.clone(), (WEIGHT,), 3)):
        found = history.factored(1, source, about, lambda H, scale=scale: scale * C).gain(K)
        torch.testing.assert_close(found, memit_gain(C, torch.zeros(D, D), K, scale), atol=1e-11, rtol=1e-9)


def test_statistics_of_too_little_text_still_solve():
    few = random(D, 5, seed=9)
    K, H = keys(0), torch.zeros(D, D)
    gain = GrowingFactor.of(few @ few.T).gain(K)
    torch.testing.assert_close(gain @ K.double(), memit_gain(few @ few.T, H, K, 1.0) @ K.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value):
    bad = C.clone()
    bad[3, 4] = bad[4, 3] = value
    with pytest.raises(SolveError, match="singular: raise statistics_weight or ridge"):
        GrowingFactor.of(bad)
    K = keys(0)
    K[5, 1] = value
    with pytest.raises(SolveError, match="not finite; raise statistics_weight or ridge, or leave edits out"):
        GrowingFactor.of(C).gain(K)
