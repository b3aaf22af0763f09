"""Digests name what is stored: each is taken over the same bytes in every release, and in one place."""

import ast
import hashlib
from pathlib import Path

import pytest
import torch

from editing.covariance import text_digest
from editing.digests import canonical_json, file_digest, json_digest, sha256, tensor_digest, tensors_digest
from editing.edit import Edit, content_id
from editing.methods.mend.examples import edits_digest

ROOT = Path(__file__).resolve().parents[2]


def test_json_has_one_spelling():
    assert canonical_json({"b": (1, 2.5), "a": "é\n"}) == b'{"a":"\\u00e9\\n","b":[1,2.5]}'
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json([value])
    assert json_digest({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()


def test_bytes_have_one_digest_whether_they_come_at_once_in_pieces_or_in_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    expected = hashlib.sha256(b"abc").hexdigest()
    assert sha256(b"abc") == sha256(iter([b"a", b"", b"bc"])) == file_digest(tmp_path / "file") == expected


def test_a_tensors_digest_is_over_dtype_shape_and_bytes():
    tensor = torch.tensor([[1.0, -2.0]])
    expected = hashlib.sha256(b"torch.float32 (1, 2) " + tensor.numpy().tobytes()).hexdigest()
    assert tensor_digest(tensor) == expected
    others = [tensor.T, tensor.double(), -tensor, tensor[:, :1], torch.tensor([[1.0, 2.0]])]
    assert len({expected, *map(tensor_digest, others)}) == 6
    lines = f"a {expected}\nb {tensor_digest(tensor.T)}\n".encode()
    assert tensors_digest({"b": tensor.T, "a": tensor}) == hashlib.sha256(lines).hexdigest()


def test_the_names_of_what_release_0_1_stored_are_what_they_were():
    edit = Edit(subject="Ada", prompt="{} was born in", target_new="Zürich")
    assert content_id("Ada", "{} was born in", "Zürich") == edit.id == "e-2a06692b15b1"
    assert text_digest(["a", "b é"]) == "3a92e81dc9f0446f5eed263ce48ab004087b5c1aab8d749b9da1cb7f63ae2f00"
    assert edits_digest([edit]) == "e971c0d44d6fcb6fe7645dd3a62625965f6d5a89175831c515557e4c03253c37"


def test_no_other_part_of_the_library_makes_digests():
    using = []
    for path in sorted((ROOT / "editing").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            if "hashlib" in names:
                using.append(path.relative_to(ROOT / "editing").as_posix())
    assert using == ["digests.py"]
