"""What the documents say is so: commands and options exist, links resolve, generated files are fresh, the example runs."""

from __future__ import annotations

import importlib.util
import inspect
import re
import runpy
import shlex
import shutil
import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from support import train, write_random_adapter

import clora_cli.methods
from clora_cli.base import registry
from clora_cli.cli import app
from clora_cli.data import list_tasks
from clora_cli.model.bank import AdapterBank
from clora_cli.training.composition import compose

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted((ROOT / "examples").glob("*.sh"))
COMMANDS = typer.main.get_command(app).commands
_EXAMPLE_METHOD = "small-lora"  # docs/new-method.md adds it


def name_of(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    """Return the contents of a Markdown file's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def calls(path):
    """Yield the words of every ``clora …`` call in a script, or in a document's shell blocks and code spans."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
        text = "\n".join([*blocks(path, "bash"), *(span for span in spans if span.startswith("clora "))])
    for line in text.replace("\\\n", " ").splitlines():
        for call in re.findall(r"(?:^|[|;(=]\s*|\brun |\bthen |-m )(clora(?:_cli)? [a-z-]+.*)", line.strip()):
            words = shlex.split(re.split(r"\s[|#>&]|\s2>|;|\)", call)[0])[1:]
            if not words[0].startswith("-"):  # `clora --help` and the like
                yield words


def values(words, *options):
    """Return what follows the given options."""
    return [value for word, value in pairwise(words) if word in options]


CALLS = [
    pytest.param(words, id=f"{name_of(path)}: {' '.join(words)}")
    for path in [*DOCUMENTS, *SCRIPTS]
    for words in calls(path)
]


def test_calls_were_found():
    assert len(CALLS) > 30


@pytest.mark.parametrize("words", CALLS)
def test_a_call_in_a_document_or_script_exists(words):
    command, *arguments = words
    assert command in COMMANDS
    known = {text for parameter in COMMANDS[command].params for text in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)} <= known | {"--help", "-h"}


@pytest.mark.parametrize("words", CALLS)
def test_methods_and_options_and_tasks_of_a_call_exist(words):
    # Elsewhere -o is what a command writes.
    settings = registry.split_options(
        values(words, *(("-o", "--option") if words[0] == "train-task" else ("--option",)))
    )
    for method in values(words, "--method"):
        if method.isascii() and "$" not in method and _EXAMPLE_METHOD not in method and not method.isupper():
            compose(method, settings)
    if words[0] in {"train-task", "eval", "tasks"}:
        names = {info.name for info in list_tasks()}
        given = values(words, "-d", "--data") + (words[1:2] if words[0] == "tasks" else [])
        plain = [name for name in given if re.fullmatch(r"[a-z0-9-]+", name) and not name.startswith("-")]
        assert set(plain) <= names


def slug(heading):
    """Return a heading's anchor, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_resolve(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


def test_the_file_tree_of_the_readme_exists():
    (tree,) = [block for block in blocks(ROOT / "README.md", "text") if "├──" in block]
    parents, found = [], []
    for line in tree.splitlines():
        match = re.match(r"(?P<rail>(?:│   |    )*)[├└]── (?P<names>\S+(?:, \S+)*)", line)
        if match is None:
            continue
        depth = len(match["rail"]) // 4
        names = match["names"].split(", ")
        parents[depth:] = [names[0].rstrip("/")]
        found += [Path(*parents[:depth], name.rstrip("/")) for name in names]
    assert len(found) > 20
    assert [str(path) for path in found if not (ROOT / path).exists()] == []


def pinned(package):
    """Return the version of constraints.txt for this Python."""
    old = sys.version_info < (3, 11)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        requirement, _, marker = line.partition(";")
        name, _, number = requirement.partition("==")
        if name == package and (not marker or ("<" in marker) == old):
            return number.strip()
    raise AssertionError(f"{package} is not pinned")


@pytest.mark.skipif(version("typer") != pinned("typer"), reason="another version of Typer lays help out differently")
def test_generated_files_are_fresh():
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["generated"]()
    stale = [str(path) for path, text in generated.items() if (ROOT / path).read_text(encoding="utf-8") != text]
    assert stale == [], "run `make docs`"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Put the method of docs/new-method.md beside the others and give its test's functions."""
    source, test = blocks(ROOT / "docs" / "new-method.md", "python")
    for kind in registry.KINDS:
        (tmp_path / kind).mkdir()
    for file in (registry._ROOT / "methods").glob("[a-z]*.py"):
        (tmp_path / "methods" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "methods" / "small_lora.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(registry, "_ROOT", tmp_path)
    monkeypatch.setattr(clora_cli.methods, "__path__", [*clora_cli.methods.__path__, str(tmp_path / "methods")])
    namespace: dict[str, object] = {"__name__": "test_small_lora"}
    exec(compile(test, "docs/new-method.md", "exec"), namespace)
    yield {name: value for name, value in namespace.items() if name.startswith("test_")}
    sys.modules.pop("clora_cli.methods.small_lora", None)


def test_the_example_method_passes_its_own_test_and_trains(example, model_folder, tasks, tmp_path):
    assert registry.summary("methods", _EXAMPLE_METHOD) == "Keep the new LoRA's delta small."
    assert example
    for test in example.values():
        test()
    run = {"method": _EXAMPLE_METHOD, "method_options": {"strength": "0.5"}, "max_steps": 2}
    folder = train(model_folder("llama"), tasks["first"], tmp_path / "adapters", **run)
    assert folder.manifest.raw["method"]["options"] == {"small-lora": {"strength": 0.5}}
    assert folder.manifest.raw["scores"]["last_step"]["penalty/small-lora"] > 0
    composed = train(
        model_folder("llama"), tasks["second"], tmp_path / "adapters", method=f"{_EXAMPLE_METHOD}+o-lora", max_steps=2
    )
    assert composed.stage == 2


def test_the_example_method_passes_the_tests_of_every_method(example):
    location = ROOT / "tests" / "methods" / "test_methods_contract.py"
    specification = importlib.util.spec_from_file_location("contract_with_the_example", location)
    assert specification is not None and specification.loader is not None
    contract = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(contract)
    assert _EXAMPLE_METHOD in contract.NAMES
    cases = {("name",): [_EXAMPLE_METHOD], ("method",): contract.variants(_EXAMPLE_METHOD)}
    cases["method", "seed"] = [(method, 0) for method in cases["method",]]
    passed = 0
    for name, test in vars(contract).items():
        parameters = tuple(inspect.signature(test).parameters) if name.startswith("test_") else ()
        for case in cases.get(parameters, []):
            test(*case) if isinstance(case, tuple) else test(case)
            passed += 1
    assert passed > 5


def test_the_python_of_the_readme_computes_the_sum_that_clora_evaluates(backbone, tmp_path, monkeypatch):
    import torch

    loaded = backbone("llama")
    members = [
        write_random_adapter(tmp_path / "adapters" / task, loaded, stage=stage, alpha=4 * stage)
        for stage, task in enumerate(("mnli", "cb"), start=1)
    ]
    shutil.copytree(loaded.reference.path, tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "README.md", "python")
    namespace: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    AdapterBank(loaded.model).activate([member.factors() for member in members])
    ids = torch.arange(12)[None] + 5
    with torch.no_grad():
        ours, theirs = loaded.model(ids).logits, namespace["model"](ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
