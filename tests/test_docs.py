"""What the documents say is so: commands and options exist, links resolve, generated files are fresh, the example runs."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from contracts import failing
from support import train, write_random_adapter

from clora_cli.base import plugin_sources, registry
from clora_cli.cli import app
from clora_cli.data import list_tasks
from clora_cli.model.bank import AdapterBank
from clora_cli.training.composition import compose

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = sorted((ROOT / "examples").glob("*.sh"))
COMMANDS = typer.main.get_command(app).commands


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


def is_example(method):
    """Whether it is one of docs/plug-ins.md."""
    return ".py" in method or "small-lora" in method


@pytest.mark.parametrize("words", CALLS)
def test_methods_and_options_and_tasks_of_a_call_exist(words):
    # Elsewhere -o is what a command writes.
    settings = registry.split_options(
        values(words, *(("-o", "--option") if words[0] == "train-task" else ("--option",)))
    )
    for method in values(words, "--method"):
        if method.isascii() and "$" not in method and not method.isupper() and not is_example(f"{method} {settings}"):
            compose(method, settings)
    for kind, flag in {"trims": "--by", "merges": "--strategy"}.items():
        short = {"density": given[0]} if (given := values(words, "--density")) else {}
        for name in values(words, flag) if words[0] in {"trim", "merge"} else ():
            if name.isascii() and "$" not in name and not name.isupper() and not is_example(name) and name != "energy":
                plugin = registry.load(kind, name)
                plugin(**registry.bind(plugin, name, settings | short))
    if words[0] in {"train-task", "eval", "tasks"}:
        names = {info.name for info in list_tasks()}
        given = values(words, "-d", "--data") + (words[1:2] if words[0] == "tasks" else [])
        plain = [name for name in given if re.fullmatch(r"[a-z0-9-]+", name) and not name.startswith("-")]
        assert set(plain) <= names


def test_the_readme_fits_on_a_screen_and_a_half_and_leads_to_every_guide():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 110
    guides = [f"docs/guides/{path.name}" for path in (ROOT / "docs" / "guides").glob("*.md")]
    assert len(guides) > 10
    assert [guide for guide in guides if f"]({guide})" not in text] == []


def test_each_command_stands_in_the_table_of_the_guide_to_the_command_line():
    text = (ROOT / "docs" / "guides" / "command-line.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`clora {name}`" not in text] == []


def slug(heading):
    """Return a heading's anchor, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page):
    """Return what a link into a page, Markdown or HTML, can point at."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".html":
        return set(re.findall(r' id="([^"]+)"', text))
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


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
            assert anchor in anchors(linked), target


def test_long_tables_of_results_are_report_pages():
    pages = list((ROOT / "docs").glob("*/tables.html"))
    assert {path.parent.name for path in pages} == {"replication", "results"}
    for page in (ROOT / "docs" / f"{path.parent.name}.md" for path in pages):
        rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        assert f"]({page.stem}/tables.html" in page.read_text(encoding="utf-8")
        assert len(page.read_bytes()) < 40_000, (
            f"{page.name} has {len(rows)} rows of tables: move the long ones to its page"
        )


def test_the_file_tree_that_contributors_read_exists():
    (tree,) = [block for block in blocks(ROOT / "CONTRIBUTING.md", "text") if "├──" in block]
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


EXAMPLES = {
    name: code
    for code in blocks(ROOT / "docs" / "plug-ins.md", "python")
    for name in re.findall(r"\A# (\S+\.py)\n", code)
}
CONTRACTS = re.findall(r'conformance\("(\w+)", "(\w+\.py)"\)', EXAMPLES["test_contracts.py"])


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """Write the files of docs/plug-ins.md into a folder to work in."""
    for name, code in EXAMPLES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.setattr(plugin_sources, "_admitted", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in EXAMPLES:
        sys.modules.pop(Path(name).stem, None)


@pytest.mark.parametrize(("kind", "file"), CONTRACTS)
def test_an_example_passes_the_tests_of_every_plug_in(examples, kind, file):
    assert failing(kind, file) == set()


def test_there_is_an_example_of_each_kind_and_a_package_that_names_it():
    assert list(dict.fromkeys(kind for kind, _ in CONTRACTS)) == list(registry.KINDS)
    assert {file for _, file in CONTRACTS} | {"test_contracts.py", "test_small_lora.py"} == EXAMPLES.keys()
    (toml,) = blocks(ROOT / "docs" / "plug-ins.md", "toml")
    for kind, file in CONTRACTS:
        stem = file.removesuffix(".py")
        (group,) = [part for part in toml.split("\n\n") if part.startswith(f'[project.entry-points."clora.{kind}"]')]
        assert f'\n{stem.replace("_", "-")} = "my_package.{stem}:' in group


def test_the_example_by_hand_is_right(examples):
    namespace = runpy.run_path("test_small_lora.py")
    namespace["test_by_hand"]()


def test_the_example_method_trains_alone_and_with_another(examples, model_folder, tasks):
    name = registry.admit("methods", "small_lora.py")
    run = {"method": name, "method_options": {"strength": "0.5"}, "max_steps": 2}
    folder = train(model_folder("llama"), tasks["first"], examples / "adapters", **run)
    assert folder.manifest.raw["method"]["options"] == {"small-lora": {"strength": 0.5}}
    assert folder.manifest.raw["scores"]["last_step"]["penalty/small-lora"] > 0
    composed = train(
        model_folder("llama"), tasks["second"], examples / "adapters", method=f"{name}+o-lora", max_steps=2
    )
    assert composed.stage == 2


def test_the_example_with_a_gate_learns_a_key_for_each_task(examples, model_folder, tasks):
    run = {"method": registry.admit("methods", "keyed.py"), "max_steps": 2}
    first, second = (
        train(model_folder("llama"), tasks[task], examples / "adapters", **run) for task in ("first", "second")
    )
    keys = [folder.state()["key"] for folder in (first, second)]
    assert keys[0].shape == keys[1].shape and not keys[0].equal(keys[1])


def test_the_example_that_projects_leaves_no_gradient_along_earlier_rows(examples):
    import torch

    earlier, fresh = torch.tensor([[3.0, 4.0, 0.0]]), torch.nn.Parameter(torch.zeros(1, 3))
    fresh.grad = torch.tensor([[1.0, 0.0, 2.0]])  # along (0.6, 0.8, 0) it is 0.6
    past = [SimpleNamespace(factors=lambda: {"q": SimpleNamespace(a=earlier)})]
    run = SimpleNamespace(past=past, trainable={"q": SimpleNamespace(a=fresh)})
    registry.load("methods", registry.admit("methods", "apart.py"))().gradients(run)
    assert torch.allclose(fresh.grad, torch.tensor([[0.64, -0.48, 2.0]]))


def test_the_python_of_the_guide_to_peft_computes_the_sum_that_clora_evaluates(backbone, tmp_path, monkeypatch):
    import torch

    loaded = backbone("llama")
    members = [
        write_random_adapter(tmp_path / "adapters" / task, loaded, stage=stage, alpha=4 * stage)
        for stage, task in enumerate(("mnli", "cb"), start=1)
    ]
    shutil.copytree(loaded.reference.path, tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    guide = ROOT / "docs" / "guides" / "peft-and-vllm.md"
    (code,) = blocks(guide, "python")
    namespace: dict[str, object] = {}
    exec(compile(code, guide.name, "exec"), namespace)
    AdapterBank(loaded.model).activate([member.factors() for member in members])
    ids = torch.arange(12)[None] + 5
    with torch.no_grad():
        ours, theirs = loaded.model(ids).logits, namespace["model"](ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
