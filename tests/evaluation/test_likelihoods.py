"""Labels are ranked, and answers generated, as by a loop over single texts, whatever a model keeps while it reads."""

from __future__ import annotations

import pytest
import torch
import transformers
from refusals import refused
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from clora_cli.data import load_task
from clora_cli.evaluation.answers import generate, rank_labels
from clora_cli.evaluation.likelihoods import Likelihoods
from clora_cli.evaluation.prompts import Prompts
from clora_cli.model.backbone import load_backbone
from clora_cli.model.base_model import find_model

_COMMON = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_LAYERS |= {"num_key_value_heads": 2, "max_position_embeddings": 256}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
CAUSAL = {
    # configuration: options, whether the labels share what was kept of the prompt
    "Mistral": ({**_LAYERS, "sliding_window": 4}, True),
    "Gemma3Text": ({**_LAYERS, "head_dim": 8, "sliding_window": 4}, True),
    "Bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 4}, True),
    "Qwen3Next": (
        {
            **_LAYERS,
            **_LINEAR,
            **_EXPERTS,
            "head_dim": 8,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
        False,
    ),
    "FalconH1": ({**_LAYERS, **_MAMBA, "mamba_n_heads": 4, "mamba_d_ssm": 32}, False),
    "Bamba": ({**_LAYERS, **_MAMBA, "attn_layer_indices": [1]}, False),
    "Jamba": (
        {**_LAYERS, **_EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4}
        | {"use_mamba_kernels": False},
        False,
    ),
    "Mamba": ({"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, False),
    "Bart": ({"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}, False),
    "Rwkv": ({"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}, False),
}
_SIDES = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
_SIDES |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 256}
SEQ2SEQ = {
    "Bart": {**_SIDES, "decoder_start_token_id": 1, "forced_bos_token_id": 0},
    "MBart": {**_SIDES, "decoder_start_token_id": 5},
    "Marian": {**_SIDES, "decoder_start_token_id": 2},
}


@pytest.fixture
def task(tasks):
    return load_task(str(tasks["first"]))


@pytest.fixture
def saved(tmp_path, backbone):
    """Save a random model of a configuration and load it as a base model."""

    def make(kind, auto, options, **generation):
        tokenizer = backbone().tokenizer
        config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **_COMMON, **options)
        torch.manual_seed(0)
        model = auto.from_config(config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                if parameter.ndim == 2 and any(word in name for word in ("embed", "proj", "head", "shared")):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        for name, value in generation.items():
            setattr(model.generation_config, name, value)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return load_backbone(find_model(str(tmp_path / "model")), device=torch.device("cpu"))

    return make


def logits_after(base, ids, answer):
    """Return the logits that predict an answer's tokens, from one text alone."""
    with torch.no_grad():
        if base.kind == "causal":
            return base.model(input_ids=torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
        given = torch.tensor([[base.tokens.start, *answer[:-1]]])
        return base.model(input_ids=torch.tensor([ids]), decoder_input_ids=given).logits[0]


def check(base, task):
    prompts = Prompts.encode(base, task, task.test, 64, 12)
    assert len({len(ids) for ids in prompts.ids}) > 1
    expected = torch.stack(
        [
            torch.stack([logits_after(base, ids, a).log_softmax(-1)[range(len(a)), a].sum() for a in prompts.labels])
            for ids in prompts.ids
        ]
    )
    likelihoods = Likelihoods(base, prompts.labels)
    with torch.no_grad():
        for rows, batch in prompts.batches():
            assert torch.allclose(likelihoods.of(batch), expected[rows], rtol=1e-4, atol=1e-4)
    best = [task.labels[index] for index in expected.argmax(dim=1).tolist()]
    assert rank_labels(prompts, task.labels, lambda rows: None) == best
    greedy = []
    for ids in prompts.ids:
        said = []
        while len(said) < 4 and base.tokens.end() not in said:
            said.append(int(logits_after(base, ids, [*said, 0])[-1].argmax()))
        greedy.append(base.tokenizer.decode(said, skip_special_tokens=True).strip())
    assert generate(prompts, 4, lambda rows: None) == greedy
    return likelihoods


@pytest.mark.parametrize("kind", CAUSAL)
def test_every_kind_of_cache_gives_the_likelihoods_of_single_texts(saved, task, kind):
    options, shares = CAUSAL[kind]
    likelihoods = check(saved(kind, AutoModelForCausalLM, options), task)
    assert likelihoods.shares is shares


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_decoders_start_in_generation_as_in_training(saved, task, kind):
    check(saved(kind, AutoModelForSeq2SeqLM, SEQ2SEQ[kind], repetition_penalty=3.0, min_length=3), task)


def test_a_model_that_fails_is_told_in_one_line(backbone, task, monkeypatch):
    base = backbone()
    prompts = Prompts.encode(base, task, task.test, 64, 12)

    def fail(*arguments, **options):
        raise IndexError("index out of range in self")

    monkeypatch.setattr(base.model.model, "forward", fail)
    ways = {
        "generation-failed": lambda: generate(prompts, 3, print),
        "label-ranking-failed": lambda: rank_labels(prompts, task.labels, print),
    }
    for code, answer in ways.items():
        with refused(code, base.reference.id, "index out of range in self"):
            answer()


def test_a_label_without_room_is_refused(saved, task, backbone):
    short = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 100}
    base = saved("GPT2", AutoModelForCausalLM, short)
    prompts = Prompts.encode(base, task, task.test, 512, 12)
    assert max(map(len, prompts.ids)) + prompts.room <= 100
    tight = Prompts(base, prompts.examples, prompts.ids, prompts.labels, 12, room=1)
    with refused("label-too-long", base.tokens.model, 1):
        rank_labels(tight, task.labels, lambda rows: None)
