from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import TARGETS
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from clora_cli.data.tokens import IGNORED
from clora_cli.model.base_model import find_model
from clora_cli.model.footprint import Batch, footprint
from clora_cli.model.loading import load_skeleton
from clora_cli.training.answer_logits import answer_logits, only_answers

ROWS, LENGTH, ANSWER = 4, 48, 3


def adapted(model, family):
    model.requires_grad_(False)
    return get_peft_model(
        model, LoraConfig(r=4, target_modules=TARGETS[family][1], fan_in_fan_out=family == "gpt2")
    ).train()


def kept(model, seq2seq):
    """Return the bytes that a real forward pass keeps for the backward pass, without weights."""
    weights, held = {one.untyped_storage().data_ptr() for one in model.parameters()}, {}

    def keep(tensor):
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            held[place] = tensor
        return tensor

    ids = torch.full((ROWS, LENGTH), 7)
    labels = ids[:, :ANSWER] if seq2seq else torch.where(torch.arange(LENGTH) < LENGTH - ANSWER, IGNORED, ids)
    mask = torch.ones_like(ids)
    mask[0, -1] = 0  # as padding has it
    given = {"input_ids": ids, "attention_mask": mask, **({"decoder_input_ids": labels} if seq2seq else {})}
    with saved_tensors_hooks(keep, lambda tensor: tensor), only_answers(model, labels, not seq2seq):
        logits, answers = answer_logits(model(**given, use_cache=False)["logits"], labels, not seq2seq)
        functional.cross_entropy(logits, answers, reduction="sum")
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "encoder-decoder"])
def test_a_forecast_is_what_a_real_pass_keeps(model_folder, backbone, family):
    seq2seq = family in {"t5", "encoder-decoder"}
    skeleton = load_skeleton(find_model(str(model_folder(family))))
    found = footprint(adapted(skeleton, family), Batch(ROWS, LENGTH, ANSWER, ROWS * ANSWER))
    width = skeleton.config.get_text_config(decoder=True).vocab_size
    expected = kept(adapted(backbone(family).model, family), seq2seq)
    assert found.kept + found.logits - 2 * 4 * ROWS * ANSWER * width == pytest.approx(expected, rel=0.1)
    assert found.recomputed < found.kept
