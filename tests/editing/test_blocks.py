"""Laws of sums over very many facts: block by block is the whole, in whatever blocks, and keys are needed once."""

import weakref

import pytest
import torch

from editing.errors import SolveError
from editing.methods.shared import blocks
from editing.methods.shared.history import KeyHistory
from editing.methods.shared.solve import memit_gain

D, M, N, WEIGHT = 24, 8, 300, 50.0


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture
def C_dd() -> torch.Tensor:
    Y = drawn(D, 2 * D, seed=7)
    return Y @ Y.T / (2 * D)


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_block_by_block_is_the_whole_solve(C_dd, monkeypatch, size, dtype, error):
    monkeypatch.setattr(blocks, "WIDTH", 10)
    K_nd, R_nm = drawn(N, D, dtype=dtype), drawn(N, M, dtype=dtype, seed=1)
    H_dd = torch.eye(D, dtype=torch.float64)
    whole = R_nm.double().T @ memit_gain(C_dd, H_dd, K_nd.T, WEIGHT)
    coming = zip(K_nd.split(size), R_nm.split(size), strict=True)
    found = blocks.delta_in_blocks(WEIGHT * C_dd + H_dd, coming)
    assert found.dtype == torch.float64 and float((found - whole).norm() / whole.norm()) < error


def test_what_comes_is_read_once_and_never_held(C_dd):
    came: list[weakref.ref[torch.Tensor]] = []

    def coming():
        for seed in range(5):
            K_nd = drawn(10, D, seed=seed)
            came.append(weakref.ref(K_nd))
            assert sum(one() is not None for one in came) <= 2  # the one before is gone once the next is there
            yield K_nd, drawn(10, M, seed=9)

    blocks.delta_in_blocks(C_dd, coming())


def test_without_a_key_there_is_nothing_to_solve(C_dd):
    with pytest.raises(SolveError, match="no keys"):
        blocks.delta_in_blocks(C_dd, [])


def test_the_history_sums_many_keys_as_few(monkeypatch):
    monkeypatch.setattr(blocks, "AT_ONCE", 7)
    K_nd, history = drawn(N, D, dtype=torch.float32), KeyHistory()
    history.add({0: K_nd})
    torch.testing.assert_close(history.gram(0, D), K_nd.double().T @ K_nd.double(), rtol=1e-13, atol=1e-12)
