from __future__ import annotations

import json
import sys

import pytest

from clora_cli.base import registry
from clora_cli.cli._declared import completion

PROBE = """
import sys
from clora_cli.cli import app
app(["trim", "adapters/first", "--by", "density", "-o", "probed"], standalone_mode=False)
loaded = [name for name in ("transformers", "peft", "datasets", "matplotlib") if name in sys.modules]
assert not loaded, loaded
"""


def density(clora, *arguments):
    return clora("trim", "adapters/first", "--by", "density", "--density", 0.25, *arguments)


def test_the_share_of_every_site_is_told(clora, here, package):
    result = density(clora, "-o", "out/first")
    assert (result.code, result.err) == (0, "")
    first, head, *rows = result.out.splitlines()
    assert first.startswith("out/first  (density leaves 25.00% of lora_B, from 0.2")
    assert first.endswith("up (48 of 192))")
    assert head.split() == ["factor", "density", "kept", "of", "site"]
    assert [row.split()[-1] for row in rows] == [
        f"model.layers.{layer}.self_attn.{side}_proj" for layer in (0, 1) for side in "qv"
    ]
    assert sum(int(row.split()[2]) for row in rows) == 48
    assert density(clora, "-o", "out/first").out.splitlines()[0].endswith("; up to date")
    assert density(clora, "-o", "out/first", "-q").out == "out/first\n"
    assert clora("show", "out/first").code == 0


def test_without_options_it_is_the_knee(clora, here, package):
    result = clora("trim", "adapters/first")
    assert (result.code, result.out.startswith("trimmed  (knee leaves ")) == (0, True)
    manifest = json.loads((here / "trimmed" / "clora.json").read_text())
    assert (manifest["trim"]["by"], manifest["trim"]["on"], manifest["task"]) == ("knee", "b", "first")


def test_json_has_all_of_it(clora, package):
    data = json.loads(density(clora, "--on", "both", "--scope", "site", "--json", "-o", "out").out)
    assert {key: data[key] for key in ("schema", "path", "adapter", "by", "options", "on", "scope", "seed")} == {
        "schema": "clora.trim/1",
        "path": "out",
        "adapter": "adapters/first",
        "by": "density",
        "options": {"density": 0.25},
        "on": "both",
        "scope": "site",
        "seed": 42,
    }
    assert (data["made"], data["reference"], data["warnings"]) == (True, [], [])
    assert data["sides"]["B"] == {"kept": 48, "entries": 192, "density": 0.25, "threshold": None}
    assert set(data["sides"]) == {"A", "B"} and len(data["sites"]) == 8
    for one in data["sites"]:
        assert one["density"] == one["kept"] / one["entries"] == 0.25 and one["threshold"] > 0
    assert json.loads(density(clora, "--json", "-o", "all").out)["sides"]["B"]["threshold"] > 0


def test_many_sites_are_told_by_kind(clora, package, monkeypatch):
    monkeypatch.setattr(sys.modules["clora_cli.cli.trim"], "_MANY", 3)
    head, *rows = density(clora, "-o", "out", "--scope", "site", "--on", "both").out.splitlines()[1:]
    assert head.split() == ["factor", "density", "least", "most", "sites"]
    assert [row.split() for row in rows] == [
        [f"lora_{side}", "25.00%", "25.00%", "25.00%", kind, "(2)"] for side in "BA" for kind in ("q_proj", "v_proj")
    ]


def test_a_reference_is_a_package(clora, package):
    result = clora("trim", "adapters/first", "--by", "sign", "--reference", "adapters", "-o", "out", "--json")
    assert (result.code, json.loads(result.out)["reference"]) == (0, ["adapters/second"])
    assert result.err == "adapters/first itself is no part of its reference\n"


def test_clamps_are_warned_of_once(clora, package):
    result = clora("trim", "adapters/first", "--option", "maximum=0.02", "--scope", "site", "-o", "out", "-q")
    assert result.code == 0
    assert [line for line in result.err.splitlines() if line.startswith("warning: lora_B at model.layers.0")]
    assert result.err.count("warning") == 1 and "(and 3 more of its kind)" in result.err


def test_dry_run_tells_all_and_writes_nothing(clora, here, package):
    result = density(clora, "-o", "out", "--plot", "knee.png", "--dry-run")
    assert (result.code, result.out.startswith("would write out  (density leaves 25.00%")) == (0, True)
    assert sorted(path.name for path in here.iterdir()) == ["adapters"]
    assert "made" not in json.loads(density(clora, "--dry-run", "--json").out)


def test_a_figure_is_drawn_also_when_up_to_date(clora, here, package):
    plots = [here / "figures" / f"{name}.svg" for name in ("one", "two")]
    for plot in plots:
        assert density(clora, "-o", "out", "--on", "both", "--plot", plot).code == 0
    assert "density on lora_A: 25.0% stay" in plots[0].read_text()
    assert plots[0].read_bytes() == plots[1].read_bytes()


def test_options_come_from_a_file_too(clora, here, package):
    (here / "trim.yaml").write_text("by: density\noption: {density: 0.5}\nscope: site\nout: half\n")
    assert "50.00% of lora_B" in clora("trim", "adapters/first", "-c", "trim.yaml").out
    assert "12.50% of lora_B" in clora("trim", "adapters/first", "-c", "trim.yaml", "--density", 0.125, "--force").out


def test_names_are_completed():
    complete = completion("trims")
    assert complete("") == list(registry.names("trims"))
    assert complete("k") == ["knee"]


def test_no_model_library_is_loaded(process, package):
    result = process("-c", PROBE)
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "reason", "message"),
    [
        (["adapters/first", "--by", "knees"], 2, "unknown-name", "'knee'"),
        (["adapters/first", "--density", "0.2"], 2, "unknown-name", "'density'"),
        (["adapters/first", "--by", "density", "--density", "0"], 2, "option-out-of-range", "(0, 1]"),
        (["adapters/first", "--on", "both", "--scope", "row"], 2, "option-choice-unknown", "--scope row"),
        (["adapters/first", "--by", "sign"], 2, "option-missing", "--reference"),
        (["adapters/first", "--by", "magnitude"], 2, "option-missing", "threshold=0.001"),
        (["adapters/first", "--plot", "knee.jpg"], 2, "output-ending-unknown", ".png, .svg, .pdf"),
        (["adapters/first", "-o", "adapters"], 2, "output-would-change-input", "--out adapters"),
        (["adapters/first", "--json", "-q"], 2, "", "--quiet"),
        (["adapters"], 3, "not-an-adapter-folder", "adapters"),
        (["nowhere"], 3, "adapter-missing", "nowhere"),
        (["adapters/first", "--by", "sign", "--reference", "nowhere"], 3, "package-missing", "nowhere"),
    ],
)
def test_mistakes_end_in_one_line(clora, here, package, arguments, code, reason, message):
    result = clora("trim", *arguments)
    assert result.error == reason
    assert result.code == code
    error = [line for line in result.err.splitlines() if line.startswith("error")]
    assert len(error) == 1 and message in error[0]
    assert "Traceback" not in result.err
    assert sorted(path.name for path in here.iterdir()) == ["adapters"]
