from __future__ import annotations

from accelerate import cpu_offload
from refusals import refused

from clora_cli.model.bank import AdapterBank


def test_a_model_that_gives_slices_or_has_no_weights_is_refused(backbone):
    model = backbone("llama").model
    AdapterBank(model)
    cpu_offload(model, execution_device="cpu")
    with refused("model-offloaded", "--shard"):
        AdapterBank(model)


def test_a_model_that_is_split_by_tensor_parallelism_is_refused(backbone):
    model = backbone("llama").model
    model._tp_size = 2
    with refused("model-tensor-parallel", "fsdp_size"):
        AdapterBank(model)
