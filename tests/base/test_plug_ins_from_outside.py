"""Plug-ins of other distributions and of files: found without importing them, refused with a reason, harming no others."""

from __future__ import annotations

import sys
from itertools import count

import pytest
from refusals import refused

from clora_cli.base import registry
from clora_cli.base.errors import UnknownNameError

_NUMBERS = count()
METHOD = '''"""Do nothing in particular."""
from dataclasses import dataclass
from clora_cli.methods import Method
__all__ = ["Plain"]
@dataclass(frozen=True, kw_only=True)
class Plain(Method):
    """Do nothing in particular.

    Args:
        strength: Of nothing.
    """
    strength: float = 1.0
'''
TRIM = """
from dataclasses import dataclass
from clora_cli.trims import Kept, Trim
__all__ = ["Half"]
@dataclass(frozen=True, kw_only=True)
class Half(Trim):
    def keep(self, entries):
        return Kept(entries.values > 0)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution: its entry points by kind, and the source of its module, which is called ``@`` in values."""

    def make(entries, source=METHOD, name="", version="1.0", kind="methods"):
        number = next(_NUMBERS)
        name, module = name or f"outside-{number}", f"outside_module_{number}"
        site = tmp_path / f"site{number}"
        metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
        )
        text = entries if isinstance(entries, str) else "\n".join(f"{key} = {value}" for key, value in entries.items())
        head = "" if text.startswith("[") else f"[clora.{kind}]\n"
        (metadata / "entry_points.txt").write_text(head + text.replace("@", module), encoding="utf-8")
        (site / f"{module}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(str(site))
        return module

    return make


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a plug-in file and give its path; what it makes known is forgotten afterwards."""
    from clora_cli.base import plugin_sources

    monkeypatch.setattr(plugin_sources, "_admitted", {})

    def make(source, name="mine.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source, encoding="utf-8")
        return str(tmp_path / name)

    return make


def test_an_installed_plug_in_is_listed_with_its_summary_without_being_imported(install):
    module = install({"plain": "@:Plain"}, METHOD + "raise RuntimeError\n", name="Other.Name")
    assert "plain" in registry.names("methods")
    assert "plain" not in registry.built_in("methods")
    assert registry.summary("methods", "plain") == "Do nothing in particular."
    assert registry.listed("methods").endswith("; installed: plain (Other-Name 1.0): Do nothing in particular")
    assert module not in sys.modules


def test_it_is_loaded_with_its_options_and_recorded_with_its_distribution(install):
    install({"plain": "@:Plain"}, name="other", version="2.1")
    plugin = registry.load("methods", "plain")
    assert registry.bind(plugin, "plain", {"strength": "2"}) == {"strength": 2.0}
    assert registry.records({"methods": ["plain", "o-lora"], "merges": ["sum"]}) == {
        "plugins": {"methods": {"plain": {"distribution": "other", "version": "2.1"}}}
    }
    assert registry.records({"methods": ["o-lora"], "merges": ["sum"], "routers": [""]}) == {}


def test_a_module_with_several_plug_ins_gives_each_its_own_summary(install):
    other = METHOD.replace("Plain", "Other").replace("Do nothing in particular.", "Do something else.")
    install({"plain": "@:Plain", "other": "@:Other"}, METHOD + other)
    assert registry.summary("methods", "plain") == "Do nothing in particular."
    assert registry.summary("methods", "other") == "Do something else."


def test_a_summary_moves_no_cursor(install):
    install({"plain": "@:Plain"}, METHOD.replace("in particular", "\\x1b[31m in red"))
    assert registry.summary("methods", "plain") == "Do nothing \\x1b[31m in red."


@pytest.mark.parametrize("source", ["def", "\0", "(" * 10000, "", "'''", "import os\n"])
def test_a_source_without_a_summary_is_listed_all_the_same(install, source):
    install({"plain": "@:Plain"}, source)
    assert registry.summary("methods", "plain") == ""
    assert "plain" in registry.listed("methods")


def test_of_one_distribution_twice_on_the_path_the_first_counts(install):
    install({"plain": "@:Plain"}, name="other", version="1.0")
    install({"plain": "@:Plain"}, name="other", version="2.0")
    assert registry.find("methods", "plain").version == "2.0"


def test_a_name_in_two_distributions_is_refused_with_both_named(install):
    install({"plain": "@:Plain"}, name="first")
    install({"plain": "@:Plain"}, name="second")
    with refused("plugin-name-twice", "method 'plain'", "second 1.0", "first 1.0") as info:
        registry.load("methods", "plain")
    assert info.value.exit_code == 2
    assert "plain (refused: `clora show plain` says why)" in registry.listed("methods")
    assert registry.summary("methods", "plain") == ""


def test_a_distribution_that_calls_itself_clora_is_checked_and_recorded_as_any_other(install):
    install({"plain": "@:Plain"}, METHOD.replace("frozen=True, ", ""), name="clora-cli", version="0")
    with refused("plugin-import-fails", "'plain' of clora-cli 0", "TypeError"):
        registry.load("methods", "plain")
    assert registry.find("methods", "plain").record() == {"distribution": "clora-cli", "version": "0"}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"Name: \x1b[31mred\n\n"])
def test_a_distribution_with_damaged_metadata_breaks_nothing(install, tmp_path, content):
    install({"plain": "@:Plain"})
    (metadata,) = tmp_path.glob("*/*.dist-info/METADATA")
    metadata.write_bytes(content)
    assert registry.load("methods", "plain") and registry.load("methods", "o-lora")
    assert registry.listed("methods").isprintable()


def test_a_name_that_clora_has_is_refused_and_all_others_work(install):
    install({"o-lora": "@:Plain", "plain": "@:Plain"}, name="usurper")
    with refused("plugin-name-twice", "'o-lora'", "clora-cli ", "usurper 1.0"):
        registry.load("methods", "o-lora")
    assert registry.load("methods", "plain") and registry.load("methods", "n-lora")
    assert registry.listed("methods").count("o-lora") == len([n for n in registry.built_in("methods") if "o-lora" in n])


@pytest.mark.parametrize(
    "name", ["Plain", "pl_ain", "-plain", "plain-", "pl--ain", "plän", "pl ain", "pl.ain", "plain+x"]
)
def test_a_name_in_another_case_is_refused(install, name):
    install({name: "@:Plain"})
    assert name not in registry.names("methods")
    with refused("plugin-entry-point-malformed", f"'{name}'"):
        registry.load("methods", name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("merges", "last"), ("merges", "route"), ("merges", "none"), ("routers", "auto"), ("methods", "compare")],
)
def test_a_word_that_means_something_else_is_no_name(install, write, kind, name):
    install({name: "@:Plain"}, kind=kind)
    assert name not in registry.names(kind)
    with refused("plugin-entry-point-malformed", f"'{name}'"):
        registry.load(kind, name)
    with refused("plugin-name-not-allowed", f"'{name}'"):
        registry.admit(kind, write(METHOD, f"{name}.py"))


def test_every_way_to_combine_that_is_no_merge_is_such_a_word():
    from clora_cli.base.entry_points import name_problem
    from clora_cli.options import ways

    for way in set(ways()) - set(registry.names("merges")):
        assert name_problem("merges", way)


@pytest.mark.parametrize("value", ["", "@:", "@:Plain()", "1a:Plain", "@:Plain:x", "os; rm -rf"])
def test_a_malformed_entry_point_is_refused(install, value):
    install({"plain": value})
    assert "plain" not in registry.names("methods")
    with refused("plugin-entry-point-malformed", "'plain' of outside-", "module:object"):
        registry.load("methods", "plain")


@pytest.mark.parametrize(
    "text", ["[clora.methods]\nplain", "[clora.methods]\na = @\na = @", "[clora.methods\nplain = @:P"]
)
def test_entry_points_that_cannot_be_read_break_nothing_and_are_named(install, text):
    install(text, name="broken")
    install({"other": "@:Plain"})
    assert "other" in registry.names("methods")
    assert registry.load("methods", "other")
    if "]" in text:
        with refused("unknown-name", "'plain'", "entry points of broken"):
            registry.load("methods", "plain")


BROKEN = [
    ("import nowhere", "plugin-import-fails", "ModuleNotFoundError: No module named 'nowhere'"),
    ("raise ValueError('two\\nlines')", "plugin-import-fails", "ValueError: two lines"),
    ("class Odd(Exception): pass\nraise Odd", "plugin-import-fails", "Odd"),
    ("raise SystemExit(3)", "plugin-import-fails", "SystemExit: 3"),
    ("def", "plugin-import-fails", "SyntaxError: "),
    (METHOD + "print('hello')", "plugin-prints-on-import", "hello"),
    ("", "plugin-object-missing", "'Plain'"),
    ("Plain = 3", "plugin-wrong-type", "clora_cli.methods.Method"),
    ("from clora_cli.merges import Merge as Plain", "plugin-wrong-type", "clora_cli.methods.Method"),
    (
        "from clora_cli.methods import Method\nclass Plain(Method): pass",
        "plugin-not-frozen-dataclass",
        "@dataclass(frozen=True, kw_only=True)",
    ),
    (METHOD.replace("kw_only=True", "kw_only=False"), "plugin-option-positional", "strength"),
    (METHOD.replace(" = 1.0", ""), "plugin-option-without-default", "strength"),
    (METHOD.replace("float = 1.0", "tuple = ()"), "plugin-option-type-unsupported", "strength"),
    (METHOD.replace("float", "'Unknown'"), "plugin-option-types-unreadable", "NameError"),
    (METHOD + "    def __post_init__(self): 1 / 0\n", "plugin-fails-when-tried", "ZeroDivisionError"),
    (METHOD + "    def penalty(self): pass\n", "plugin-signature-differs", "penalty(self)"),
    (METHOD + "    penalty = 3\n", "plugin-signature-differs", "penalty = 3"),
    (
        "import abc\n"
        + METHOD.replace("(Method)", "(Method, abc.ABC)")
        + "    @abc.abstractmethod\n    def more(self): ...\n",
        "plugin-abstract",
        "more",
    ),
]


@pytest.mark.parametrize(("source", "code", "name"), BROKEN)
def test_what_is_no_plug_in_is_refused_with_the_reason(install, write, capsys, source, code, name):
    install({"plain": "@:Plain"}, source, name="broken")
    for _ in range(2):  # a module runs once, and is refused for good
        with refused(code, "method 'plain' of broken 1.0", name):
            registry.load("methods", "plain")
    assert registry.names("methods") and "plain" in registry.listed("methods")
    assert registry.load("methods", "o-lora")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("kind", "source", "code", "names"),
    [
        ("trims", TRIM.replace("keep", "hold"), "plugin-abstract", ["keep"]),
        (
            "merges",
            TRIM.replace("trims", "merges").replace("Trim", "Merge").replace("Kept", "Deltas"),
            "plugin-abstract",
            ["merge"],
        ),
        (
            "metrics",
            "def Half(scores): return 0.0",
            "plugin-signature-differs",
            ["Half(scores)", "(scores, *, single, counts, zero_shot)"],
        ),
        ("metrics", "class Half: pass", "plugin-wrong-type", ["function"]),
        ("metrics", "def Half(scores, **given): return None", "plugin-fails-when-tried", ["two tasks", "TypeError"]),
    ],
)
def test_each_kind_says_what_is_missing(install, kind, source, code, names):
    install({"half": "@:Half"}, source, kind=kind)
    with refused(code, "'half'", *names):
        registry.load(kind, "half")
    assert [reason for reason in registry.refusals(kind) if "'half'" in reason]


def test_a_file_takes_the_place_of_a_name_and_composes(write):
    path = write(METHOD)
    assert registry.admit("methods", f"{path}+n-lora") == "mine+n-lora"
    assert registry.admit("methods", "o-lora") == "o-lora"
    record = registry.records({"methods": ["mine"]})["plugins"]["methods"]["mine"]
    assert record["path"] == path and len(record["sha256"]) == 64
    assert registry.load("methods", "mine")().strength == 1.0
    assert "mine" in registry.names("methods")


def test_paths_may_hold_plus_signs_and_commas(write):
    folder = write(TRIM, "c++,c/half.py")
    assert registry.admit("trims", f"{folder}") == "half"
    other = write(METHOD, "c++/mine.py")
    assert registry.admit("methods", f"n-lora+{other}+o-lora") == "n-lora+mine+o-lora"
    assert registry.admit("routers", "mahalanobis,shrinkage=0.1") == "mahalanobis,shrinkage=0.1"


def test_the_bytes_that_are_recorded_are_those_that_run(write):
    path = write(METHOD)
    registry.admit("methods", path)
    write("raise ValueError")
    assert registry.load("methods", "mine")
    registry.admit("methods", path)
    with refused("plugin-import-fails", path, "ValueError in line 1"):
        registry.load("methods", "mine")


def test_no_compiled_code_is_left_beside_a_file(write, tmp_path):
    registry.admit("methods", write(METHOD))
    registry.load("methods", "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(
    ("name", "code", "named"),
    [
        ("Mine.py", "plugin-name-not-allowed", "my_method.py"),
        ("o_lora.py", "plugin-name-twice", "'o-lora' is the name of one in clora-cli"),
        ("folder.py/", "path-unreadable", "no regular file"),
        ("absent.py", "path-unreadable", "No such file"),
    ],
)
def test_a_file_that_cannot_be_a_plug_in_is_refused(write, tmp_path, name, code, named):
    (tmp_path / "folder.py").mkdir()
    if name[0] in "Mo":
        write(METHOD, name)
    with refused(code, tmp_path / name, named):
        registry.admit("methods", str(tmp_path / name))


def test_a_file_may_hold_one_plug_in_of_each_kind(write):
    path = write(METHOD + TRIM.replace('__all__ = ["Half"]', '__all__ = ["Plain", "Half"]'))
    assert registry.provided(path) == ("mine", ["methods", "trims"])
    registry.admit("methods", write(METHOD + METHOD.replace("Plain", "Other") + '__all__ = ["Plain", "Other"]'))
    with refused("plugin-several-in-file", path, "2", "clora_cli.methods.Method"):
        registry.load("methods", "mine")


def test_a_file_that_is_shown_says_what_is_wrong_with_what_it_has(write):
    with refused("plugin-abstract", "trim 'mine'", "mine.py", "keep"):
        registry.provided(write(TRIM.replace("keep", "hold")))
    with refused("plugin-none-in-file", "mine.py"):
        registry.provided(write(""))


def test_only_what_the_user_typed_makes_a_file_known(write):
    path = write("raise SystemExit('this must never run')")
    for kind in registry.KINDS:
        with refused("unknown-name", path):
            registry.load(kind, path)
    with pytest.raises(UnknownNameError):
        registry.bound("routers", f"{path},p=2")


def test_what_an_artifact_needs_is_told(install):
    there = {"plugins": {"merges": {"gone": {"distribution": "other", "version": "3"}}}}
    assert registry.missing("merges", "gone", there) == "install the distribution other 3"
    there = {"plugins": {"merges": {"gone": {"path": "x/gone.py", "sha256": "0"}}}}
    assert registry.missing("merges", "gone", there) == "it was the file x/gone.py: name that file on the command line"
    assert registry.missing("merges", "sum", {}) == ""
    install({"gone": "@:Plain"}, name="imposter", kind="merges")
    assert registry.missing("merges", "gone", there) == "it was the file x/gone.py: name that file on the command line"
    assert registry.missing("merges", "gone", {}) == "it was of another version of clora: uninstall imposter"
    there = {"plugins": {"merges": {"gone": {"distribution": "imposter", "version": "0.9"}}}}
    assert registry.missing("merges", "gone", there) == ""


def test_a_damaged_record_tells_nothing():
    for damaged in ({}, None, {"plugins": []}, {"plugins": {"merges": {"gone": 3}}}):
        assert registry.missing("merges", "gone", damaged) == ""
