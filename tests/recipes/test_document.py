from __future__ import annotations

import time

import pytest
from refusals import refused

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
    ("text", "code", "named"),
    [
        ("", "document-empty", "f.yaml:1"),
        ("a: [1\nb: 2", "yaml-malformed", "f.yaml:2"),
        ("a: 1\n\na: 2", "yaml-key-given-twice", "f.yaml:3: key 'a'"),
        ("a: 1\n2: b", "yaml-key-not-text", "'2'"),
        ("a: &x [*x]", "document-too-large", "f.yaml:1"),
        ("a: !!python/object:os.system {}", "recipe-value-malformed", "f.yaml:1"),
        ("a: \x00", "yaml-malformed", "f.yaml:1"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_line(text, code, named):
    with refused(code, "f.yaml:", named, error=OptionError):
        document = read_document(text, "f.yaml")
        document.mapping("it")["a"].text("a")


@pytest.mark.parametrize(
    ("text", "read", "value"),
    [
        ("a: 1", "text", "'1'"),
        ('a: "x\\ny"', "text", "'x"),
        ("a: yes", "whole", "'True'"),
        ("a: -1", "whole", "'-1'"),
        ("a: 1.5", "whole", "'1.5'"),
        ("a: 1", "flag", "'1'"),
        ("a: {b: 1}", "items", "a mapping"),
        ("a:", "items", "nothing"),
        ("a: [1]", "mapping", "a list"),
    ],
)
def test_values_have_types(text, read, value):
    with refused("recipe-value-malformed", "f.yaml:1: a ", value, error=OptionError):
        getattr(read_document(text, "f.yaml").mapping("it")["a"], read)("a")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{n}: &{n} [{','.join([f'*{m}'] * 10)}]\n" for m, n in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "code", "value"),
    [
        (BOMB, "document-too-large", ""),
        ("a: " + "[" * 5000 + "]" * 5000, "document-too-large", ""),
        ("[" * 100_000, "document-too-large", "f.yaml:1"),  # where PyYAML's loader in C ends the process
        ("a: !!timestamp x", "yaml-value-not-plain", "'x'"),
        ("a: 2020-01-01", "yaml-value-not-plain", "'2020-01-01'"),
        ("a: !!binary aGk=", "yaml-value-not-plain", "'aGk='"),
        ("a: .inf", "option-out-of-range", ".inf"),
        ("a: .nan", "option-out-of-range", ".nan"),
        ("a: 1" + "0" * 300, "option-out-of-range", "10000"),
        ("a: 1" + "0" * 5000, "yaml-value-not-plain", "10000"),
        ("a: 1" + ":1" * 5000, "yaml-value-not-plain", "1:1:1"),
    ],
)
def test_values_that_no_recipe_has_are_refused_at_once(text, code, value):
    start = time.process_time()
    with refused(code, "f.yaml:", value, error=OptionError) as info:
        read_document(text, "f.yaml").mapping("it")["a"].whole("a")
    assert time.process_time() - start < 2
    assert len(str(info.value)) < 500
