"""Plug-ins from outside, as a user meets them: an installed package, files, broken ones, artifacts that name absent ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import clora_cli

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin-package"
COMPLETE = "from clora_cli.cli import app; app(prog_name='clora')"
METRIC = "def worst(scores, *, single=None, counts=None, zero_shot=None): "


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The example package, installed by pip into a folder, without a network."""
    if missing := {"pip", "setuptools"} - {str(each.metadata["Name"]).lower() for each in metadata.distributions()}:
        pytest.skip(f"nothing can be installed without {', '.join(missing)}")
    root = tmp_path_factory.mktemp("plug-ins")
    shutil.copytree(EXAMPLE, root / "source", ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", root / "site", root / "source"]
    subprocess.run(command, check=True, timeout=300)
    return root / "site"


@pytest.fixture
def installed(site, monkeypatch):
    """Have it in this process, and in those that it starts."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    return site


def manifest(folder):
    return json.loads((Path(folder) / "clora.json").read_text(encoding="utf-8"))


def put(entries, module="", name="other", version="1.0"):
    """Install a distribution by hand into ``there``, with a module ``other_module``."""
    folder = Path("there") / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text(entries, encoding="utf-8")
    (Path("there") / "other_module.py").write_text(module, encoding="utf-8")
    return str(Path("there").resolve())


def test_an_installed_package_goes_through_the_commands(clora, installed, here, package, tasks, model_folder):
    made = {"distribution": "clora-example", "version": "0.1.0"}
    how = ["--model", model_folder("llama"), "--max-steps", 2, "--rank", 2]
    train = [
        "train-task",
        "--method",
        "row-sparse+n-lora",
        "-o",
        "row_sparse.strength=0.5",
        *how,
        "--data",
        tasks["third"],
    ]
    result = clora(*train)
    assert result.code == 0, result.err
    assert manifest("adapters/third")["method"]["plugins"] == {"methods": {"row-sparse": made}}
    assert manifest("adapters/third")["method"]["options"]["row-sparse"] == {"strength": 0.5}
    assert "up to date" in clora(*train).out
    assert "methods  row-sparse of clora-example 0.1.0" in clora("show", "adapters/third").out

    assert clora("trim", "adapters/first", "--by", "energy", "--option", "share=0.5").code == 0
    assert manifest("trimmed")["trim"]["plugins"] == {"trims": {"energy": made}}
    assert clora("merge", "adapters", "--strategy", "balanced").code == 0
    assert manifest("merged")["method"]["plugins"] == {"merges": {"balanced": made}}
    assert "up to date" in clora("merge", "adapters", "--strategy", "balanced").out
    scores = [
        "eval",
        "adapters",
        "--combine",
        "balanced",
        "--model",
        model_folder("llama"),
        "--matrix",
        "-o",
        "scores.json",
    ]
    assert clora(*scores, "--test-rows", 3).code == 0
    assert json.loads(Path("scores.json").read_text())["settings"]["plugins"] == {"merges": {"balanced": made}}
    reported = json.loads(clora("report", "scores.json", "--json").out)
    assert reported["metrics"]["worst-task"].startswith("Score of the worst task after the last stage")
    matrix = reported["runs"][0]
    assert matrix["metrics"]["worst-task"] == min(matrix["matrix"][-1][: len(matrix["order"])])


def test_inputs_choose_by_an_installed_router(clora, installed, here, package, tasks, model_folder):
    model = ["--model", model_folder("llama")]
    assert clora("stat-features", package / "first", package / "second", *model).code == 0
    result = clora("route", package, "--data", tasks["first"], "--similarity", "minkowski,p=1.5", "-q", "-L", 2, *model)
    assert (result.code, len(result.out.splitlines())) == (0, 2)
    result = clora("route", package, "--data", tasks["first"], "--similarity", "minkowski,p=0.5", *model)
    assert (result.code, "option p=0.5 of minkowski: give a number in [1, inf)" in result.err) == (2, True)


def test_help_completion_and_show_know_an_installed_package(process, installed):
    told = process("-X", "importtime", "-m", "clora_cli", "train-task", "--help")
    assert "row-sparse (clora-example 0.1.0): Keep few rows of the new delta" in " ".join(
        re.sub(r"-\n +", "-", told.out).split()
    )
    assert "clora_example" not in told.err and "torch" not in re.findall(r"\| +(\S+)$", told.err, re.MULTILINE)
    words = {"_CLORA_COMPLETE": "complete_bash", "COMP_WORDS": "clora train-task --method o-lora+ro", "COMP_CWORD": "3"}
    assert process("-c", COMPLETE, **words).out.split() == ["o-lora+row-sparse"]
    shown = process("-m", "clora_cli", "show", "minkowski").out
    assert shown.startswith("router minkowski of clora-example 0.1.0\n\nNegative Minkowski distance")
    assert shown.endswith("Defaults: p=1.0\n")


def test_help_reads_no_library_that_makes_it_slow_with_plug_ins_installed(process, installed):
    told = process("-X", "importtime", "-m", "clora_cli", "--help")
    read = {name.partition(".")[0] for name in re.findall(r"\| +(\S+)$", told.err, re.MULTILINE)}
    assert {"clora_cli", "typer"} <= read
    slow = "accelerate clora_example datasets httpx huggingface_hub matplotlib numpy peft pydantic requests rich safetensors scipy torch"
    assert not read & {*slow.split(), "transformers", "yaml"}


def test_the_examples_own_tests_pass(installed):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "error", "tests"]
    result = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) > 100


METHOD = (EXAMPLE / "src" / "clora_example" / "row_sparse.py").read_text(encoding="utf-8")
MERGE = (EXAMPLE / "src" / "clora_example" / "balanced.py").read_text(encoding="utf-8")
TRIM = (EXAMPLE / "src" / "clora_example" / "energy.py").read_text(encoding="utf-8")
ROUTER = (EXAMPLE / "src" / "clora_example" / "minkowski.py").read_text(encoding="utf-8")


def test_a_file_does_wherever_a_name_does(clora, here, package, tasks, model_folder):
    Path("lib").mkdir()
    for name, source in {"mine": METHOD, "even": MERGE, "half": TRIM, "far": ROUTER}.items():
        Path(f"lib/{name}.py").write_text(source, encoding="utf-8")
    model = ["--model", model_folder("llama")]
    train = ["train-task", "--method", "./lib/mine.py+n-lora", "--max-steps", 2, "--data", tasks["third"], *model]
    assert clora(*train).code == 0
    record = manifest("adapters/third")["method"]["plugins"]["methods"]["mine"]
    assert (record["path"], len(record["sha256"])) == ("lib/mine.py", 64)
    shutil.copy("lib/mine.py", "mine.py")
    train[2] = "mine.py+n-lora"
    assert "up to date" in clora(*train).out  # the bytes count, not where they lie
    Path("mine.py").write_text(METHOD + "\n# another\n", encoding="utf-8")
    result = clora(*train)
    assert result.code == 2 and "method.plugins.methods.mine.sha256" in result.err
    assert clora("merge", "adapters", "--strategy", "lib/even.py").code == 0
    assert clora("trim", "adapters/first", "--by", "lib/half.py").code == 0
    assert clora("eval", "adapters", "--combine", "./lib/even.py", "--test-rows", 2, *model).code == 0
    assert clora("stat-features", "adapters/first", "adapters/second", *model).code == 0
    members = ["adapters/first", "adapters/second"]
    assert clora("route", *members, "--data", tasks["first"], "--similarity", "lib/far.py,p=2", *model).code == 0
    cast = ["train-task", "--method", "cast", "-o", "trim=lib/half.py,share=0.5", "--package", "cast", "--max-steps", 4]
    assert clora(*cast, "--data", tasks["first"], *model).code == 0
    assert manifest("cast/first")["method"]["options"]["cast"]["trim"] == "half,share=0.5"
    assert list(manifest("cast/first")["method"]["plugins"]["trims"]) == ["half"]
    shown = clora("show", "lib/mine.py")
    assert (shown.code, shown.out.startswith("method mine of lib/mine.py\n\nKeep few rows")) == (0, True)


def test_files_are_completed(process, here):
    Path("lib").mkdir()
    Path("lib/mine.py").touch()
    Path("lib/notes.txt").touch()
    for typed, expected in {"./l": ["./lib/"], "lib/": ["lib/mine.py"], "n-lora+lib/m": ["n-lora+lib/mine.py"]}.items():
        words = {
            "_CLORA_COMPLETE": "complete_bash",
            "COMP_WORDS": f"clora train-task --method {typed}",
            "COMP_CWORD": "3",
        }
        assert process("-c", COMPLETE, **words).out.split() == expected


def test_a_broken_distribution_breaks_nothing_but_itself(clora, process, here, package, monkeypatch):
    entries = "[clora.merges]\nbad = other_module:Bad\n[clora.metrics]\nworse = other_module:worse\n[clora.trims]\nknee = x:Y\n"
    path = put(entries, "raise OSError('no such device')\n", name="broken")
    listed = process(
        "-m", "clora_cli", "merge", "--help", PYTHONPATH=f"{path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    )
    assert (listed.code, listed.err, "bad (broken 1.0)" in " ".join(listed.out.split())) == (0, "", True)
    monkeypatch.syspath_prepend(path)
    assert clora("merge", "adapters").code == 0
    result = clora("merge", "adapters", "--strategy", "bad", "-o", "other")
    told = "merge 'bad' of broken 1.0 is refused: importing it fails with OSError: no such device"
    assert (result.code, result.out, result.err) == (2, "", f"error: {told}\n")
    shown = clora("show", "bad")
    assert (shown.code, shown.err) == (2, f"error: {told}\n")
    result = clora("trim", "adapters/first")
    assert result.code == 2 and "trim 'knee' is both in clora-cli" in result.err and "and broken 1.0;" in result.err


def test_a_distribution_in_the_folder_where_python_is_started_is_none(process, here):
    put("[clora.metrics]\nworse = other_module:worse\n", "open('sprung', 'w')\n")
    for path in Path("there").iterdir():
        path.rename(path.name)
    result = process("-m", "clora_cli", "show", "worse", PYTHONPATH=str(Path(clora_cli.__file__).parents[1]))
    assert (result.code, "worse does not exist" in result.err, Path("sprung").exists()) == (3, True, False)
    both = os.pathsep.join([str(Path(clora_cli.__file__).parents[1]), "."])
    assert "other 1.0" in process("-m", "clora_cli", "show", "worse", PYTHONPATH=both).err  # this path the user gave


@pytest.mark.parametrize("body", ["raise KeyError(1)", "return 'much'", "print('x')"])
def test_a_broken_metric_is_left_out_of_a_report_with_a_warning(clora, here, package, model_folder, monkeypatch, body):
    assert clora("eval", package, "--model", model_folder("llama"), "--test-rows", 2, "-o", "scores.json").code == 0
    name = f"worse_module_{len(body)}"
    monkeypatch.syspath_prepend(put(f"[clora.metrics]\nworse = {name}:worst\n"))
    Path(f"there/{name}.py").write_text(METRIC + body, encoding="utf-8")
    result = clora("report", "scores.json", "--json")
    assert (result.code, "warning: metric 'worse' of other 1.0 is refused: with two tasks it fails" in result.err) == (
        0,
        True,
    )
    metrics = json.loads(result.out)["runs"][0]["metrics"]
    assert metrics["worse"] is None and metrics["average-performance"] is not None


def test_an_artifact_says_what_to_install(clora, here, package, tasks, model_folder):
    Path("mine.py").write_text(METHOD.replace("strength: float = 0.01", 'strength: float = 0.01\n    combine = "even"'))
    Path("even.py").write_text(MERGE)
    for member in package.iterdir():
        known = manifest(member)
        known["method"] |= {
            "combine": "balanced",
            "plugins": {"merges": {"balanced": {"distribution": "example", "version": "3"}}},
        }
        (member / "clora.json").write_text(json.dumps(known))
    result = clora("eval", package, "--model", model_folder("llama"))
    assert result.code == 3
    assert (
        "is to be combined by 'balanced', which is not here; install the distribution example 3, or pass --combine"
        in result.err
    )
    for member in package.iterdir():
        known = manifest(member)
        known["method"] |= {"combine": "route", "route": {"similarity": "far,p=2"}}
        known["method"]["plugins"] = {"routers": {"far": {"path": "lib/far.py", "sha256": "0"}}}
        (member / "clora.json").write_text(json.dumps(known))
    result = clora("eval", package, "--model", model_folder("llama"))
    assert result.code == 3
    assert "it was the file lib/far.py: name that file on the command line, or pass --similarity" in result.err
    model = ["--model", model_folder("llama")]
    assert clora("stat-features", package / "first", package / "second", *model).code == 0
    assert clora("eval", package, "--similarity", "l2", "--test-rows", 2, *model).code == 0


def test_artifacts_and_recipes_never_make_a_file_run(clora, here, package, tasks, model_folder):
    trap = "from pathlib import Path\nPath('sprung').touch()\n"
    for name in ("trap.py", "adapters/trap.py", "adapters/first/trap.py", "adapters/first/l2.py"):
        Path(name).write_text(trap, encoding="utf-8")
    model = str(model_folder("llama"))
    for key, value in {
        "combine": "./trap.py",
        "past": "trap.py",
        "name": "./trap.py",
        "route": {"similarity": "./trap.py"},
    }.items():
        for member in (package / "first", package / "second"):
            known = manifest(member)
            known["method"] |= {"combine": "route"} if key == "route" else {}
            record = {"path": "trap.py", "sha256": "0"}
            known["method"] |= {
                key: value,
                "plugins": {kind: {"trap": record, "./trap.py": record} for kind in ("merges", "routers")},
            }
            (member / "clora.json").write_text(json.dumps(known), encoding="utf-8")
        for words in (["show", package], ["show", package / "first"], ["eval", package, "--model", model, "-L", 1]):
            assert clora(*words).code in {0, 3, 4}
        assert clora("merge", package, "-o", f"merged-{key}").code in {0, 3}
    recipe = "name: r\nmodel: {model}\ntasks: [{task}]\nmethods:\n- method: {method}\n  eval: {eval}\n"
    for method, how in (
        ("./trap.py", "{}"),
        ("inc-lora", "{combine: ./trap.py}"),
        ("inc-lora", "{similarity: ./trap.py}"),
    ):
        text = recipe.format(model=model, task=tasks["first"], method=method, eval=how)
        text = text.replace("eval", "option").replace("{similarity", "{trim") if method == "cast" else text
        Path("recipe.yaml").write_text(text, encoding="utf-8")
        assert clora("run", "recipe.yaml", "--dry-run").code == 2
    for option in ("{trim: ./trap.py}", "{similarity: ./trap.py}"):
        text = recipe.replace("eval", "option").format(model=model, task=tasks["first"], method="cast", option=option)
        Path("recipe.yaml").write_text(text, encoding="utf-8")
        assert clora("run", "recipe.yaml", "--dry-run").code == 2
    assert not Path("sprung").exists()
    assert clora("merge", package, "--strategy", "trap.py", "-o", "named").code == 2
    assert Path("sprung").exists()  # named on the command line, it runs
