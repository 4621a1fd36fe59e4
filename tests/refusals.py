"""What is refused, by the stable code of its error: its wording may change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from clora_cli.base.errors import CloraError


@contextlib.contextmanager
def refused(
    code: str, *names: object, error: type[CloraError] = CloraError
) -> Iterator[pytest.ExceptionInfo[CloraError]]:
    """Expect an error of a code, whose one line names these values: paths, options, numbers of the case at hand.

    Args:
        code: The error's code.
        names: What its text must name.
        error: Its class, hence its exit code.
    """
    with pytest.raises(error) as info:
        yield info
    assert info.value.code == code, f"{info.value.code}: {info.value}"
    text = str(info.value)
    assert "\n" not in text
    assert [str(name) for name in names if str(name) not in text] == [], text
