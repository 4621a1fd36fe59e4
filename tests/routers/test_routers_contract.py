"""What every router must do, whatever it is: parametrised over the folder, so that a new file is tested by being there."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support import check_numbers_refused, check_options_documented, check_source_given

from clora_cli.algebra.statistics import SECOND_MOMENTS, Moments, Prototypes
from clora_cli.base import registry
from clora_cli.routers import Router

NAMES = registry.names("routers")
SIZE = 6
CASES = [
    pytest.param(name, second, id=f"{name}-{second}")
    for name in NAMES
    for second in SECOND_MOMENTS
    if second != "none" or not registry.load("routers", name).needs_second
]


def router(name):
    return registry.load("routers", name)()


def moments(second, adapters=4, seed=0):
    """Return moments of well separated clouds of 12 vectors each."""
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(adapters, 1, SIZE, generator=generator)
    return [Moments.of(centre + torch.randn(12, SIZE, generator=generator), second) for centre in centres]


def features(count=5, seed=1):
    return 3 * torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_defaults_construct_a_frozen_router(name):
    made = router(name)
    assert isinstance(made, Router)
    assert made == router(name)
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        made.needs_second = True


@pytest.mark.parametrize("name", NAMES)
def test_options_are_keyword_only_typed_and_documented(name):
    check_options_documented("routers", name)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_its_source(name):
    check_source_given("routers", name)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_out_of_range_are_refused(name):
    check_numbers_refused("routers", name, "option {option}=", lambda option: ("-1", "nan", "inf", "-inf"))


@pytest.mark.parametrize(("name", "second"), CASES)
@pytest.mark.parametrize(("count", "adapters"), [(5, 4), (1, 4), (5, 1), (1, 1)])
def test_each_input_has_a_finite_similarity_to_each_adapter(name, second, count, adapters):
    found = router(name).fit(Prototypes(moments(second, adapters)))(features(count))
    assert found.shape == (count, adapters)
    assert found.dtype == torch.float64
    assert bool(found.isfinite().all())


@pytest.mark.parametrize(("name", "second"), CASES)
def test_an_input_at_an_adapters_mean_is_most_similar_to_it(name, second):
    if name == "dot":  # which a longer mean wins
        return
    known = moments(second)
    found = router(name).fit(Prototypes(known))(torch.stack([one.mean for one in known]))
    assert found.argmax(dim=1).tolist() == list(range(len(known)))


@pytest.mark.parametrize(("name", "second"), CASES)
def test_inputs_do_not_depend_on_one_another(name, second):
    similarity = router(name).fit(Prototypes(moments(second)))
    together = similarity(features(5))
    alone = torch.cat([similarity(one[None]) for one in features(5)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "second"), CASES)
def test_the_order_of_adapters_does_not_matter(name, second):
    known, order = moments(second), [2, 0, 3, 1]
    found = router(name).fit(Prototypes(known))(features())
    turned = router(name).fit(Prototypes([known[place] for place in order]))(features())
    torch.testing.assert_close(turned, found[:, order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "second"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_features_of_any_precision_are_taken_in_float64(name, second, dtype):
    given = features().to(dtype)
    similarity = router(name).fit(Prototypes(moments(second)))
    torch.testing.assert_close(similarity(given), similarity(given.double()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "second"), CASES)
def test_nothing_given_is_changed(name, second):
    known, given = moments(second), features()
    before = [tensor.clone() for one in known for tensor in (one.mean, one.scatter) if tensor is not None]
    router(name).fit(Prototypes(known))(given)
    after = [tensor for one in known for tensor in (one.mean, one.scatter) if tensor is not None]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert torch.equal(given, features())


@pytest.mark.parametrize(("name", "second"), CASES)
@pytest.mark.parametrize("adapters", [1, 3])
def test_distributions_of_a_single_input_are_finite(name, second, adapters):
    """One input has no spread: every scatter is zero."""
    known = [Moments.of(features(1, seed), second) for seed in range(adapters)]
    similarity = router(name).fit(Prototypes(known))
    given = torch.cat([features(3, 9), known[0].mean[None].float(), torch.zeros(1, SIZE)])
    found = similarity(given)
    assert bool(found.isfinite().all())
    assert bool((found / 1e-3).softmax(dim=1).isfinite().all())
