from __future__ import annotations

import json

import pytest


def test_the_call_without_options_is_the_exact_sum(clora, here, package):
    result = clora("merge", *sorted(package.iterdir()))
    assert (result.code, result.out) == (0, "merged  (sum of 2 adapters at 4 sites, exact, as one LoRA of rank 4)\n")
    assert (here / "merged" / "adapter_model.safetensors").is_file()
    assert clora("merge", package).out.endswith("up to date)\n")
    assert clora("merge", package, "-q").out == "merged\n"
    shown = clora("show", "merged")
    assert (shown.code, "merge/sum" in shown.out) == (0, True)


def test_a_cut_tells_the_energy(clora, package):
    result = clora("merge", package, "--strategy", "magmax", "--rank", 2, "-o", "small")
    assert result.code == 0
    assert "cut to rank 2" in result.out
    assert "energy kept" in result.out
    data = json.loads(clora("merge", package, "--strategy", "magmax", "--rank", 2, "-o", "small", "--json").out)
    assert (data["schema"], data["form"], data["made"]) == ("clora.merge/1", "factors", False)
    assert 0 < data["energy"]["worst"] <= data["energy"]["kept"] <= 1


def test_dense_results_are_shown_and_density_is_short_for_an_option(clora, here, package):
    assert clora("merge", package, "--strategy", "ties", "--density", 0.5, "-o", "ties").code == 0
    manifest = json.loads((here / "ties" / "clora.json").read_text())
    assert manifest["method"]["options"]["merge/ties"]["density"] == 0.5
    assert clora("show", "ties").code == 0


def test_dry_run_writes_nothing(clora, here, package):
    result = clora("merge", package, "--strategy", "magmax", "--into-model", "whole", "--dry-run")
    assert (result.code, "would write whole: magmax of 2 adapters" in result.out) == (0, True)
    assert not (here / "whole").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "reason", "message"),
    [
        (["adapters", "--strategy", "magmx"], 2, "unknown-name", "'magmax'"),
        (["adapters", "--weights", "1,x"], 2, "option-malformed", "--weights 1,x"),
        (["adapters", "--weights", "1,2"], 2, "option-has-no-effect", "--strategy linear"),
        (["adapters", "--rank", "2", "--dense"], 2, "options-exclude-each-other", "--dense"),
        (["adapters", "--strategy", "fisher"], 3, "merge-state-missing", "'fisher'"),
        (["nowhere"], 3, "package-missing", "nowhere"),
        (["adapters", "-o", "adapters"], 2, "output-would-change-input", "--out adapters"),
        (["adapters", "-o", "adapters/merged"], 2, "output-would-change-input", "--out adapters/merged"),
        (
            ["adapters/first", "adapters/second", "-o", "adapters/first", "--force"],
            2,
            "output-would-change-input",
            "--out adapters/first",
        ),
    ],
)
def test_mistakes_end_in_one_line(clora, package, arguments, code, reason, message):
    result = clora("merge", *arguments)
    assert result.error == reason
    assert result.code == code
    error = [line for line in result.err.splitlines() if line.startswith("error")]
    assert len(error) == 1 and message in error[0]
    assert "Traceback" not in result.err
