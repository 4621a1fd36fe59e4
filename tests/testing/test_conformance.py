"""The tests of plug-ins find what is wrong with a plug-in: each of these files has one fault."""

from __future__ import annotations

from itertools import count

import pytest
from contracts import failing
from refusals import refused

from clora_cli.base import plugin_sources
from clora_cli.testing import conformance

_NUMBERS = count()
HEAD = {
    "methods": "from clora_cli.methods import Factors, Method, Penalty\n",
    "merges": "from clora_cli.merges import Deltas, Merge\n",
    "trims": "from clora_cli.trims import Entries, Kept, Trim\n",
    "routers": "from clora_cli.routers import Router\n",
    "scorers": "from clora_cli.scorers import Scorer\n",
}
CLASS = '''"""Be a plug-in."""
from dataclasses import dataclass
import torch
{head}
__all__ = ["Mine"]
@dataclass(frozen=True, kw_only=True)
class Mine({base}):
    """Be a plug-in.

    Args:
        strength: Of it.
    """
    strength: float = 1.0
    {body}
'''
PENALTY = """def penalty(self, factors):
        a, b = factors.a, factors.b
        w = self.strength * factors.scaling ** 2
        value = w * ((a @ a.mT) * (b.mT @ b)).sum()
        return Penalty(value, 2 * w * (b.mT @ b @ a), 2 * w * (b @ (a @ a.mT)))"""
SUM = """def merge(self, deltas):
        total = 0
        for delta in deltas.weighted():
            total = total + delta
        return total"""
HALF = """def keep(self, entries):
        magnitudes = entries.values.detach().float().abs()
        return Kept((magnitudes > magnitudes.median()) | (len(magnitudes) <= 2))"""
NEAR = """def fit(self, prototypes):
        means = prototypes.means
        return lambda features: -torch.cdist(features.double(), means, compute_mode="donot_use_mm_for_euclid_dist")"""
SHORT = """def score(self, answer, prompt, references):
        return 1.0 / (1 + len(answer) * abs(self.strength))"""
METRIC = '''"""Last score, L = R[T][T]; higher is better."""
import numpy as np
__all__ = ["last"]
def last(scores, *, single=None, counts=None, zero_shot=None):
    """Return it."""
    return {value}
'''
RANGE = """
    def __post_init__(self):
        from clora_cli.base.intervals import check_option
        check_option("mine", "strength", self.strength, "(-inf, inf)")
"""


@pytest.fixture
def failures(tmp_path, monkeypatch):
    """Run all tests of a kind over a file; give the names of those that fail."""
    monkeypatch.setattr(plugin_sources, "_admitted", {})

    def run(kind, source):
        file = tmp_path / f"mine{next(_NUMBERS)}.py"
        file.write_text(source, encoding="utf-8")
        return failing(kind, str(file))

    return run


def source_of(kind, body):
    base = {"methods": "Method", "merges": "Merge", "trims": "Trim", "routers": "Router", "scorers": "Scorer"}
    return (
        METRIC.format(value=body)
        if kind == "metrics"
        else CLASS.format(head=HEAD[kind], base=base[kind], body=body + RANGE)
    )


GOOD = {
    "methods": PENALTY,
    "merges": SUM,
    "trims": HALF,
    "routers": NEAR,
    "scorers": SHORT,
    "metrics": "float(scores[-1, -1]) if scores.size else float('nan')",
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_sound_plug_in_passes(failures, kind):
    assert failures(kind, source_of(kind, GOOD[kind])) == set()


FAULTS = [
    ("methods", "2 * w * (b.mT @ b @ a)", "w * (b.mT @ b @ a)", "gradient_is_the_slope"),
    ("methods", "a, b = factors.a,", "a, b = factors.a.mul_(2),", "leaves_its_inputs"),
    ("methods", "value = w *", "value = factors.total_sites * w * len(a) *", "sites_add_up"),
    ("methods", "return Penalty(value,", "return Penalty(value.double(),", "lower_precision"),
    ("methods", "w = self.strength", "w = -self.strength", "gradient_is_the_slope"),
    ("methods", "def penalty", "combine = 'nowhere'\n    def penalty", "exists_and_goes_together"),
    ("methods", "def penalty", "reuses_data = True\n    def penalty", "exists_and_goes_together"),
    ("methods", "        strength: Of it.", "", "options_are_described"),
    ("methods", '"(-inf, inf)"', '"(-inf, inf]"', "no_finite_number"),
    ("methods", '    """Be a plug-in.\n', '    """Be a plug-in\n', "one_sentence"),
    ("merges", "total + delta", "total + delta.abs()", "times_a_number"),
    ("merges", "total + delta", "delta", "order_of_adapters"),
    ("merges", "in deltas.weighted()", "in list(deltas.weighted())", "a_few_at_a_time"),
    ("merges", "total + delta", "total + delta + 1e-3", "nothing_merges_to_nothing"),
    ("merges", "total + delta", "total + delta * torch.rand(delta.shape)", "only_chance"),
    (
        "merges",
        "total + delta",
        "total + delta * torch.rand(delta.shape, generator=deltas.generator(0))",
        "of_their_own",
    ),
    ("merges", "return total", "return total / total.norm()\n    by_rows = True", "tiles_of_rows"),
    ("merges", "return total", "return total.float()", "shape_and_dtype"),
    ("trims", ".abs()", "", "flipping_all_signs"),
    ("trims", "return Kept(", "return Kept(torch.rand(len(magnitudes)) > 0.5) or (", "same_at_every_call"),
    ("trims", "entries.values.detach()", "entries.values.detach().mul_(2)", "nothing_else_changes"),
    ("trims", "magnitudes.median()", "magnitudes.max()", "some_and_not_all"),
    ("trims", "def keep", "needs_reference = True\n    def keep", "needs_a_reference"),
    ("routers", "features.double()", "features.double() - features.double().mean(dim=0)", "depend_on_one_another"),
    ("routers", "-torch.cdist", "torch.cdist", "most_similar"),
    ("routers", "features.double()", "features.float()", "float64|finite|precision"),
    ("routers", "-torch.cdist", "-1 / torch.cdist", "finite"),
    ("scorers", "return 1.0", "return 2.0", "between_0_and_1"),
    ("scorers", "return 1.0", "return references[0] and 1.0", "references_or_without"),
    ("scorers", "return 1.0", "return float(torch.rand(1)) * 1.0", "every_call"),
    ("metrics", "scores[-1, -1]", "np.nanmean(scores[-1])", "missing"),
    ("metrics", " if scores.size else float('nan')", "", "no_task"),
    ("metrics", "scores[-1, -1]", "scores[-1, -1] + (0 if single is None else 1)", "other_runs"),
    ("metrics", "higher is better.", "more is better.", "what_is_better"),
    ("metrics", "float(scores[-1, -1])", "scores[-1, -1:].mean().round(1) and int(scores[-1, -1])", "repeats_itself"),
]


@pytest.mark.parametrize(("kind", "sound", "faulty", "found"), FAULTS)
def test_a_fault_is_found_by_the_test_that_is_for_it(failures, kind, sound, faulty, found):
    source = source_of(kind, GOOD[kind])
    assert sound in source
    failed = failures(kind, source.replace(sound, faulty))
    assert any(part in name for name in failed for part in found.split("|")), failed


def test_an_unknown_kind_or_name_is_refused_at_once():
    with refused("unknown-name", "'method'", "'methods'"):
        conformance("method", "o-lora")
    with refused("unknown-name", "'o-laro'", "'o-lora'"):
        conformance("methods", "o-laro")
