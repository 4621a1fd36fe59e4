from __future__ import annotations

import time

import pytest

from clora_cli.base.errors import OptionError
from clora_cli.recipes.document import read_document


def test_every_value_knows_its_line():
    top = read_document("a: 1\nb:\n  - x\n  - {c: 2.5}\n", "f.yaml")
    keys = top.mapping("it")
    assert (keys["a"].line, keys["b"].line) == (1, 2)
    first, second = keys["b"].items("b")
    assert (first.line, second.line, second.mapping("it")["c"].line) == (3, 4, 4)
    assert top.plain == {"a": 1, "b": ["x", {"c": 2.5}]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "f.yaml:1: the recipe is empty"),
        ("a: [1\nb: 2", "f.yaml:2: not YAML: "),
        ("a: 1\n\na: 2", "f.yaml:3: key 'a' stands here twice"),
        ("a: 1\n2: b", "f.yaml:2: a key must be a text, not '2'"),
        ("a: &x [*x]", "f.yaml:1: nested too deeply"),
        ("a: !!python/object:os.system {}", "f.yaml:1: "),
        ("a: \x00", "f.yaml:1: not YAML: "),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_line(text, told):
    with pytest.raises(OptionError) as info:
        document = read_document(text, "f.yaml")
        document.mapping("it")["a"].text("a")
    assert str(info.value).startswith(told)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("text", "read", "told"),
    [
        ("a: 1", "text", "a must be a text in one line, not '1'"),
        ('a: "x\\ny"', "text", "a must be a text in one line"),
        ("a: yes", "whole", "a must be a whole number of at least 0, not 'True'"),
        ("a: -1", "whole", "not '-1'"),
        ("a: 1.5", "whole", "not '1.5'"),
        ("a: 1", "flag", "a must be true or false, not '1'"),
        ("a: {b: 1}", "items", "a must be a list, not a mapping"),
        ("a:", "items", "a must be a list, not nothing"),
        ("a: [1]", "mapping", "a must be a mapping of names to values, not a list"),
    ],
)
def test_values_have_types(text, read, told):
    with pytest.raises(OptionError) as info:
        getattr(read_document(text, "f.yaml").mapping("it")["a"], read)("a")
    assert str(info.value).startswith("f.yaml:1: ")
    assert told in str(info.value)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{n}: &{n} [{','.join([f'*{m}'] * 10)}]\n" for m, n in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "too large for a recipe"),
        ("a: " + "[" * 5000 + "]" * 5000, ""),
        ("a: !!timestamp x", "'x' is no text, number, true or false; put it in quotes"),
        ("a: 2020-01-01", "'2020-01-01' is no text"),
        ("a: !!binary aGk=", "is no text"),
        ("a: .inf", "beyond all numbers that are of use here"),
        ("a: .nan", "beyond all numbers"),
        ("a: 1" + "0" * 300, "beyond all numbers"),
        ("a: 1" + "0" * 5000, "is no text, number"),
        ("a: 1" + ":1" * 5000, ""),
    ],
)
def test_values_that_no_recipe_has_are_refused_at_once(text, told):
    start = time.process_time()
    with pytest.raises(OptionError) as info:
        read_document(text, "f.yaml").mapping("it")["a"].whole("a")
    assert time.process_time() - start < 2
    assert str(info.value).startswith("f.yaml:") and told in str(info.value)
    assert "\n" not in str(info.value) and len(str(info.value)) < 500
