"""What every router must do (layer L3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from clora_cli.algebra.statistics import SECOND_MOMENTS, Moments, Prototypes
from clora_cli.base import registry
from clora_cli.routers import Similarity
from clora_cli.testing.requirements import ClassTests, draw, require

__all__ = ["RouterTests"]

_SIZE = 6


class RouterTests(ClassTests):
    """Tests for each router; those with ``second`` for each kind of second moments that it can do with."""

    kind: ClassVar[str] = "routers"

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrise a test over the routers."""
        if "second" not in metafunc.fixturenames:
            super().pytest_generate_tests(metafunc)
            return
        needs = {name: registry.load("routers", name).needs_second for name in self.names}
        cases = [
            (name, second) for name in self.names for second in SECOND_MOMENTS if second != "none" or not needs[name]
        ]
        metafunc.parametrize(("name", "second"), cases)

    @pytest.mark.parametrize(("count", "adapters"), [(5, 4), (1, 4), (5, 1), (1, 1)])
    def test_each_input_has_a_finite_similarity_to_each_adapter(
        self, name: str, second: Any, count: int, adapters: int
    ) -> None:
        similarities = _fitted(name, _moments(second, adapters))(_features(count))
        require(
            similarities.shape == (count, adapters),
            f"the shape is to be (input, adapter), and is {tuple(similarities.shape)}",
        )
        require(similarities.dtype == torch.float64, f"similarities are to be float64, and are {similarities.dtype}")
        require(bool(similarities.isfinite().all()), "every similarity is to be finite")

    def test_an_input_at_an_adapters_mean_is_most_similar_to_it_where_all_means_are_equally_long(
        self, name: str, second: Any
    ) -> None:
        moments = _moments(second)
        similarities = _fitted(name, moments)(torch.stack([cloud.mean for cloud in moments]))
        require(
            similarities.argmax(dim=1).tolist() == list(range(len(moments))),
            "an adapter's own mean is nearer to another adapter",
        )

    def test_inputs_do_not_depend_on_one_another(self, name: str, second: Any) -> None:
        similarity = _fitted(name, _moments(second))
        alone = torch.cat([similarity(vector[None]) for vector in _features(5)])
        require(_close(similarity(_features(5)), alone), "an input's similarities are to be the same in any batch")

    def test_the_order_of_adapters_does_not_matter(self, name: str, second: Any) -> None:
        moments, order = _moments(second), [2, 0, 3, 1]
        turned = _fitted(name, [moments[place] for place in order])(_features())
        expected = _fitted(name, moments)(_features())[:, order]
        require(
            torch.allclose(turned, expected, rtol=1e-9, atol=1e-9),
            "adapters in another order are to change the order alone",
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_features_of_any_precision_are_taken_in_float64(self, name: str, second: Any, dtype: torch.dtype) -> None:
        given = _features().to(dtype)
        similarity = _fitted(name, _moments(second))
        require(_close(similarity(given), similarity(given.double())), "features are to be computed with in float64")

    def test_nothing_given_is_changed(self, name: str, second: Any) -> None:
        moments, given = _moments(second), _features()
        before = [tensor.clone() for tensor in _tensors(moments)]
        _fitted(name, moments)(given)
        unchanged = all(torch.equal(old, new) for old, new in zip(before, _tensors(moments), strict=True))
        require(unchanged and torch.equal(given, _features()), "moments and features are to stay as they were")

    @pytest.mark.parametrize("adapters", [1, 3])
    def test_distributions_of_a_single_input_are_finite(self, name: str, second: Any, adapters: int) -> None:
        moments = [Moments.of(_features(1, seed), second) for seed in range(adapters)]  # no spread: every scatter is 0
        given = torch.cat([_features(3, 9), moments[0].mean[None].float(), torch.zeros(1, _SIZE)])
        similarities = _fitted(name, moments)(given)
        require(bool(similarities.isfinite().all()), "a distribution of one input is to give finite similarities")
        require(
            bool((similarities / 1e-3).softmax(dim=1).isfinite().all()),
            "their softmax is to be finite at a low temperature",
        )


def _fitted(name: str, moments: Sequence[Moments]) -> Similarity:
    fitted: Similarity = registry.load("routers", name)().fit(Prototypes(moments))
    return fitted


def _moments(second: Any, adapters: int = 4) -> list[Moments]:
    """Return moments of well separated clouds of 12 vectors each, all of whose means have the length 10."""
    directions = torch.nn.functional.normalize(draw(adapters, 1, _SIZE), dim=-1)
    spread = draw(adapters, 6, _SIZE, seed=1)
    return [
        Moments.of(torch.cat([10 * at + off, 10 * at - off]).float(), second)
        for at, off in zip(directions, spread, strict=True)
    ]


def _features(count: int = 5, seed: int = 1) -> Tensor:
    return 3 * draw(count, _SIZE, seed=seed, dtype=torch.float32)


def _tensors(moments: Sequence[Moments]) -> list[Tensor]:
    return [tensor for cloud in moments for tensor in (cloud.mean, cloud.scatter) if tensor is not None]


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-12, atol=1e-12)
