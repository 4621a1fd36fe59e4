"""Shared parts of the tests of all kinds of plug-ins (layer L3)."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor

from clora_cli.base import registry
from clora_cli.base.errors import CloraError, OptionError

__all__ = ["ClassTests", "PlugInTests", "draw", "refuses", "require", "same_bytes", "variants"]

_FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_GIVEN = "0.8"  # for an option that a plug-in cannot do without


def require(holds: bool, what: str) -> None:
    """Let a test fail, with a sentence that says what a plug-in must do."""
    __tracebackhide__ = True
    if not holds:
        pytest.fail(what)


@contextlib.contextmanager
def refuses(error: type[CloraError], pattern: str, what: str) -> Iterator[None]:
    """Let a test fail unless its block raises an error whose message has a pattern."""
    __tracebackhide__ = True
    try:
        yield
    except error as raised:
        require(re.search(pattern, str(raised)) is not None, f"{what}; the message says '{raised}'")
    else:
        pytest.fail(what)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return normal numbers, the same ones for the same shape and seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def same_bytes(left: Mapping[Any, Tensor], right: Mapping[Any, Tensor]) -> bool:
    """Tell whether two tables of tensors are equal, bit by bit."""
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def variants(kind: str, name: str) -> list[Any]:
    """Return a plug-in with its default options, with each choice of its closed ones, and with each open one given.

    An option is open if its default is None and its type a number. Where a trim cannot do without an open option,
    each variant has it.
    """
    plugin = registry.load(kind, name)
    needed = _needed(kind, plugin, name)
    plugins = [plugin(**needed)]
    for option, parameter in registry.options(plugin).items():
        if get_origin(parameter.annotation) is Literal:
            plugins += [plugin(**needed, **{option: choice}) for choice in get_args(parameter.annotation)]
        elif option not in needed and parameter.default is None and float in get_args(parameter.annotation):
            with contextlib.suppress(OptionError):
                plugins.append(plugin(**needed, **{option: 0.3}))
    return plugins


def _needed(kind: str, plugin: Any, name: str) -> dict[str, Any]:
    """Return values of a trim's open options, where it says that it cannot choose without."""
    if kind != "trims":
        return {}
    from clora_cli.trims import Entries

    try:
        plugin().keep(Entries(draw(9), draw(9, seed=1)))
    except OptionError:
        open_ones = [option for option, parameter in registry.options(plugin).items() if parameter.default is None]
        return registry.bind(plugin, name, dict.fromkeys(open_ones, _GIVEN))
    except _FAULTS:
        pass  # the tests will say so
    return {}


class PlugInTests:
    """Requirements of every plug-in; a subclass for each kind.

    A test whose parameter is ``name`` runs for each plug-in, one whose parameter is ``plugin`` for each variant of it.

    Attributes:
        kind: The kind.
        names: The plug-ins to test.
    """

    kind: ClassVar[str]
    names: ClassVar[tuple[str, ...]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrise a test over the plug-ins."""
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.names)
        if "plugin" in metafunc.fixturenames:
            cases = [(f"{name}-{i}", plugin) for name in self.names for i, plugin in enumerate(self.variants(name))]
            metafunc.parametrize("plugin", [pytest.param(plugin, id=label) for label, plugin in cases])

    @classmethod
    def variants(cls, name: str) -> list[Any]:
        """Return a plug-in with the options that are worth testing."""
        return variants(cls.kind, name)

    def test_it_is_fit_for_use(self, name: str) -> None:
        problem = registry.unfit(self.kind, registry.load(self.kind, name))
        require(not problem, problem)

    def test_its_docstring_begins_with_one_sentence_which_the_help_shows(self, name: str) -> None:
        text = inspect.getdoc(registry.load(self.kind, name)) or ""
        require(
            text.partition("\n")[0].endswith("."),
            "the docstring's first line must be a sentence that ends in a full stop",
        )
        require(registry.summary(self.kind, name) != "", "its summary cannot be read without importing the plug-in")


class ClassTests(PlugInTests):
    """Requirements of every plug-in that is a frozen dataclass."""

    def test_two_with_the_same_options_are_equal(self, name: str) -> None:
        plugin = registry.load(self.kind, name)
        require(plugin() == plugin(), "two with the same options are to be equal")

    def test_its_options_are_described(self, name: str) -> None:
        plugin = registry.load(self.kind, name)
        about = registry.described(plugin)
        for option in registry.options(plugin):
            require(option in about, f"option {option} has no entry under Args: in the docstring")

    def test_its_options_are_recorded_and_bound_again(self, name: str) -> None:
        plugin = registry.load(self.kind, name)
        made = plugin()
        texts = {option: str(value) for option, value in dataclasses.asdict(made).items()}
        require(
            plugin(**registry.bind(plugin, name, texts)) == made, "its options, written as text, are not read again"
        )

    @pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
    def test_what_is_no_finite_number_is_refused(self, name: str, text: str) -> None:
        plugin = registry.load(self.kind, name)
        for option, parameter in registry.options(plugin).items():
            if float in (parameter.annotation, *get_args(parameter.annotation)):
                what = f"option {option}={text} is to be refused; clora_cli.base.intervals.check_option does that"
                with refuses(OptionError, f"option {option}=", what):
                    plugin(**registry.bind(plugin, name, {option: text}))
