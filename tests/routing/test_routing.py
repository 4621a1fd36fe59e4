"""From similarities to weights: softmax over the best, abstention, which sites decide and for whom."""

from __future__ import annotations

import pytest
import torch
from refusals import refused

from clora_cli.algebra.statistics import Moments
from clora_cli.base import registry
from clora_cli.base.errors import MismatchError, OptionError, UnknownNameError
from clora_cli.options import RouteOptions
from clora_cli.routing.weights import Routing, common_sites, nearness, routed_site, softmax_over_best

SIMILARITIES = torch.tensor([[1.0, 3.0, 2.0, 0.0]], dtype=torch.float64)


def cloud(centre, second="none", rows=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Moments.of(torch.tensor(centre) + 0.1 * torch.randn(rows, len(centre), generator=generator), second)


def members(second="none", sites=("layers.0.q", "layers.1.q")):
    return [{site: cloud(centre, second) for site in sites} for centre in ([0.0, 0.0], [4.0, 0.0], [0.0, 4.0])]


def test_all_adapters_share_by_softmax():
    expected = SIMILARITIES.exp() / SIMILARITIES.exp().sum()
    torch.testing.assert_close(softmax_over_best(SIMILARITIES, 0, 1.0), expected)


def test_top_k_is_renormalised():
    """Top 2 of 3 and 2: e / (e + 1) and 1 / (e + 1)."""
    e = torch.e
    found = softmax_over_best(SIMILARITIES, 2, 1.0)
    torch.testing.assert_close(found, torch.tensor([[0.0, e / (e + 1), 1 / (e + 1), 0.0]], dtype=torch.float64))
    assert softmax_over_best(SIMILARITIES, 1, 1.0).tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_more_than_there_are_takes_all():
    for count in (4, 5, 1000):
        assert torch.equal(softmax_over_best(SIMILARITIES, count, 1.0), softmax_over_best(SIMILARITIES, 0, 1.0))


def test_of_equally_similar_adapters_the_earlier_is_taken():
    equal = torch.tensor([[1.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert softmax_over_best(equal, 1, 1.0).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert softmax_over_best(equal, 2, 1.0).tolist() == [[0, 0.5, 0.5, 0], [0.5, 0.5, 0, 0]]
    many = torch.zeros(1, 500)
    assert softmax_over_best(many, 3, 1.0)[0, :3].tolist() == [pytest.approx(1 / 3)] * 3


def test_temperature_goes_from_the_best_alone_to_all_alike():
    torch.testing.assert_close(softmax_over_best(SIMILARITIES, 0, 1e-4), softmax_over_best(SIMILARITIES, 1, 1.0))
    torch.testing.assert_close(softmax_over_best(SIMILARITIES, 0, 1e8), torch.full_like(SIMILARITIES, 0.25))
    torch.testing.assert_close(softmax_over_best(SIMILARITIES, 0, 2.0), softmax_over_best(SIMILARITIES / 2, 0, 1.0))
    assert bool(softmax_over_best(SIMILARITIES * 1e6, 0, 1e-6).isfinite().all())


@pytest.mark.parametrize("count", [1, 2, 0])
def test_rows_sum_to_one(count):
    given = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 20
    found = softmax_over_best(given, count, 0.7)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(50, dtype=torch.float64))
    assert ((found > 0).sum(dim=1) <= (count or 7)).all()


@pytest.mark.parametrize(
    ("options", "code", "values"),
    [
        ({"top_k": -1}, "option-out-of-range", ["--top-k -1"]),
        ({"temperature": 0.0}, "option-out-of-range", ["--temperature 0"]),
        ({"temperature": float("nan")}, "option-out-of-range", ["--temperature nan"]),
        ({"temperature": float("inf")}, "option-out-of-range", ["--temperature inf"]),
        ({"abstain": 1.0}, "option-out-of-range", ["--abstain 1"]),
        ({"abstain": -0.1}, "option-out-of-range", ["--abstain -0.1"]),
        ({"similarity": "l3"}, "unknown-name", ["'l3'", "'l2'"]),
        ({"similarity": "mahalanobis,shrink=1"}, "unknown-name", ["'shrink'", "'shrinkage'"]),
        ({"similarity": "mahalanobis,shrinkage=2"}, "option-out-of-range", ["shrinkage=2"]),
        ({"similarity": "l2,shrinkage=2"}, "unknown-name", ["l2", "'shrinkage'"]),
        ({"similarity": "mahalanobis,shrinkage"}, "option-malformed", ["'shrinkage'", "key=value"]),
    ],
)
def test_options_out_of_range_are_refused(options, code, values):
    with refused(code, *values, error=OptionError):
        RouteOptions(**options)


def test_a_similarity_carries_its_options():
    assert registry.bound("routers", "mahalanobis,shrinkage=0.25").shrinkage == 0.25
    assert RouteOptions(**RouteOptions(top_k=3, layer="last").recorded()) == RouteOptions(top_k=3, layer="last")
    with pytest.raises(UnknownNameError):
        registry.bound("routers", "")


@pytest.mark.parametrize(
    ("seconds", "similarity"),
    [
        (("none",) * 3, "l2"),
        (("diag",) * 3, "mahalanobis"),
        (("full",) * 3, "mahalanobis"),
        (("diag", "none", "diag"), "l2"),
    ],
)
def test_auto_uses_second_moments_where_all_have_them(seconds, similarity):
    given = [{"q": cloud([1.0 * place, 0.0], second)} for place, second in enumerate(seconds)]
    assert Routing(given, ["q"], RouteOptions()).similarity == similarity


@pytest.mark.parametrize("seconds", [("none", "none"), ("diag", "none"), ("diag", "full")])
def test_mahalanobis_needs_second_moments_of_one_kind(seconds):
    given = [{"q": cloud([0.0, 0.0], second)} for second in seconds]
    with refused("second-moments-differ", "mahalanobis", "--second-moment"):
        Routing(given, ["q"], RouteOptions(similarity="mahalanobis"))


def test_each_site_decides_for_itself():
    given = members()
    given[0]["layers.1.q"], given[1]["layers.1.q"] = given[1]["layers.1.q"], given[0]["layers.1.q"]
    routing = Routing(given, ["layers.0.q", "layers.1.q"], RouteOptions())
    found = routing.weights(routing.similarities({site: torch.tensor([[4.0, 0.1]]) for site in routing.sites}))
    assert found["layers.0.q"].tolist() == [[0, 1, 0]]
    assert found["layers.1.q"].tolist() == [[1, 0, 0]]
    assert found["layers.0.q"].dtype == torch.float32


def test_one_adapter_gets_everything():
    routing = Routing(members("full")[:1], ["layers.0.q"], RouteOptions(top_k=3))
    assert (
        routing.weights(routing.similarities({"layers.0.q": torch.randn(4, 2)}))["layers.0.q"].tolist() == [[1.0]] * 4
    )


def test_nearness_is_the_mean_over_sites_of_the_best_similarity():
    similarities = {"a": torch.tensor([[1.0, 3.0], [0.0, -1.0]]), "b": torch.tensor([[5.0, 2.0], [-2.0, -4.0]])}
    assert nearness(similarities).tolist() == [4.0, -1.0]


def test_inputs_below_the_threshold_get_no_adapter_at_any_site():
    similarities = {"a": torch.tensor([[1.0, 3.0], [0.0, -1.0]]), "b": torch.tensor([[5.0, 2.0], [-2.0, -4.0]])}
    routing = Routing(members(), ["layers.0.q"], RouteOptions(top_k=0), threshold=0.0)
    found = routing.weights(similarities)
    assert [row.sum().item() for row in found["a"]] == pytest.approx([1, 0])
    assert [row.sum().item() for row in found["b"]] == pytest.approx([1, 0])
    routing.threshold = -1.0  # at the threshold is not below it
    assert routing.weights(similarities)["a"][1].sum() == pytest.approx(1)


@pytest.mark.parametrize("similarity", ["l2", "mahalanobis", "cosine"])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_threshold_from_some_inputs_holds_for_others_of_the_kind(similarity, share):
    """The share of held-out inputs that abstain is the share that was asked for; inputs of another kind all abstain."""
    generator = torch.Generator().manual_seed(3)
    centres = 5 * torch.randn(4, 8, generator=generator)

    def draw(count):
        return (centres[:, None] + torch.randn(4, count, 8, generator=generator)).flatten(0, 1)

    given = [{"q": Moments.of(one, "full")} for one in draw(200).view(4, 200, 8)]
    routing = Routing(given, ["q"], RouteOptions(similarity=similarity, abstain=share))
    near = nearness(routing.similarities({"q": draw(1000)}))
    routing.threshold = near.quantile(share).item()
    weights = routing.weights(routing.similarities({"q": draw(2000)}))["q"]
    assert (weights.sum(dim=1) == 0).double().mean().item() == pytest.approx(share, abs=0.015)
    far = routing.weights(
        routing.similarities({"q": -centres.sum(dim=0) * 10 + torch.randn(50, 8, generator=generator)})
    )
    assert (far["q"].sum(dim=1) == 0).double().mean().item() > 0.9


ALL = ["layers.2.q_proj", "layers.10.q_proj", "layers.2.v_proj", "layers.10.v_proj"]


def test_common_sites_are_those_of_all_adapters_in_the_models_order():
    found = common_sites([ALL, reversed(ALL), ALL[:3]], RouteOptions())
    assert found == ["layers.2.q_proj", "layers.2.v_proj", "layers.10.q_proj"]


@pytest.mark.parametrize(
    ("layer", "module", "expected"),
    [
        ("last", "", ["layers.10.q_proj", "layers.10.v_proj"]),
        ("middle", "v_proj", ["layers.10.v_proj"]),
        ("2", "q_proj", ["layers.2.q_proj"]),
        ("all", "v_proj", ["layers.2.v_proj", "layers.10.v_proj"]),
    ],
)
def test_one_layer_or_one_projection_may_decide(layer, module, expected):
    assert common_sites([ALL, ALL], RouteOptions(layer=layer, module=module)) == expected


@pytest.mark.parametrize(
    ("options", "code", "values"),
    [
        ({"layer": "3"}, "option-choice-unknown", ["layer 3", "all, middle, last", "2, 10"]),
        ({"layer": "-1"}, "option-choice-unknown", ["layer -1", "all, middle, last", "2, 10"]),
        ({"layer": "9" * 5000}, "option-choice-unknown", ["layer 999", "all, middle, last", "2, 10"]),
        ({"layer": "first"}, "option-choice-unknown", ["layer first", "all, middle, last", "2, 10"]),
        ({"module": "k_proj"}, "module-matches-no-site", ["'k_proj'", "q_proj, v_proj"]),
        ({"module": "proj"}, "module-matches-no-site", ["'proj'", "q_proj, v_proj"]),
    ],
)
def test_a_layer_or_projection_that_is_not_there_is_refused_with_those_that_are(options, code, values):
    with refused(code, *values, error=OptionError):
        common_sites([ALL, ALL], RouteOptions(**options))


def test_adapters_without_a_common_site_are_refused():
    with refused("feature-layers-differ"):
        common_sites([ALL[:2], ALL[2:]], RouteOptions())


DECODER = [f"model.layers.{layer}.self_attn.{kind}_proj" for layer in range(3) for kind in ("q", "v")]
T5 = [f"encoder.block.{block}.layer.0.SelfAttention.{kind}" for block in range(2) for kind in ("q", "v")] + [
    f"decoder.block.{block}.layer.{layer}.{name}.{kind}"
    for block in range(2)
    for layer, name in enumerate(("SelfAttention", "EncDecAttention"))
    for kind in ("q", "v")
]
BERTS = [
    f"{side}.layer.{layer}.{attention}.self.{kind}"
    for side, attentions in (
        ("encoder.encoder", ["attention"]),
        ("decoder.bert.encoder", ["attention", "crossattention"]),
    )
    for layer in range(2)
    for attention in attentions
    for kind in ("query", "value")
]


def test_a_site_that_decides_takes_its_own_weights():
    assert [routed_site(site, DECODER, DECODER) for site in DECODER] == DECODER


@pytest.mark.parametrize(("order", "encoder"), [(T5, "encoder"), (BERTS, "encoder")])
def test_a_decoder_takes_the_weights_of_the_last_encoder_layer(order, encoder):
    deciding = [site for site in order if site.startswith(f"{encoder}.")]
    last = {site.rpartition(".")[2]: site for site in deciding}
    for site in order:
        expected = site if site in deciding else last[site.rpartition(".")[2]]
        assert routed_site(site, deciding, order) == expected


def test_one_deciding_layer_decides_for_all_each_kind_for_its_own():
    deciding = [site for site in DECODER if ".1." in site]
    found = {site: routed_site(site, deciding, DECODER) for site in DECODER}
    assert set(found.values()) == set(deciding)
    assert all(site.rpartition(".")[2] == taken.rpartition(".")[2] for site, taken in found.items())


def test_of_two_deciding_layers_the_nearest_before_counts():
    deciding = [site for site in DECODER if ".2." not in site and site.endswith("q_proj")]
    assert routed_site("model.layers.2.self_attn.q_proj", deciding, DECODER) == "model.layers.1.self_attn.q_proj"


def test_a_kind_that_does_not_decide_takes_the_nearest_that_does():
    deciding = [site for site in DECODER if site.endswith("v_proj")]
    assert routed_site("model.layers.2.self_attn.q_proj", deciding, DECODER) == "model.layers.1.self_attn.v_proj"
    assert routed_site("model.layers.0.self_attn.q_proj", deciding, DECODER) == "model.layers.0.self_attn.v_proj"


@pytest.mark.parametrize("top_k", [0, 2, 3])
def test_no_temperature_is_too_low_for_the_nearest_to_be_found(top_k):
    far = torch.tensor([[-3e4, -2e4, -9e9, -8e9]], dtype=torch.float64)
    assert softmax_over_best(far, top_k, 1e-307).tolist() == [[0, 1, 0, 0]]
    assert softmax_over_best(far, 1, 1e-307, always=2).tolist() == [[0, 0, 1, 0]]


def test_moments_and_features_of_other_widths_are_told_apart():
    narrow, wide = ({"layers.0.q": cloud([1.0] * width)} for width in (2, 3))
    with refused("feature-widths-differ", "'layers.0.q'", "2", "3", error=MismatchError):
        Routing([narrow, wide], ["layers.0.q"], RouteOptions())
    routing = Routing([narrow], ["layers.0.q"], RouteOptions())
    with refused("feature-widths-differ", "'layers.0.q'", "2", "3", error=MismatchError):
        routing.similarities({"layers.0.q": torch.ones(1, 3)})


def test_a_site_of_thousands_of_digits_has_no_place_of_a_number():
    sites = [f"layers.{number}.q" for number in ("9" * 5000, "10", "2")]
    assert common_sites([sites], RouteOptions()) == [sites[2], sites[1], sites[0]]
