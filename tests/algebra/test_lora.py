from __future__ import annotations

import pytest
import torch

from clora_cli.algebra.lora import Factor, add_up, concatenate, config_problem, scaling_at, sharing

CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 32}
SITE = "model.layers.11.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "scaling"),
    [
        ({}, 4.0),
        ({"use_rslora": True}, 32 / 8**0.5),
        ({"rank_pattern": {"q_proj": 16}}, 2.0),
        ({"alpha_pattern": {"q_proj": 8}}, 1.0),
        ({"rank_pattern": {"q_proj": 16}, "alpha_pattern": {r"layers\.11\..*q_proj": 4}}, 0.25),
        ({"rank_pattern": {"q_proj": 16}, "use_rslora": True}, 8.0),
        ({"rank_pattern": {"v_proj": 16, "1.self_attn.q_proj": 2}}, 4.0),  # a key must begin at a dot
        ({"rank_pattern": {"self_attn.q_proj": 2, "q_proj": 16}}, 16.0),  # the first that fits
        ({"rank_pattern": {"^model.layers.11.self_attn.q_proj": 2}}, 16.0),
        ({"rank_pattern": None, "alpha_pattern": {}}, 4.0),
    ],
)
def test_scaling_follows_patterns_and_rslora(change, scaling):
    assert scaling_at(CONFIG | change, SITE) == scaling


@pytest.mark.parametrize(
    "change",
    [
        {"r": 0},
        {"r": "eight"},
        {"r": 4},
        {"lora_alpha": None},
        {"lora_alpha": float("nan")},
        {"rank_pattern": [1]},
        {"rank_pattern": {"(q_proj": 8}},
        {"rank_pattern": {"q_proj": 16}},
    ],
)
def test_ranks_and_alphas_that_nothing_can_have_are_told(change):
    assert scaling_at(CONFIG, SITE, 8) == 4.0
    with pytest.raises(ValueError, match=r"rank|could not convert"):
        scaling_at(CONFIG | change, SITE, 8)


def test_scaling_is_the_one_that_peft_computes():
    from peft import LoraConfig, get_peft_model

    model = torch.nn.ModuleDict({"deep": torch.nn.ModuleDict({"q": torch.nn.Linear(4, 4), "v": torch.nn.Linear(4, 4)})})
    config = LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=["q", "v"],
        rank_pattern={"deep.v": 4},
        alpha_pattern={"^deep.q": 5},
        use_rslora=True,
    )
    wrapped = get_peft_model(model, config)
    for site in ("deep.q", "deep.v"):
        module = wrapped.base_model.model.get_submodule(site)
        assert scaling_at(config.to_dict(), site) == module.scaling["default"]


def test_a_configuration_that_leaves_rank_and_alpha_out_has_those_of_peft():
    from peft import LoraConfig

    assert scaling_at({"peft_type": "LORA"}, SITE) == LoraConfig().lora_alpha / LoraConfig().r


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"peft_type": "IA3"}, "not LORA"),
        ({"peft_type": None}, "not LORA"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "biases"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"modules_to_save": "lm_head"}, "(lm_head)"),
        ({"modules_to_save": [1, 2]}, "(1, 2)"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"alora_invocation_tokens": [1, 2]}, "alora"),
        ({"use_qalora": True}, "qalora"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
    ],
)
def test_what_is_no_plain_lora_is_told(change, told):
    assert told in (config_problem(CONFIG | change) or "")


def test_every_setting_of_a_plain_configuration_passes():
    from peft import LoraConfig

    for start in (True, False, "gaussian", "orthogonal"):
        config = LoraConfig(r=2, target_modules=["q"], init_lora_weights=start, use_rslora=True).to_dict()
        assert config_problem(config | {"peft_type": "LORA"}) is None


def test_concatenation_is_the_float64_sum_of_deltas_of_differing_ranks():
    generator = torch.Generator().manual_seed(0)
    factors = [
        Factor(
            torch.randn(rank, 7, generator=generator, dtype=torch.float64),
            torch.randn(5, rank, generator=generator, dtype=torch.float64),
            scaling,
        )
        for rank, scaling in ((1, 2.0), (3, 0.5), (8, 4.0))
    ]
    whole = concatenate(factors)
    expected = sum(factor.scaling * factor.b @ factor.a for factor in factors)
    assert whole.scaling == 1.0
    assert (whole.rank, whole.shape) == (12, (5, 7))
    assert torch.allclose(whole.b @ whole.a, expected, rtol=1e-13, atol=1e-13)


def test_delta_by_hand():
    factor = Factor(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0], [-1.0]]), 2.0)
    assert factor.delta().tolist() == [[2, 4, 6], [-2, -4, -6]]


def parts_of_one(scaling=2.0, count=3):
    """Return pairs of one ``a`` whose entries of ``b`` do not overlap, and the whole ``b``."""
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 7, generator=generator), torch.randn(5, 2, generator=generator)
    owner = torch.randint(0, count + 1, (5, 2), generator=generator)
    return [Factor(a.clone(), b * (owner == number), scaling) for number in range(count)], b * (owner < count)


def test_parts_of_one_lora_add_up_to_it_bit_by_bit():
    factors, b = parts_of_one()
    whole = add_up(factors, [1.0] * 3)
    assert (whole.rank, whole.scaling) == (2, 2.0)
    assert torch.equal(whole.a, factors[0].a)
    assert torch.equal(whole.b, b)
    mean = add_up(factors, [1 / 3] * 3)
    assert torch.equal(mean.b, b)
    assert mean.scaling == 2 / 3


def test_sums_of_pairs_that_share_some_are_the_float64_sum_of_deltas():
    factors, _ = parts_of_one()
    generator = torch.Generator().manual_seed(2)
    other = Factor(torch.randn(3, 7, generator=generator), torch.randn(5, 3, generator=generator), 0.5)
    rescaled = Factor(factors[0].a, torch.randn(5, 2, generator=generator), 1.5)
    given = [factors[0], other, factors[1], rescaled, factors[2]]
    coefficients = [1.0, -2.0, 0.5, 3.0, 0.25]
    expected = sum(c * f.scaling * f.b.double() @ f.a.double() for c, f in zip(coefficients, given, strict=True))
    assert sharing(given) == [[0, 2, 4], [1], [3]]
    whole = add_up(given, coefficients)
    assert whole.rank == 2 + 3 + 2
    assert torch.allclose(whole.delta().double(), expected, atol=1e-5)


def test_a_pair_that_overlaps_with_another_is_added_too():
    factors, b = parts_of_one()
    again = add_up([*factors, factors[0]], [1.0] * 4)
    assert again.rank == 2
    assert torch.equal(again.b, b + factors[0].b)


def test_pairs_share_if_every_number_of_a_is_equal_and_the_scaling():
    one = Factor(torch.ones(2, 9), torch.ones(3, 2), 1.0)
    last = torch.ones(2, 9)
    last[1, 8] = 2
    others = [
        Factor(last, one.b, 1.0),
        Factor(one.a.double(), one.b.double(), 1.0),
        Factor(one.a[:, :8], one.b, 1.0),
        Factor(one.a, one.b, 1.5),
        Factor(last.clone(), 0 * one.b, 1.0),
    ]
    assert sharing([one, *others]) == [[0], [1, 5], [2], [3], [4]]
    assert sharing([]) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_half_precision_are_not_rounded_to_it(dtype):
    generator = torch.Generator().manual_seed(5)
    pairs = [
        Factor(
            torch.randn(rank, 9, generator=generator).to(dtype),
            torch.randn(7, rank, generator=generator).to(dtype),
            1.7,
        )
        for rank in (2, 3)
    ]
    shared = [pairs[0], Factor(pairs[0].a, pairs[0].b.flip(0), 1.7)]
    for factors, coefficients in (
        (pairs, [1.0, 1.0]),
        (pairs, [0.7, -1.3]),
        (shared, [0.7, 0.1]),
        (shared, [0.3, 0.3]),
    ):
        terms = (c * f.scaling * f.b.double() @ f.a.double() for c, f in zip(coefficients, factors, strict=True))
        expected, found = sum(terms), add_up(factors, coefficients)
        assert ((found.scaling * found.b.double() @ found.a.double()) - expected).norm() < 1e-6 * expected.norm()


def test_a_scaling_takes_half_precision_beyond_its_range():
    large = Factor(torch.full((1, 2), 1e-3).half(), torch.full((2, 1), 4e4).half(), 4.0)
    assert concatenate([large, large]).b.isfinite().all()
