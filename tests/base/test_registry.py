from __future__ import annotations

from typing import Literal

import pytest
from refusals import refused

from clora_cli.base import registry


def test_every_file_is_a_plug_in_and_loads():
    for kind in registry.KINDS:
        for name in registry.names(kind):
            assert registry.load(kind, name).__module__ == f"clora_cli.{kind}.{name.replace('-', '_')}"


def test_a_name_that_differs_by_a_letter_is_corrected():
    with refused("unknown-name", "method 'n-lorra'", "'n-lora'", "aso-lora, ") as info:
        registry.load("methods", "n-lorra")
    assert info.value.exit_code == 2


@pytest.mark.parametrize("name", ["__init__", "../errors", "", "n_lora", "_matrix"])
def test_only_names_on_the_list_are_ever_imported(name):
    with refused("unknown-name", f"'{name}'"):
        registry.load("methods", name)


def test_summary_is_the_first_line_of_the_docstring():
    assert registry.summary("methods", "o-lora") == registry.load("methods", "o-lora").__doc__.splitlines()[0]


def test_options_carry_resolved_annotations_and_defaults():
    found = registry.options(registry.load("methods", "n-lora"))
    assert set(found) == {"strength", "raw_strength", "target"}
    assert found["target"].annotation == Literal["ba", "ab", "a", "b", "a+b"]
    assert found["strength"].default is None


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("0.4", float, 0.4),
        ("1e-3", float | None, 1e-3),
        ("none", float | None, None),
        ("7", int, 7),
        ("Yes", bool, True),
        ("off", bool, False),
        ("ab", Literal["ba", "ab"], "ab"),
        ("none", str, "none"),
    ],
)
def test_convert(text, annotation, value):
    assert registry.convert("key", text, annotation) == value


@pytest.mark.parametrize(
    ("text", "annotation", "code", "wanted"),
    [
        ("much", float, "option-malformed", "float"),
        ("1.5", int, "option-malformed", "int"),
        ("ca", Literal["ba", "ab"], "option-choice-unknown", "ba, ab"),
        ("maybe", bool, "option-malformed", "true or false"),
    ],
)
def test_convert_refuses(text, annotation, code, wanted):
    with refused(code, f"key={text}", wanted):
        registry.convert("key", text, annotation)


def test_split_options_takes_the_last_value_and_reads_hyphens_as_underscores():
    assert registry.split_options(["raw-strength=1", "raw_strength = 2", "norm=a=b"]) == {
        "raw_strength": "2",
        "norm": "a=b",
    }


@pytest.mark.parametrize("pair", ["strength", "=1", ""])
def test_split_options_refuses_what_is_no_pair(pair):
    with refused("option-malformed", f"'{pair}'", "key=value"):
        registry.split_options([pair])


def test_bind_refuses_unknown_options_with_the_nearest_name():
    plugin = registry.load("methods", "o-lora")
    assert registry.bind(plugin, "o-lora", {"strength": "2", "norm": "absolute"}) == {
        "strength": 2.0,
        "norm": "absolute",
    }
    with refused("unknown-name", "o-lora", "'strenght'", "'strength'"):
        registry.bind(plugin, "o-lora", {"strenght": "2"})


@pytest.mark.parametrize("kind", [kind for kind in registry.KINDS if kind != "metrics"])
def test_every_option_is_described(kind):
    for name in registry.names(kind):
        plugin = registry.load(kind, name)
        about = registry.described(plugin)
        assert about.keys() == registry.options(plugin).keys(), name
        assert all(len(text.split()) > 1 for text in about.values())
