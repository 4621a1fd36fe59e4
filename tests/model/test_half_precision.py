"""A processor that only imitates half precision is told of, where and as often as it matters."""

from __future__ import annotations

import pytest
import torch
from support import Signals

from clora_cli.model import half_precision
from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model
from clora_cli.model.half_precision import computes_in, slow_here

CPU = torch.device("cpu")


@pytest.fixture
def without(monkeypatch):
    """Pretend that the processor lacks the instructions."""
    monkeypatch.setattr(half_precision, "computes_in", lambda dtype: dtype == "float32")


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_is_asked_of_what_multiplies_matrices(monkeypatch, dtype, there):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, half_precision._ASKED[dtype], lambda: there, raising=False)
    assert computes_in(dtype) is there
    assert computes_in("float32")


def test_where_nothing_is_known_nothing_is_said(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert computes_in("bfloat16") and slow_here("bfloat16", CPU) == ""


def test_it_matters_on_a_processor_and_in_half_precision_alone(without):
    assert "--dtype float32" in slow_here("bfloat16", CPU) and "--dtype float32" in slow_here("float16", CPU)
    assert slow_here("float32", CPU) == slow_here("bfloat16", torch.device("cuda")) == ""


def test_a_model_that_is_loaded_says_it_once(without, model_folder):
    told = Signals()
    reference = find_model(str(model_folder("llama")))
    load_backbone(reference, device=CPU, dtype="bfloat16", progress=told)
    load_backbone(reference, device=CPU, progress=told)
    assert len(told.warnings) == 1 and told.warnings[0].startswith("this processor")
