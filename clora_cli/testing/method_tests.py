"""What every method must do (layer L3): each part that it has is tested, the others are not."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor

from clora_cli.base import registry
from clora_cli.methods import Batch, Factors, Method, Penalty, Run
from clora_cli.testing.requirements import ClassTests, draw, require

__all__ = ["MethodTests"]

_PARTS = {"penalised": "penalty", "adding": "loss"}
_WAYS = {"none", "sum", "route", "weighted"}


class MethodTests(ClassTests):
    """Tests for each method: of its penalty (``penalised``) and its term of the loss (``adding``), where it has one."""

    kind: ClassVar[str] = "methods"

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrise a test over the methods that have what it tests."""
        super().pytest_generate_tests(metafunc)
        for fixture in set(_PARTS).intersection(metafunc.fixturenames):
            hook = _PARTS[fixture]
            having = [name for name in self.names if _overrides(registry.load("methods", name), hook)]
            cases = [(f"{name}-{i}", each) for name in having for i, each in enumerate(self.variants(name))]
            metafunc.parametrize(fixture, [pytest.param(each, id=label) for label, each in cases])

    def test_what_it_says_of_earlier_adapters_exists_and_goes_together(self, name: str) -> None:
        method = registry.load("methods", name)()
        merges = registry.names("merges")
        require(method.past in {*_WAYS, *merges}, f"past is '{method.past}': give one of {_WAYS} or a merge")
        require(
            method.combine in {*_WAYS, "last", "task-id", "progressive", "learned", *merges},
            f"there is no way to combine '{method.combine}'",
        )
        require(method.start in {"fresh", "previous", "shared"}, f"start is '{method.start}'")
        require((method.combine == "route") == (method.routing() is not None), "combine = 'route' goes with routing()")
        learned = _overrides(type(method), "weigh")
        require((method.combine == "learned") == learned, "combine = 'learned' goes with weigh()")
        memory = method.memory()
        require(not method.reuses_data or memory is not None, "reuses_data goes with memory()")
        made = memory is not None and memory.made
        require(made == _overrides(type(method), "rehearse"), "a memory that is made goes with rehearse()")
        require(not (method.reuses_data and method.past == "route"), "features are taken of the task's own rows alone")
        if method.recalls:
            require(method.start == "previous", "what recalls is to go on from the last adapter: start = 'previous'")

    @pytest.mark.parametrize("seed", [0, 1])
    def test_the_penaltys_gradient_is_the_slope_of_its_value(self, penalised: Method, seed: int) -> None:
        given = _factors(seed, recalls=penalised.recalls)
        penalty = _penalty(penalised, given)
        require(penalty.value.shape == (), "the value is to be a scalar")
        require(bool(penalty.value.isfinite()) and float(penalty.value) > 0, "on random factors it is to be above 0")
        for side in ("a", "b"):
            expected = _gradient(penalty, side, given)
            require(expected.shape == getattr(given, side).shape, f"grad_{side} is to have the shape of Factors.{side}")
            slopes = _slopes(penalised, given, side)
            require(
                torch.allclose(expected, slopes, rtol=1e-5, atol=1e-6),
                f"grad_{side} is not the slope of the value: it misses by {float((expected - slopes).abs().max()):.3g}",
            )

    def test_the_penaltys_sites_add_up_one_by_one(self, penalised: Method) -> None:
        given = _factors(recalls=penalised.recalls)
        whole = _penalty(penalised, given)
        parts = [_penalty(penalised, _site_of(given, site)) for site in range(2)]
        require(
            torch.allclose(whole.value, torch.stack([part.value for part in parts]).sum()),
            "the value is to be a sum over sites",
        )
        for side in ("a", "b"):
            alone = [_gradient(part, side, _site_of(given, site)) for site, part in enumerate(parts)]
            require(
                torch.allclose(_gradient(whole, side, given), torch.cat(alone)),
                f"grad_{side} is to depend on its own site alone",
            )

    def test_the_penalty_leaves_its_inputs(self, penalised: Method) -> None:
        given = _factors(recalls=penalised.recalls)
        tensors = [
            value
            for value in (given.a, given.b, given.past_a, given.past_b, *given.recalled.values())
            if value is not None
        ]
        before = [tensor.clone() for tensor in tensors]
        penalised.penalty(given)
        require(
            all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True)),
            "factors are to stay as they were",
        )

    @pytest.mark.parametrize("past", [True, False])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_penalty_of_the_first_step_is_finite(self, penalised: Method, past: bool, dtype: torch.dtype) -> None:
        given = _factors(past=past, zero_b=True, recalls=penalised.recalls)
        penalty = penalised.penalty(dataclasses.replace(given, a=given.a.to(dtype), b=given.b.to(dtype)))
        require(penalty is not None or not past, "with earlier adapters there is to be a penalty")
        for tensor in (penalty.value, penalty.grad_a, penalty.grad_b) if penalty else ():
            require(
                tensor is None or bool(tensor.isfinite().all()),
                "where lora_B is 0, value and gradients are to be finite",
            )

    def test_the_penalty_takes_a_past_of_lower_precision(self, penalised: Method) -> None:
        given = _factors(recalls=penalised.recalls)
        penalty = _penalty(penalised, _in_precision(given, torch.float32, torch.bfloat16))
        require(
            penalty.value.dtype == torch.float32, "of float32 factors and a bfloat16 past the value is to be float32"
        )
        close = torch.allclose(penalty.value.double(), _penalty(penalised, given).value, rtol=0.02)
        require(close, "a bfloat16 past is to be computed with in float32")
        gradients = [tensor for tensor in (penalty.grad_a, penalty.grad_b) if tensor is not None]
        require(all(tensor.dtype == torch.float32 for tensor in gradients), "and the gradients float32")

    def test_the_penaltys_gradient_where_lora_b_is_zero_leads_down(self, penalised: Method) -> None:
        given = _factors(zero_b=True, recalls=penalised.recalls)  # there an L1 norm has no slope, but subgradients
        penalty = _penalty(penalised, given)
        for side in ("a", "b"):
            moved = getattr(given, side) - 1e-3 * _gradient(penalty, side, given)
            ahead = _penalty(penalised, dataclasses.replace(given, **{side: moved}))
            require(
                float(ahead.value) <= float(penalty.value) + 1e-12, f"a step against grad_{side} makes the value larger"
            )

    def test_the_terms_of_micro_batches_add_up(self, adding: Method) -> None:
        new, old = 3 * draw(6, 11), 3 * draw(6, 11, seed=1)
        whole = _term(adding, new, old)
        parts = torch.stack([_term(adding, new[i : i + 2], old[i : i + 2]) for i in range(0, 6, 2)])
        require(whole.shape == () and bool(whole.isfinite()), "a term of the loss is to be a finite scalar")
        require(torch.allclose(whole, parts.sum()), "the terms of a step's micro-batches are to add up to the step's")


class _Known:
    """A run that knows the answers of the previous model, and nothing else."""

    def __init__(self, old: Tensor) -> None:
        self.past, self._old = [None], old

    def previous(self, batch: Batch) -> Tensor:
        return self._old


def _term(method: Method, new: Tensor, old: Tensor) -> Tensor:
    batch = Batch({}, torch.arange(1), new, torch.zeros(len(new), dtype=torch.long), 6)
    try:
        term = method.loss(cast("Run", _Known(old)), batch)
    except AttributeError as error:
        pytest.skip(f"its loss asks for more than the previous model's answers: {error}")
    return torch.zeros((), dtype=new.dtype) if term is None else term


def _overrides(method: Any, hook: str) -> bool:
    return getattr(method, hook) is not getattr(Method, hook)


def _factors(seed: int = 0, *, past: bool = True, zero_b: bool = False, recalls: tuple[str, ...] = ()) -> Factors:
    """Return two square sites in float64 with no entry of any product near 0.

    The past is two adapters, of ranks 1 and 3. What a method recalls besides factors of the last one is not negative.
    """
    generator = torch.Generator().manual_seed(seed)
    sites, rank, size = 2, 3, 5

    def draw_next(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    b = torch.zeros(sites, size, rank, dtype=torch.float64) if zero_b else draw_next(sites, size, rank)
    old: tuple[Tensor | None, Tensor | None] = (None, None)
    if past:
        old = draw_next(sites, 4, size), draw_next(sites, size, 4)
    past_facts: dict[str, Any] = {
        "past_owner": torch.tensor([0, 1, 1, 1]),
        "kept": {"relations": torch.tensor([0.6, -0.3])},
    }
    shapes = {"a": (sites, rank, size), "b": (sites, size, rank)}
    kept = {name: draw_next(*shapes[name[-1].lower()]) for name in recalls if past}
    kept = {name: tensor if name.startswith("lora_") else tensor.square() for name, tensor in kept.items()}
    factors = Factors(draw_next(sites, rank, size), b, 2.0, old[0], old[1], recalled=kept)
    return dataclasses.replace(factors, **past_facts) if past else factors


def _in_precision(given: Factors, dtype: torch.dtype, past_dtype: torch.dtype) -> Factors:
    """Return factors in other types, those of the past apart."""
    past: dict[str, Any] = {
        name: value.to(past_dtype) for name in ("past_a", "past_b") if (value := getattr(given, name)) is not None
    }
    recalled = {name: tensor.to(past_dtype) for name, tensor in given.recalled.items()}
    return dataclasses.replace(given, a=given.a.to(dtype), b=given.b.to(dtype), recalled=recalled, **past)


def _site_of(given: Factors, site: int) -> Factors:
    own: dict[str, Any] = {name: getattr(given, name)[site : site + 1] for name in ("a", "b", "past_a", "past_b")}
    recalled = {name: tensor[site : site + 1] for name, tensor in given.recalled.items()}
    return dataclasses.replace(given, **own, recalled=recalled)


def _penalty(method: Method, given: Factors) -> Penalty:
    penalty = method.penalty(given)
    if penalty is None:
        pytest.fail("on factors with a past there is to be a penalty")
    return penalty


def _gradient(penalty: Penalty, side: str, given: Factors) -> Tensor:
    gradient: Tensor | None = getattr(penalty, f"grad_{side}")
    return torch.zeros_like(getattr(given, side)) if gradient is None else gradient


def _slopes(method: Method, given: Factors, side: str) -> Tensor:
    """Return the slope of the value along each entry, by central differences."""
    own: Tensor = getattr(given, side)
    slopes = torch.zeros_like(own)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in own.shape)).tolist():
        step = torch.zeros_like(own)
        step[tuple(index)] = 1e-6
        moved: list[dict[str, Any]] = [{side: own + step}, {side: own - step}]
        up, down = (_penalty(method, dataclasses.replace(given, **ahead)).value for ahead in moved)
        slopes[tuple(index)] = (up - down) / 2e-6
    return slopes
