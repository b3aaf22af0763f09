"""The change before a norm that brings the normed output nearest to what is wanted."""

import torch
from torch import nn

from editing.methods.shared.postnorm import change_before_norm

M, N = 12, 5


def norm_with_gain() -> nn.RMSNorm:
    norm = nn.RMSNorm(M, eps=1e-6)
    norm.weight.data.uniform_(-2, 2, generator=torch.Generator().manual_seed(3))
    return norm.requires_grad_(False)


def vectors(seed: int) -> torch.Tensor:
    return torch.randn(N, M, generator=torch.Generator().manual_seed(seed))


def test_an_output_that_the_norm_can_give_is_given():
    norm, u = norm_with_gain(), vectors(0)
    wanted = norm(vectors(1))
    change = change_before_norm(norm, u, wanted - norm(u))
    torch.testing.assert_close(norm(u + change), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close((u + change).norm(dim=1), u.norm(dim=1))


def test_nothing_wanted_changes_nothing():
    u = vectors(0)
    torch.testing.assert_close(change_before_norm(norm_with_gain(), u, torch.zeros(N, M)), torch.zeros(N, M))


def test_no_other_output_comes_nearer_to_one_that_cannot_be_given():
    norm, u, R = norm_with_gain(), vectors(0), 3 * vectors(2)
    wanted = norm(u) + R
    found = u + change_before_norm(norm, u, R)
    distance = (norm(found) - wanted).norm(dim=1)
    generator = torch.Generator().manual_seed(4)
    for size in (1e-2, 1e-1, 1.0, 10.0) * 50:
        other = found + size * torch.randn(N, M, generator=generator)
        assert ((norm(other) - wanted).norm(dim=1) >= distance - 1e-5).all()
