"""Safetensors files: what the header tells without the library, damaged ones, and one written tensor by tensor."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from clora_cli.base.errors import ArtifactError
from clora_cli.store.tensors import (
    check_numbers,
    each_tensor,
    read_header,
    read_tensors,
    save_tensors,
    stream_tensors,
)

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.zeros(0, 5)}


@pytest.fixture
def path(tmp_path):
    save_tensors(tmp_path / "some.safetensors", TENSORS)
    return tmp_path / "some.safetensors"


def test_the_header_says_what_the_library_says(path):
    header, begin = read_header(path)
    with safe_open(path, "pt") as file:
        assert {name: entry["shape"] for name, entry in header.items()} == {
            name: file.get_slice(name).get_shape() for name in file.keys()
        }
    start, end = header["a"]["data_offsets"]
    assert path.read_bytes()[begin + start : begin + end] == TENSORS["a"].numpy().tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends within its header"),
        (b"\xff" * 40, "ends within its header"),
        (b"\x04" + bytes(7) + b"\xff" * 40, "can't decode"),
        (b"\x02" + bytes(7) + b"[]", "no header"),
        (b"\x0a" + bytes(7) + b'{"a": {} }', "no header"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, content, message):
    (tmp_path / "odd.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_header(tmp_path / "odd.safetensors")


def test_a_file_cut_short_names_the_tensor(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"ends within '[ab]'"):
        read_header(path)


def test_a_header_that_another_file_has_too_does_not_vouch_for_the_file(tmp_path, path):
    read_tensors(path, at_once=True)
    (tmp_path / "short.safetensors").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="is damaged"):
        read_tensors(tmp_path / "short.safetensors", at_once=True)


def test_a_file_is_read_at_once_as_tensor_by_tensor(tmp_path):
    kinds = (torch.float64, torch.float16, torch.float8_e4m3fn, torch.int16, torch.bool, torch.complex64)
    kept = {str(kind): torch.arange(6).reshape(3, 2).to(kind) for kind in kinds} | TENSORS
    save_tensors(tmp_path / "kinds.safetensors", kept)
    found, slowly = (
        read_tensors(tmp_path / "kinds.safetensors", at_once=True),
        dict(each_tensor(tmp_path / "kinds.safetensors")),
    )
    assert list(found) == list(slowly)
    for name, tensor in slowly.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tolist() == tensor.tolist()


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -2e6])
def test_an_odd_number_is_found_among_many_tensors(tmp_path, odd):
    named = {f"t{number}": torch.ones(2, 3, dtype=(torch.float32, torch.float64)[number % 2]) for number in range(9)}
    check_numbers(named.items(), tmp_path)
    named |= {"large": torch.ones(600, 600), "t7": named["t7"].clone()}
    named["t7"][1, 2] = odd
    with pytest.raises(ArtifactError, match="'t7' has numbers"):
        check_numbers(named.items(), tmp_path)


def test_tensor_by_tensor_gives_what_the_library_reads(tmp_path, path):
    named = {name: tensor.float() for name, tensor in TENSORS.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    stream_tensors(tmp_path / "other.safetensors", shapes, torch.float32, named.items())
    found = read_tensors(tmp_path / "other.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in named.items())
    with pytest.raises(ValueError, match="fewer tensors"):
        stream_tensors(tmp_path / "third.safetensors", shapes, torch.float32, [])
