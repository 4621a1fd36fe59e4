"""What every method must do, whatever it is: parametrised over the folder, so that a new file is tested by being there."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args, get_origin

import pytest
import torch
from support import check_numbers_refused, check_options_documented, check_source_given

from clora_cli.base import registry
from clora_cli.methods import Factors, Method

NAMES = registry.names("methods")


def variants(name):
    """Yield the method with its defaults and with every choice of its closed options."""
    plugin = registry.load("methods", name)
    found = [plugin()]
    for option, parameter in registry.options(plugin).items():
        annotation = parameter.annotation
        if get_origin(annotation) is Literal:
            found += [plugin(**{option: choice}) for choice in get_args(annotation)]
        elif "raw" in option:
            found.append(plugin(**{option: 0.3}))
    return found


PENALISED = [
    pytest.param(method, id=f"{name}-{number}")
    for name in NAMES
    if registry.load("methods", name).penalty is not Method.penalty
    for number, method in enumerate(variants(name))
]


def factors(seed=0, *, past=True, sites=2, rank=3, size=5, zero_b=False, recalls=()):
    """Return square sites, as one variant needs them, in float64 with no entry of any product near 0.

    The past is two adapters, of ranks 1 and 3. What a method recalls besides factors of the last one is not negative.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    b = torch.zeros(sites, size, rank, dtype=torch.float64) if zero_b else draw(sites, size, rank)
    old = (draw(sites, 4, size), draw(sites, size, 4)) if past else (None, None)
    known = {"past_owner": torch.tensor([0, 1, 1, 1]), "kept": {"relations": torch.tensor([0.6, -0.3])}} if past else {}
    shapes = {"a": (sites, rank, size), "b": (sites, size, rank)}
    kept = {name: draw(*shapes[name[-1].lower()]) for name in recalls if past}
    kept = {name: tensor if name.startswith("lora_") else tensor.square() for name, tensor in kept.items()}
    return Factors(draw(sites, rank, size), b, 2.0, *old, **known, recalled=kept)


def in_precision(given, dtype, past_dtype):
    """Return factors in other types, those of the past apart."""
    past = {
        name: getattr(given, name).to(past_dtype) for name in ("past_a", "past_b") if getattr(given, name) is not None
    }
    recalled = {name: tensor.to(past_dtype) for name, tensor in given.recalled.items()}
    return dataclasses.replace(given, a=given.a.to(dtype), b=given.b.to(dtype), recalled=recalled, **past)


def site_of(given, site):
    """Return one site of factors."""
    own = {name: getattr(given, name)[site : site + 1] for name in ("a", "b", "past_a", "past_b")}
    recalled = {name: tensor[site : site + 1] for name, tensor in given.recalled.items()}
    return dataclasses.replace(given, **own, recalled=recalled)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_construct_a_frozen_method(name):
    method = registry.load("methods", name)()
    assert isinstance(method, Method)
    assert method.past in {"none", "sum", "route", "weighted", *registry.names("merges")}
    assert (method.combine == "route") == (method.routing() is not None)
    assert (method.combine == "learned") == (type(method).weigh is not Method.weigh)
    assert method.start in {"fresh", "previous", "shared"}
    assert method.combine in {
        "sum",
        "last",
        "route",
        "task-id",
        "none",
        "weighted",
        "learned",
        *registry.names("merges"),
    }
    assert method.reuses_data == (method.memory() is not None)
    assert not (method.reuses_data and method.past == "route")  # features are taken of the task's own rows
    if method.recalls:
        assert method.start == "previous"  # so that the last earlier adapter is what it goes on from
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        method.combine = "last"
    assert method == registry.load("methods", name)()


@pytest.mark.parametrize("name", NAMES)
def test_options_are_keyword_only_typed_and_documented(name):
    check_options_documented("methods", name)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_its_source(name):
    check_source_given("methods", name)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_out_of_range_are_refused(name):
    check_numbers_refused("methods", name, "option {option}=", lambda option: ("-1", "nan", "inf", "-inf"))


@pytest.mark.parametrize("method", PENALISED)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_is_the_slope_of_the_value(method, seed):
    given = factors(seed, recalls=method.recalls)
    penalty = method.penalty(given)
    assert penalty.value.shape == ()
    assert bool(penalty.value.isfinite()) and float(penalty.value) > 0
    for name in ("a", "b"):
        own = getattr(given, name)
        gradient = getattr(penalty, f"grad_{name}")
        slopes = torch.zeros_like(own)
        for index in torch.cartesian_prod(*(torch.arange(size) for size in own.shape)).tolist():
            step = torch.zeros_like(own)
            step[tuple(index)] = 1e-6
            up, down = (method.penalty(dataclasses.replace(given, **{name: own + s})).value for s in (step, -step))
            slopes[tuple(index)] = (up - down) / 2e-6
        expected = torch.zeros_like(own) if gradient is None else gradient
        assert expected.shape == own.shape
        assert torch.allclose(expected, slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", PENALISED)
def test_sites_add_up_one_by_one(method):
    given = factors(recalls=method.recalls)
    whole = method.penalty(given)
    parts = [method.penalty(site_of(given, site)) for site in range(2)]
    assert torch.allclose(whole.value, sum(part.value for part in parts))
    for side in ("grad_a", "grad_b"):
        if getattr(whole, side) is not None:
            assert torch.allclose(getattr(whole, side), torch.cat([getattr(part, side) for part in parts]))


@pytest.mark.parametrize("method", PENALISED)
def test_inputs_stay_as_they_were(method):
    given = factors(recalls=method.recalls)
    after = (given.a, given.b, given.past_a, given.past_b, *given.recalled.values())
    before = [tensor.clone() for tensor in after]
    method.penalty(given)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("method", PENALISED)
@pytest.mark.parametrize("past", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_step_of_the_first_task_is_finite(method, past, dtype):
    given = factors(past=past, zero_b=True, recalls=method.recalls)
    penalty = method.penalty(dataclasses.replace(given, a=given.a.to(dtype), b=given.b.to(dtype)))
    if penalty is None:
        assert not past
        return
    for tensor in (penalty.value, penalty.grad_a, penalty.grad_b):
        assert tensor is None or bool(tensor.isfinite().all())


@pytest.mark.parametrize("method", PENALISED)
def test_a_past_of_lower_precision_is_taken(method):
    given = factors(recalls=method.recalls)
    penalty = method.penalty(in_precision(given, torch.float32, torch.bfloat16))
    assert penalty.value.dtype == torch.float32
    assert torch.allclose(penalty.value.double(), method.penalty(given).value, rtol=0.02)
    assert all(g is None or g.dtype == torch.float32 for g in (penalty.grad_a, penalty.grad_b))


@pytest.mark.parametrize("method", PENALISED)
def test_the_value_matches_autograd_where_a_part_is_zero(method):
    """At B = 0 an L1 term has no slope; the gradient taken there must be one of its subgradients: no larger than nearby."""
    given = factors(zero_b=True, recalls=method.recalls)
    penalty = method.penalty(given)
    for gradient, own in ((penalty.grad_a, given.a), (penalty.grad_b, given.b)):
        if gradient is not None:
            step = 1e-3
            side = "a" if own is given.a else "b"
            ahead = method.penalty(dataclasses.replace(given, **{side: own - step * gradient}))
            assert float(ahead.value) <= float(penalty.value) + 1e-12
