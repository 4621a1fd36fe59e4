"""Every method trains to the bytes that clora 0.1.0 trained to (tests/artifacts/0.1.0/README.md)."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clora_cli.options import TrainOptions
from clora_cli.store.side_files import FEATURES, STATE
from clora_cli.training import make_plan, train_task

RECORD = json.loads((Path(__file__).parents[1] / "artifacts" / "0.1.0" / "checksums.json").read_text(encoding="utf-8"))
FILES = {"adapter": "adapter_model.safetensors", "state": STATE, "features": FEATURES}
CHOSEN = {"rank": 2, "alpha": 4.0, "max_steps": 2, "batch_size": 4, "train_rows": 8, "device": "cpu"}
CHOSEN |= {"max_length": 48, "max_answer_length": 8}
# On another processor the sign of a gradient that is nearly 0 may turn, and Adam moves that entry by the learning rate.
CLOSE, TURNED = 0.03, 8 * 2 * 0.006
CHOOSING = {"cast"}  # after two steps of Adam entries have moved equally far: rounding decides which of them stay


def setup():
    """Return what decides the last bits of a result."""
    return {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def digest(tensors):
    """Return the SHA-256 of tensors by name: their names, types, shapes and bytes, in the order of the names."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def sketch(tensor):
    """Return two numbers that tell a tensor from others: its norm, and its product with a fixed direction."""
    flat = tensor.flatten().double()
    return [float(flat.norm()), float(flat @ torch.arange(1.0, len(flat) + 1, dtype=torch.float64).cos())]


def check(path, expected, choosing):
    found = load_file(path)
    if setup() == RECORD["setup"]:
        assert digest(found) == expected["sha256"], f"{path} has other bytes"
    assert set(found) == set(expected["tensors"])
    if choosing and path.name == FILES["adapter"]:
        norms = [[sketch(tensor)[0] for tensor in found.values()], [norm for norm, _ in expected["tensors"].values()]]
        assert math.hypot(*norms[0]) == pytest.approx(math.hypot(*norms[1]), rel=0.1)
    for name, tensor in found.items() if not choosing else ():
        norm, product = expected["tensors"][name]
        assert sketch(tensor)[0] == pytest.approx(norm, rel=CLOSE, abs=1e-12), name
        assert sketch(tensor)[1] == pytest.approx(product, abs=max(TURNED, 0.1 * norm)), name


@pytest.mark.parametrize("method", sorted(RECORD["methods"]))
def test_two_tasks_train_to_the_bytes_of_0_1_0(method, tmp_path):
    for task, files in RECORD["methods"][method].items():
        folder, _ = train_task(make_plan(TrainOptions(data=task, method=method, package=tmp_path, **CHOSEN)))
        assert {kind for kind, name in FILES.items() if (folder.path / name).exists()} == set(files)
        for kind, expected in files.items():
            check(folder.path / FILES[kind], expected, method in CHOOSING)
