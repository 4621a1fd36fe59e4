"""The script that sets finished runs beside the papers' claims: measures by hand, verdicts at their borders, the page."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from attacks import benchmark
from reported import bits, cell, write_run
from support import write_random_adapter

from clora_cli.base import registry
from clora_cli.recipes import read_recipe_file, shipped_recipe
from clora_cli.reporting.bootstrap import compare
from clora_cli.reporting.collect import collect
from clora_cli.store.scores import read_scores, write_scores

_page, evidence_module, measures, claims = (
    benchmark(name) for name in ("claim_page", "claim_evidence", "claim_measures", "claims")
)

ROOT = Path(__file__).parents[1]
CONTENT = yaml.safe_load(claims.CLAIMS.read_text(encoding="utf-8"))
PAPERS = CONTENT["papers"]
ALL = [pytest.param(claim, id=f"{paper['name']}: {claim['claim']}") for paper in PAPERS for claim in paper["claims"]]
RECIPE = ROOT / "benchmarks" / "recipes" / "claims-smollm2-order1.yaml"
ORDER1 = ("dbpedia", "amazon", "yahoo", "agnews")
ORDER2 = ("dbpedia", "amazon", "agnews", "yahoo")
# Right rows of ten after each stage: n-lora keeps more of the past than o-lora and learns as well.
KEPT = [[9], [8, 9], [8, 8, 9], [8, 8, 7, 9]]
LOST = [[9], [6, 9], [4, 5, 9], [2, 3, 4, 9]]


def of(folder, *, draws=200):
    return evidence_module.Evidence(collect([folder]), draws=draws)


@pytest.fixture
def runs(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, "n-lora", seed, KEPT, ORDER1)
        write_run(tmp_path, "o-lora", seed, LOST, ORDER1)
    return tmp_path


def taken(folder, here, tasks=0):
    return claims.measure({"here": here, "tasks": tasks}, of(folder))


def found(value, low, high, unit="points"):
    return measures.Measured(value, low, high, math.nan, 1, unit)


def test_a_gap_is_the_difference_of_metrics_by_hand(runs):
    gap = taken(runs, {"gap": "average-performance", "of": "n-lora", "against": "o-lora"})
    assert gap.value == pytest.approx(80 - 45)  # (8 + 8 + 7 + 9) / 4 and (2 + 3 + 4 + 9) / 4 of ten rows
    assert gap.low < gap.value < gap.high
    assert (gap.deviation, gap.seeds) == (0, 2)
    forgetting = taken(runs, {"gap": "forgetting-rate", "of": "n-lora", "against": "o-lora"})
    assert forgetting.value == pytest.approx((10 + 10 + 20) / 3 - (70 + 60 + 50) / 3)


def test_a_gap_of_averages_is_what_report_compare_tells(runs):
    write_run(runs, "ps-lora", 1, [[9], [7, 9], [6, 7, 9], [5, 6, 8, 9]], ORDER1)
    gap = taken(runs, {"gap": "average-performance", "of": "ps-lora", "against": "o-lora"})
    results = of(runs).results
    told = compare(results.group("ps-lora"), results.group("o-lora")).estimate
    assert gap.value == pytest.approx(told.difference)
    assert (gap.low, gap.high) == pytest.approx((told.low, told.high), abs=2.6)


def test_rows_are_drawn_alike_for_all_methods(runs):
    same = taken(runs, {"gap": "average-performance", "of": "n-lora", "against": "n-lora"})
    assert (same.value, same.low, same.high) == (0, 0, 0)
    learned = taken(runs, {"gap": "forward-transfer", "of": "n-lora", "against": "o-lora"})
    assert (learned.value, learned.low, learned.high) == (0, 0, 0)


def test_the_interval_is_as_wide_as_the_binomial_says(tmp_path):
    write_run(tmp_path, "n-lora", 1, KEPT, ORDER1)
    write_run(tmp_path, "o-lora", 1, [[0] * stage for stage in (1, 2, 3, 4)], ORDER1)
    here = {"gap": "average-performance", "of": "n-lora", "against": "o-lora"}
    gap = claims.measure({"here": here}, of(tmp_path, draws=4000))
    deviation = math.sqrt(sum(p * (1 - p) / 10 for p in (0.8, 0.8, 0.7, 0.9))) / 4 * 100
    assert gap.high - gap.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_orders_are_kept_apart_by_their_number_of_tasks_and_averaged(runs):
    here = {"gap": "average-performance", "of": "n-lora", "against": "o-lora"}
    assert taken(runs, here, 4).value == pytest.approx(35)
    assert taken(runs, here, 15) is None
    write_run(runs / "second", "n-lora", 1, KEPT, ORDER2)
    write_run(runs / "second", "o-lora", 1, KEPT, ORDER2)
    assert taken(runs, here).value == pytest.approx(35 / 2)
    spread = taken(runs, here | {"gap": "order-spread"})
    assert spread.value == pytest.approx(0 - np.std([45, 80], ddof=1))


def test_the_deviation_is_over_seeds_of_the_orders_that_have_several(tmp_path):
    for seed, last in ((1, [8, 8, 7, 9]), (2, [8, 8, 9, 9])):
        write_run(tmp_path / "first", "n-lora", seed, [*KEPT[:3], last], ORDER1)
        write_run(tmp_path / "first", "o-lora", seed, LOST, ORDER1)
    write_run(tmp_path / "second", "n-lora", 1, LOST, ORDER2)
    write_run(tmp_path / "second", "o-lora", 1, LOST, ORDER2)
    gap = taken(tmp_path, {"gap": "average-performance", "of": "n-lora", "against": "o-lora"})
    assert gap.value == pytest.approx((35 + 40) / 2 / 2)
    assert (gap.deviation, gap.seeds) == pytest.approx((np.std([35, 40], ddof=1), 2))


def test_a_method_that_learned_with_more_seeds_is_compared_at_the_common_ones(tmp_path):
    here = {"gap": "average-performance", "of": "n-lora", "against": "o-lora"}
    write_run(tmp_path, "n-lora", 1, KEPT, ORDER1)
    write_run(tmp_path, "o-lora", 1, LOST, ORDER1)
    write_run(tmp_path, "o-lora", 2, KEPT, ORDER1)
    assert taken(tmp_path, here).value == pytest.approx(80 - 45)
    write_run(tmp_path, "ps-lora", 3, KEPT, ORDER1)
    assert taken(tmp_path, {**here, "of": "ps-lora"}).value == pytest.approx(
        80 - (45 + 80) / 2
    )  # with none in common, all


def test_what_no_run_holds_and_what_is_unfinished_is_not_measured(tmp_path):
    write_run(tmp_path, "n-lora", 1, KEPT[:3], ORDER1)
    write_run(tmp_path, "o-lora", 1, LOST[:3], ORDER1)
    assert taken(tmp_path, {"gap": "average-performance", "of": "n-lora", "against": "o-lora"}) is None
    assert taken(tmp_path, {"cost": "seconds", "of": "n-lora", "against": "o-lora"}) is None


def test_methods_that_were_scored_on_other_rows_are_not_compared(runs):
    for path in (runs / "o-lora").glob("seed-*/scores/*.json"):
        scores = read_scores(path)
        (row,) = scores.rows
        cells = {task: cell(old.per_row[:5]) for task, old in row.scores.items()}
        write_scores(replace(scores, rows=(replace(row, scores=cells),)), path)
    assert taken(runs, {"gap": "average-performance", "of": "n-lora", "against": "o-lora"}) is None
    assert taken(runs, {"gap": "average-performance", "of": "o-lora", "against": "o-lora"}).value == 0


def test_tasks_that_were_never_learned_are_averaged(runs):
    for method, right in (("n-lora", 6), ("o-lora", 4)):
        for seed in (1, 2):
            path = runs / method / f"seed-{seed}" / "unseen.json"
            last = read_scores(path.parent / "scores" / "4-agnews.json")
            (row,) = last.rows
            cells = {"yelp": cell(bits(right)), "sst2": cell(bits(5))}
            write_scores(replace(last, rows=(replace(row, scores=cells),)), path)
    assert taken(runs, {"gap": "unseen", "of": "n-lora", "against": "o-lora"}).value == pytest.approx(10)
    assert taken(runs, {"gap": "average-performance", "of": "n-lora", "against": "o-lora"}).value == pytest.approx(35)


def test_a_run_evaluated_in_another_way_is_a_side_of_its_own(runs):
    folder = runs / "n-lora" / "seed-1"
    last = read_scores(folder / "scores" / "4-agnews.json")
    write_scores(rescored(last, "magmax", 10), folder / "magmax.json")
    gap = taken(runs, {"gap": "average-performance", "of": "n-lora:magmax", "against": "n-lora"})
    assert gap.value == pytest.approx(100 - 80)
    assert taken(runs, {"gap": "average-performance", "of": "n-lora:ties", "against": "n-lora"}) is None


def rescored(scores, combine, right):
    """Return the same scores under another combination, with so many rows of ten right on each task."""
    (row,) = scores.rows
    cells = {task: cell(bits(right)) for task in row.scores}
    return replace(scores, combine=combine, rows=(replace(row, scores=cells),))


def test_costs_are_compared_at_the_last_task_and_as_growth(runs):
    cost = taken(runs, {"cost": "seconds", "of": "n-lora", "against": "o-lora"})
    assert (cost.value, cost.unit) == (1, "times")
    growth = taken(runs, {"growth": "peak_memory_bytes", "of": "n-lora", "against": "o-lora"})
    assert growth.value == 1


def test_adapters_are_compared_by_the_ratio_of_their_measures(runs, backbone):
    llama = backbone("llama")
    for seed in (1, 2):
        for method, alpha in (("n-lora", 2), ("o-lora", 4)):
            for stage, task in enumerate(ORDER1, start=1):
                folder = runs / method / f"seed-{seed}" / "adapters" / task
                write_random_adapter(folder, llama, stage=stage, alpha=alpha)
    half_as_large = taken(runs, {"ratio": "last awom", "of": "n-lora", "against": "o-lora"})
    assert half_as_large.value == pytest.approx(1 / 4)
    alike = taken(runs, {"ratio": "mean collision-rate", "of": "n-lora", "against": "o-lora"})
    assert (alike.value, alike.low, alike.high) == pytest.approx((1, 1, 1))
    assert taken(runs, {"ratio": "first effective-rank", "of": "n-lora", "against": "o-lora"}).value == pytest.approx(1)
    assert taken(runs, {"kinship": "relations", "of": "n-lora"}) is None


def test_kinship_is_similarity_within_families_less_that_across_them(tmp_path, backbone):
    # dbpedia, yahoo and agnews ask for topics, amazon for a sentiment.
    write_run(tmp_path, "aso-lora", 1, KEPT, ORDER1)
    relations = {"amazon": {"dbpedia": 0.2}, "yahoo": {"dbpedia": 0.7, "amazon": 0.1}}
    for stage, task in enumerate(ORDER1, start=1):
        scores = {"scores": {"relations": {"aso-lora": relations[task]}}} if task in relations else {}
        folder = tmp_path / "aso-lora" / "seed-1" / "adapters" / task
        write_random_adapter(folder, backbone("llama"), stage=stage, manifest=scores)
    assert taken(tmp_path, {"kinship": "relations", "of": "aso-lora"}).value == pytest.approx(0.7 - 0.15)


def test_a_correlation_is_over_methods(runs):
    write_run(runs, "ps-lora", 1, [[9], [7, 9], [6, 7, 9], [5, 5, 5, 9]], ORDER1)
    here = {"correlation": ["forgetting-rate", "average-performance"], "over": ["n-lora", "o-lora", "ps-lora"]}
    assert taken(runs, here).value == pytest.approx(-1)
    assert taken(runs, here | {"over": ["n-lora", "o-lora", "cast"]}) is None


@pytest.mark.parametrize(
    ("claimed", "measured", "verdict"),
    [
        (3.0, found(1.5, 0.1, 3.0), "shows"),
        (3.0, found(1.4, 0.1, 3.0), "shows, but smaller"),
        (3.0, found(5.0, -0.1, 9.0), "does not show"),
        (3.0, found(-2.0, -3.0, -1.0), "does not show"),
        (-2.0, found(-1.0, -1.5, -0.1), "shows"),
        (0.25, found(0.5, 0.4, 0.6, "times"), "shows"),
        (0.25, found(0.51, 0.4, 0.6, "times"), "shows, but smaller"),
        (0.25, found(0.9, 0.8, 1.0, "times"), "does not show"),
        (4.0, found(0.5, 0.4, 0.6, "times"), "does not show"),
        ("> -1", found(0.0, -0.9, 0.9), "shows"),
        ("> -1", found(0.0, -1.1, 0.9), "does not show"),
        ("< 10", found(5.0, 5.0, 5.0, "%"), "shows"),
        (3.0, None, "not measured"),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_size(claimed, measured, verdict):
    assert claims.verdict({"claimed": claimed}, measured) == verdict


@pytest.mark.parametrize(
    ("claimed", "measured", "is_open"),
    [
        (3.0, found(1.0, -1.0, 4.0), True),
        (3.0, found(0.0, -1.0, 2.0), False),
        (3.0, found(2.0, 1.0, 4.0), False),
        ("> -1", found(0.0, -2.0, 2.0), True),
        ("> -1", found(-4.0, -5.0, -2.0), False),
        ("> -1", None, False),
    ],
)
def test_what_does_not_show_is_open_where_the_interval_holds_the_claim(claimed, measured, is_open):
    assert claims.is_open({"claimed": claimed}, measured) == is_open


def test_what_cannot_be_tested_says_why_and_what_another_script_measured_is_told():
    assert claims.verdict({"reason": "one model"}, None) == "cannot be tested here"
    assert claims.tell({"reason": "one model"}, None) == "one model"
    by_hand = {"recorded": [0.5, -0.2, 1.0], "claimed": "> -1"}
    assert claims.tell(by_hand, claims.measure(by_hand, None)) == "+0.5 [-0.2, +1.0]"


def test_a_page_is_filled_between_its_comments_and_again_to_the_same_bytes(runs, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "top\n<!-- filled: runs -->\nold\n<!-- end -->\nmiddle\n<!-- filled: claims -->\n<!-- end -->\nend\n"
    )
    claims.main([str(runs), "--page", str(page), "--draws", "50"])
    first = page.read_text()
    assert "\nold\n" not in first
    assert first.startswith("top\n")
    assert first.endswith("\nend\n")
    assert "| N-LoRA ends above O-LoRA. | Table 1, orders 1 to 3 |" in first
    assert "| +35.0 [" in first
    assert "| dbpedia, amazon, yahoo, agnews | n-lora | 1, 2 |" in first
    claims.main([str(runs), "--page", str(page), "--draws", "50"])
    assert page.read_text() == first
    page.write_text("nothing to fill")
    with pytest.raises(SystemExit, match="no lines '<!-- filled: runs"):
        claims.main([str(runs), "--page", str(page), "--draws", "50"])


def test_what_the_page_has_of_more_seeds_or_of_runs_not_at_hand_is_kept_where_that_is_asked_for(runs, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- filled: runs -->\n<!-- end -->\n<!-- filled: claims -->\n<!-- end -->\n")
    (of_both := tmp_path / "both").mkdir()
    for folder in list(runs.glob("?-lora")):
        folder.rename(of_both / folder.name)
    claims.main([str(of_both), "--page", str(page), "--draws", "50"])
    first = page.read_text()
    (later := tmp_path / "later").mkdir()
    write_run(later, "n-lora", 1, LOST, ORDER1)  # one seed, and with it o-lora would be as good
    write_run(later, "o-lora", 1, LOST, ORDER1)
    write_run(later, "cast", 1, KEPT, ORDER1)
    claims.main([str(later), "--page", str(page), "--draws", "50", "--keep"])
    kept = page.read_text()
    above = [line for line in first.splitlines() if line.startswith("| N-LoRA ends above O-LoRA.")]
    assert "| +35.0 [" in above[0]
    assert above[0] in kept.splitlines()
    assert "| dbpedia, amazon, yahoo, agnews | n-lora | 1, 2 |" in kept
    assert "| dbpedia, amazon, yahoo, agnews | cast | 1 |" in kept
    assert (
        "CAST ends above O-LoRA. | Table 1, orders 1 to 3 | 81.1 against 76.2: +4.9 (Qwen, table 2: +3.1) | +35.0 ["
        in kept
    )
    claims.main([str(later), "--page", str(page), "--draws", "50"])
    assert "| dbpedia, amazon, yahoo, agnews | n-lora | 1 |" in page.read_text()
    assert above[0] not in page.read_text()


def test_scores_of_dev_rows_are_refused(runs):
    path = runs / "n-lora" / "seed-1" / "scores" / "4-agnews.json"
    path.write_text(path.read_text().replace('"settings": {}', '"settings": {"split": "dev"}'))
    with pytest.raises(SystemExit, match="dev rows"):
        claims.read([runs], 50, 0)


def test_one_run_in_two_folders_is_refused_with_both_names(runs, tmp_path_factory):
    again = tmp_path_factory.mktemp("again")
    write_run(again, "n-lora", 2, KEPT, ORDER1)
    with pytest.raises(SystemExit, match=f"{runs} and {again} both have n-lora with seed 2"):
        claims.read([runs, again], 50, 0)


def test_missing_evaluations_are_printed_as_commands(runs, capsys):
    write_run(runs, "ps-lora", 1, KEPT, ORDER1)
    claims.main([str(runs), "--missing"])
    lines = capsys.readouterr().out.splitlines()
    folder = runs / "ps-lora" / "seed-1"
    assert any(line.startswith(f"clora eval {folder}/adapters --combine magmax --matrix --seen") for line in lines)
    assert any(line.endswith(f"-o {folder}/neuro.json") for line in lines)
    assert {"# no finished run: cast, 4 tasks", "# no finished run: n-lora, 15 tasks"} <= set(lines)
    assert "# no finished run: n-lora, 4 tasks" not in lines
    (folder / "neuro.json").write_text("{}")
    claims.main([str(runs), "--missing"])
    assert "neuro.json" not in capsys.readouterr().out


@pytest.mark.parametrize("claim", ALL)
def test_a_claim_names_what_there_is(claim):
    assert {"claim", "place", "figure"} <= set(claim)
    assert ("claimed" in claim) != ("reason" in claim)
    assert sum(key in claim for key in ("here", "reason", "by")) == 1
    here = claim.get("here", {})
    kind = next(iter(here), None)
    assert kind is None or kind in measures.KINDS
    if kind == "gap":
        assert here["gap"] in {*registry.names("metrics"), "order-spread", "unseen"}
    variants = {method.label for method in read_recipe_file(RECIPE).methods}
    for name in [*(here.get(side, "inc-lora") for side in ("of", "against")), *here.get("over", [])]:
        label, _, evaluation = name.partition(":")
        assert label in variants or set(label.split("+")) <= set(registry.names("methods"))
        assert not evaluation or evaluation in CONTENT["evaluations"]


def test_variants_are_trained_and_scored_as_what_they_are_compared_with():
    compared = {entry.method: entry for entry in shipped_recipe("compare-smollm2-order1").methods}
    for entry in read_recipe_file(RECIPE).methods:
        other = compared[entry.method]
        assert entry.eval == other.eval
        ours, theirs = (dict(settings.train) for settings in (entry, other))
        own = {"rank", "alpha"} if entry.label == "cast-rank-32" else set()
        assert {name for name in ours | theirs if ours.get(name) != theirs.get(name)} == own


def test_every_claim_stands_on_the_page():
    page = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    for claim in (parameter.values[0] for parameter in ALL):
        assert f"| {claim['claim']} | {claim['place']} | {claim['figure']} |" in page


def test_every_paper_has_at_least_four_claims_that_can_be_measured():
    assert all(sum("here" in claim for claim in paper["claims"]) >= 4 for paper in PAPERS)
