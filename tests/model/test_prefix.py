"""A beginning that rows share, run once."""

from __future__ import annotations

import pytest
import torch
import transformers
from causal_models import EXACT, FITTING, SIZE, UNFIT
from peft import LoraConfig, get_peft_model

from clora_cli.model.linear_layers import find_sites
from clora_cli.model.prefix import SharedPrefix, shared_length

IDS = torch.randint(3, 96, (3, 12), generator=torch.Generator().manual_seed(5))
IDS[:, :5] = IDS[0, :5]
MASK = torch.ones_like(IDS)
MASK[1, 9:] = 0
INPUTS = {"input_ids": IDS.masked_fill(MASK == 0, 0), "attention_mask": MASK}


def model_of(config):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation="eager").requires_grad_(False)
    config = LoraConfig(
        r=2, target_modules=list(find_sites(model)), init_lora_weights=False, fan_in_fan_out=config.model_type == "gpt2"
    )
    return get_peft_model(model, config).double().train()


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("name", FITTING)
def test_logits_and_gradients_after_a_shared_beginning_are_those_of_the_whole(name):
    model = model_of(FITTING[name])
    prefix = SharedPrefix(model)
    length = prefix.length(INPUTS, 99)
    assert length == 5
    rest = MASK[:, length:].bool()
    expected = model(**INPUTS).logits[:, length:][rest]
    found = model(**prefix.after(INPUTS, length)).logits[rest]
    # Some normalise, or take a softmax, in float32 whatever their type; what rounds there depends on the processor, too.
    tolerance = 1e-12 if name in EXACT else 1e-6
    assert (found - expected).norm() <= tolerance * expected.norm()
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    both = [torch.autograd.grad((one * weights).sum(), trained(model), allow_unused=True) for one in (found, expected)]
    for own, plain in zip(*both, strict=True):
        assert (own is None) == (plain is None)
        assert own is None or (own - plain).norm() <= tolerance * plain.norm()


@pytest.mark.parametrize("name", UNFIT)
def test_a_running_state_is_not_shared(name):
    prefix = SharedPrefix(model_of(UNFIT[name]))
    assert prefix.length(INPUTS, 99) == 0


def test_a_model_that_answers_otherwise_is_run_whole(monkeypatch):
    model = model_of(FITTING["llama"])
    inner = model.get_base_model().model
    plain = inner.forward
    wrong = {"position_ids": torch.arange(12)[None]}  # every pass counts from 0

    def forward(input_ids=None, **given):
        given |= {name: tensor[:, : input_ids.shape[1]] for name, tensor in wrong.items()}
        return plain(input_ids=input_ids, **given)

    monkeypatch.setattr(inner, "forward", forward)
    assert SharedPrefix(model).length(INPUTS, 99) == 0


def test_a_window_bounds_what_is_shared():
    prefix = SharedPrefix(model_of(transformers.MistralConfig(**SIZE, num_key_value_heads=1, sliding_window=4)))
    assert prefix.length(INPUTS, 99) == 3


def test_a_window_that_no_configuration_names_ends_the_sharing():
    config = transformers.MistralConfig(**SIZE, num_key_value_heads=1, sliding_window=9)
    prefix = SharedPrefix(model_of(config))
    assert prefix.length(INPUTS, 99) == 5
    assert prefix.after(INPUTS, 10) is None  # the window has let go of some
    assert prefix.length(INPUTS, 99) == 0


@pytest.mark.parametrize(
    ("ids", "mask", "length"),
    [
        ([[5, 6, 7], [5, 6, 8]], [[1, 1, 1], [1, 1, 1]], 2),
        ([[5, 6, 7], [5, 6, 7]], [[1, 1, 1], [1, 1, 1]], 3),
        ([[5, 6, 0], [5, 6, 0]], [[1, 1, 0], [1, 1, 1]], 2),
        ([[0, 6, 7], [0, 6, 7]], [[0, 1, 1], [0, 1, 1]], 0),
        ([[5, 6, 7], [6, 6, 7]], [[1, 1, 1], [1, 1, 1]], 0),
    ],
)
def test_rows_share_the_tokens_before_their_first_difference_or_padding(ids, mask, length):
    assert shared_length(torch.tensor(ids), torch.tensor(mask)) == length


def test_what_is_tried_out_is_short_and_later_batches_are_not_tried():
    model = model_of(FITTING["llama"])
    read = []
    model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(tuple(given[0].shape)))
    ids = torch.randint(3, 96, (3, 65), generator=torch.Generator().manual_seed(6))
    ids[:, :20] = ids[0, :20]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    prefix = SharedPrefix(model)
    assert prefix.length(inputs, 99) >= 20
    assert read == [(1, 20), (2, 24), (2, 44)]
    assert prefix.length(inputs, 99) >= 20 and len(read) == 3


def test_little_is_not_shared():
    prefix = SharedPrefix(model_of(FITTING["llama"]))
    assert prefix.length(INPUTS, 1) == 0  # two of 36 positions
    assert prefix.length({name: tensor[:1] for name, tensor in INPUTS.items()}, 99) == 0
