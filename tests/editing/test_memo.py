"""What is kept from step to step: once computed, within its bound, and not at the price of what was freed."""

import platform
from pathlib import Path

import pytest
import torch

from editing.methods.gradients.memo import TensorMemo, release_memory

BLOCK, BLOCKS = 16_000, 3000
"""Floats and number of blocks that C libraries take from the heap: 190 MB in all."""


def test_what_is_kept_is_made_once_and_what_has_no_room_every_time(monkeypatch):
    monkeypatch.setattr("editing.methods.gradients.memo.MEMO_BYTES", 40)
    memo, made = TensorMemo(), []

    def make(value: float):
        return lambda: made.append(value) or (torch.full((6,), value), torch.full((2,), -value))

    for value in (1.0, 1.0, 2.0, 2.0):
        one, other = memo.get(value, make(value))
        assert one.tolist() == [value] * 6 and other.tolist() == [-value] * 2
    assert made == [1.0, 2.0, 2.0] and memo.bytes == 32


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is given back")
def test_memory_that_was_freed_between_what_is_kept_goes_back():
    blocks = [torch.ones(BLOCK) for _ in range(BLOCKS)]
    kept = blocks[::50]
    del blocks
    before = resident_bytes()
    release_memory()
    assert resident_bytes() < before - BLOCKS * BLOCK * 4 / 2
    assert all(bool((block == 1).all()) for block in kept)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
