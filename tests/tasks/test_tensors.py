"""Tensors as bytes: whatever they are views of, what comes back is what they hold, and large ones are not copied."""

import torch

from tasks.stores.tensors import parsed, tensor_bytes


def test_views_of_one_memory_come_back_as_what_they_hold():
    whole = torch.arange(24.0).reshape(4, 6)
    views = {
        "whole": whole,
        "half": whole[:, :3],
        "rows": whole[1:3],
        "turned": whole.T,
        "again": whole,
        "no": whole[:0],
    }
    found = parsed(tensor_bytes(views, "views"), "views")
    assert found.keys() == views.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in views.items())


def test_what_shares_no_memory_is_not_copied(monkeypatch):
    tensors = {"a": torch.ones(3, 2), "b": torch.zeros(2, dtype=torch.bfloat16)}
    expected = tensor_bytes({name: tensor.clone() for name, tensor in tensors.items()}, "clones")
    monkeypatch.setattr(torch.Tensor, "clone", None)
    assert tensor_bytes(tensors, "as they are") == expected
