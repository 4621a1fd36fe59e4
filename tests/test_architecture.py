"""The laws of the source tree, read from the source with ``ast``: layers, cycles, output, pickle, start-up."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import clora_cli
from clora_cli.base import errors, registry

ROOT = Path(clora_cli.__file__).parent
LAYERS = (
    {"base", "processes"},
    {"algebra", "store", "model", "options", "routing", "data", "nano"},
    {"methods", "merges", "trims", "routers", "scorers", "metrics"},
    {"training", "evaluation", "transforming", "reporting", "presenting", "testing"},
    {
        "recipes",
        "serving",
    },  # L3 too, but on top of the other rooms: a recipe is all of them in a row, a server most of them
    {"api"},
    {"cli"},
)
NEIGHBOURS = {"presenting": {"reporting"}}  # presenting shows what reporting computes
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "datasets",
    "accelerate",
    "pandas",
    "pyarrow",
    "matplotlib",
    "numpy",
    "jinja2",
    "fastapi",
    "uvicorn",
    "httpx",
    "prometheus_client",
}
SERVING = {"fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"}
FILES = sorted(ROOT.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def top(module: str) -> str:
    """Return the part of the tree that a module belongs to: ``clora_cli.data.load`` to ``data``."""
    return module.partition(".")[2].partition(".")[0]


def layer(part: str) -> int:
    return next(level for level, parts in enumerate(LAYERS) if part in parts)


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the modules of this package that a tree imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("clora_cli"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clora_cli"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)
        assert not (isinstance(node, ast.ImportFrom) and node.level), "relative import"


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_module_has_a_layer():
    parts = {top(name) for name in MODULES} - {"", "__main__"}
    assert parts == set().union(*LAYERS)


@pytest.mark.parametrize("name", [name for name in MODULES if top(name) not in {"", "__main__"}])
def test_imports_point_downward_only(name):
    own = top(name)
    for imported in imports(parsed(MODULES[name])):
        other = top(imported)
        if other and other != own:
            assert layer(other) <= layer(own), f"{name} imports {imported}, which is above it"
            below = layer(own) < 2 or layer(other) < layer(own)
            assert below or other in NEIGHBOURS.get(own, ()), f"{name} imports its neighbour {imported}"


@pytest.mark.parametrize("kind", registry.KINDS)
def test_plug_ins_know_the_layers_below_and_their_own_folder_alone(kind):
    for path in sorted((ROOT / kind).glob("*.py")):
        for imported in imports(parsed(path)):
            inside = imported == f"clora_cli.{kind}" or imported.startswith(f"clora_cli.{kind}._")
            assert inside or layer(top(imported)) < 2, f"{path.name} imports {imported}"


@pytest.mark.parametrize(
    "part", ["training", "evaluation", "transforming", "reporting", "presenting", "recipes", "cli"]
)
def test_engine_reaches_plug_ins_through_the_registry(part):
    plug_ins = {
        f"clora_cli.{kind}.{name.replace('-', '_')}" for kind in registry.KINDS for name in registry.names(kind)
    }
    for path in sorted((ROOT / part).rglob("*.py")):
        assert not plug_ins & set(imports(parsed(path)))


def test_what_is_computed_neither_draws_nor_writes_markup():
    for path in sorted((ROOT / "reporting").rglob("*.py")):
        for node in ast.walk(parsed(path)):
            names = {
                alias.name for alias in getattr(node, "names", []) if isinstance(node, (ast.Import, ast.ImportFrom))
            }
            modules = {name.partition(".")[0] for name in names | {getattr(node, "module", None) or ""}}
            assert not modules & {"matplotlib", "jinja2", "markupsafe", "html"}, path
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "</" not in node.value and "| -" not in node.value, path


@pytest.mark.parametrize("name", [name for name in MODULES if top(name) == "presenting"])
def test_what_shows_loads_drawing_and_templates_only_when_it_uses_them(name):
    for node in parsed(MODULES[name]).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            assert not {module.partition(".")[0] for module in modules} & {"matplotlib", "jinja2", "markupsafe"}


def test_markup_that_a_page_does_not_escape_comes_from_one_place():
    trusted = [path for path in FILES if "Markup(" in path.read_text(encoding="utf-8")]
    assert [path.name for path in trusted] == ["svg.py"]
    for template in ROOT.rglob("*.jinja"):
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape", text)


def test_imports_have_no_circle():
    """Not those inside functions either, nor those for types alone."""
    graph = {name: set(imports(parsed(path))) - {name} for name, path in MODULES.items()}
    list(TopologicalSorter(graph).static_order())


def test_a_file_name_occurs_once():
    """But for commands, which are called what they do, and plug-ins, which are chosen by kind and name."""
    rooms = [path for path in FILES if path.name != "__init__.py" and path.parent.name not in {*registry.KINDS, "cli"}]
    repeated = [name for name, count in Counter(path.name for path in rooms).items() if count > 1]
    assert not repeated
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "__main__"}


@pytest.mark.parametrize("name", [name for name in MODULES if top(name) != "serving"])
def test_only_the_server_imports_what_serves(name):
    for node in ast.walk(parsed(MODULES[name])):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            assert not {module.partition(".")[0] for module in modules} & SERVING


@pytest.mark.parametrize("name", [name for name in MODULES if top(name) != "cli"])
def test_only_the_command_line_speaks(name):
    nodes = list(ast.walk(parsed(MODULES[name])))
    asked = {node.value for node in nodes if isinstance(node, ast.Attribute) and node.attr == "isatty"}
    for node in nodes:
        if isinstance(node, ast.Call):
            assert getattr(node.func, "id", None) != "print"
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "sys" and node not in asked:
            assert node.attr not in {"stdout", "stderr", "exit"}


@pytest.mark.parametrize("name", [name for name in MODULES if top(name) == "cli"])
def test_one_module_writes_to_the_terminal(name):
    writes = [
        ast.unparse(node.func)
        for node in ast.walk(parsed(MODULES[name]))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"sys.stdout.write", "sys.stderr.write", "print"}
    ]
    assert name == "clora_cli.cli._output" or not writes


@pytest.mark.parametrize("name", MODULES)
def test_no_pickle_no_assert_no_catch_all(name):
    tree = parsed(MODULES[name])
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not modules & {"pickle", "dill", "joblib", "shelve", "marshal", "click"}
        if isinstance(node, ast.Attribute):
            assert (getattr(node.value, "id", None), node.attr) not in {("torch", "load"), ("torch", "save")}
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None and getattr(node.type, "id", None) not in {"Exception"}
        assert not isinstance(node, ast.Assert)


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist(name):
    tree = parsed(MODULES[name])
    bound = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound |= {target.id for target in targets if isinstance(target, ast.Name)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            listed = ast.literal_eval(node.value)
            assert set(listed) <= bound
            assert len(set(listed)) == len(listed)


ERRORS = {name for name in errors.__all__ if name.endswith("Error")} - {
    "UnknownNameError"
}  # which has a code of its own


@pytest.mark.parametrize("name", MODULES)
def test_every_error_has_a_code(name):
    """By it tests and callers know what is wrong, whatever the text says."""
    for node in ast.walk(parsed(MODULES[name])):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
            continue
        if getattr(node.exc.func, "id", None) in ERRORS:
            codes = [keyword.value for keyword in node.exc.keywords if keyword.arg == "code"]
            assert codes, f"{name}:{node.lineno} raises an error without a code"
            if isinstance(codes[0], ast.Constant):
                assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", codes[0].value), codes[0].value


PROBE = f"""
import contextlib, io, json, os, sys
from typer.testing import CliRunner
from clora_cli.cli import app
runs = [["--help"], ["tasks", "--help"], ["train-task", "--help"], ["tasks", "-q"]]
for arguments in runs:
    assert CliRunner().invoke(app, arguments).exit_code == 0, arguments
os.environ |= {{"_CLORA_COMPLETE": "complete_bash", "COMP_WORDS": "clora train-task --method n", "COMP_CWORD": "3"}}
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    app(prog_name="clora")
os.environ |= {{"COMP_WORDS": "clora train-task --data mn"}}
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    app(prog_name="clora")
print(out.getvalue().split(), sorted({HEAVY!r} & set(sys.modules)))
"""


def test_help_and_completion_load_no_heavy_library():
    environment = {name: value for name, value in os.environ.items() if name != "CLORA_DATA"}
    result = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    assert result.stderr == ""
    assert result.stdout.strip() == "['n-lora', 'mnli'] []"


LOADERS = {"from_pretrained", "from_config", "pipeline"}
# Where models are loaded, and where one in a GGUF file is made into a folder first.
LOADING = {"clora_cli.model.loading", "clora_cli.model.gguf_file"}


@pytest.mark.parametrize("name", MODULES)
def test_models_are_loaded_in_one_place_for_each_format_and_their_code_never_runs(name):
    for node in ast.walk(parsed(MODULES[name])):
        called = getattr(getattr(node, "func", None), "attr", getattr(getattr(node, "func", None), "id", None))
        if isinstance(node, ast.Call) and called in LOADERS:
            assert name in LOADING, f"{name}:{node.lineno} loads a model by itself"
            (trusts,) = [keyword.value for keyword in node.keywords if keyword.arg == "trust_remote_code"]
            assert isinstance(trusts, ast.Constant) and trusts.value is False
