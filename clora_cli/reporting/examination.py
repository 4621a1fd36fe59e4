"""The examination of a package: how far its adapters move the weights and how they collide (layer L3).

Small packages are examined whole. In large ones magnitudes and collisions are estimated from rows drawn at random, and of
many adapters only a sample is compared pair by pair. The results are kept in the package, in ``.anatomy.json``, together with
the adapters' checksums: they are never out of date, and the file may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clora_cli.algebra.comparison import EPSILON, Comparison, Deltas, Survey, survey
from clora_cli.base.errors import ArtifactError, CloraError
from clora_cli.base.files import read_json, to_json, write_text
from clora_cli.base.progress import Progress
from clora_cli.reporting.differences import Difference, distinct_labels, read_deltas
from clora_cli.reporting.shifts import Shift, measure_shift
from clora_cli.store.adapter_folder import AdapterFolder, is_adapter

__all__ = ["KEPT", "Examination", "examine_members", "examined"]

KEPT = ".anatomy.json"
_SCHEMA = "clora.anatomy/1"
_WHOLE = 1 << 26  # entries of all deltas together, up to which every entry is counted
_ROWS = 64  # rows of each layer that are counted otherwise
_PAIRED = 24  # the most adapters that are compared pair by pair


@dataclass(frozen=True, eq=False)
class Examination:
    """The measurements of some adapters.

    Attributes:
        shifts: The magnitudes of each adapter's deltas.
        earlier: Each adapter against all before it; None for a single adapter.
        pairs: Every pair of adapters, or of a sample of them; None for a single adapter.
    """

    shifts: tuple[Shift, ...]
    earlier: Difference | None
    pairs: Difference | None


def examined(path: Path, members: Sequence[AdapterFolder], progress: Progress) -> Examination:
    """Return the kept examination of these adapters, or examine them and keep the result if the folder is writable.

    Args:
        path: The package's folder; or an adapter's, in which nothing is kept.
        members: Its adapters, at least one.
        progress: Follows the work by adapter and layer.

    Raises:
        CloraError: As ``examine_members``.
    """
    if is_adapter(path):
        return examine_members(members, progress)
    with suppress(ArtifactError, KeyError, TypeError, ValueError, IndexError):  # missing, of other adapters, or damaged
        return _read(read_json(path / KEPT, "examination"), members)
    examination = examine_members(members, progress)
    with suppress(CloraError):  # a package may be read-only
        write_text(path / KEPT, to_json(_record(examination, members)))
    return examination


def examine_members(members: Sequence[AdapterFolder], progress: Progress) -> Examination:
    """Examine adapters.

    Args:
        members: At least one, in the order in which they were trained.
        progress: Follows the work by adapter and layer.

    Raises:
        CloraError: If one is damaged, or they do not fit together.
    """
    deltas = read_deltas(members)
    rows = 0 if sum(map(_entries, deltas.values())) <= _WHOLE else _ROWS
    sites = len({site for adapter in deltas.values() for site in adapter})
    paired = _paired(members)
    whole = len(paired) == len(members)
    with progress.track("examine adapters", len(members) + sites * (1 if whole else 2)) as advance:
        shifts = []
        for member, adapter in zip(members, deltas.values(), strict=True):
            shifts.append(measure_shift(adapter, rows))
            advance(1, member.task)
        if len(members) < 2:
            return Examination(tuple(shifts), None, None)
        earlier = survey(deltas, scope="collisions" if whole else "earlier", rows=rows, advance=advance)
        sample = {str(member.path): deltas[str(member.path)] for member in paired}
        pairs = earlier if whole else survey(sample, scope="collisions", rows=rows, advance=advance)
    return Examination(tuple(shifts), _named(members, earlier), _named(paired, pairs))


def _named(members: Sequence[AdapterFolder], measured: Survey) -> Difference:
    return Difference(tuple(members), tuple(distinct_labels(members)), measured)


def _entries(adapter: Deltas) -> int:
    return sum(delta.shape[0] * delta.shape[1] for delta in adapter.values())


def _paired(members: Sequence[AdapterFolder]) -> list[AdapterFolder]:
    """Return all adapters or, of many, a sample drawn with a fixed seed, in their order."""
    if len(members) <= _PAIRED:
        return list(members)
    return [members[index] for index in sorted(random.Random(0).sample(range(len(members)), _PAIRED))]


def _identities(members: Sequence[AdapterFolder]) -> list[str]:
    """Return what identifies each adapter: checksums of its tensors and of its configuration, which holds the scaling."""
    return [f"{member.digest} {hashlib.sha256(to_json(member.config).encode()).hexdigest()}" for member in members]


def _record(examination: Examination, members: Sequence[AdapterFolder]) -> dict[str, Any]:
    differences = {"earlier": examination.earlier, "pairs": examination.pairs}
    return {
        "schema": _SCHEMA,
        "adapters": _identities(members),
        "shifts": [{"shares": shift.shares.tolist(), "zeros": shift.zeros} for shift in examination.shifts],
        **{name: difference and _survey_record(difference.survey, name) for name, difference in differences.items()},
    }


def _survey_record(measured: Survey, part: str) -> dict[str, Any]:
    table = [measured.earlier] if part == "earlier" else measured.pairs
    cells = [[None if comparison is None else astuple(comparison) for comparison in row] for row in table]
    return {"epsilon": measured.epsilon, "rows": measured.rows, "margin": measured.margin, "shares": cells}


def _read(record: Mapping[str, Any], members: Sequence[AdapterFolder]) -> Examination:
    """Return the examination that a record holds.

    Raises:
        KeyError, TypeError, ValueError, IndexError: If it is damaged, or of other adapters or settings.
    """
    if record["schema"] != _SCHEMA or record["adapters"] != _identities(members):
        raise ValueError("of other adapters")
    shifts = tuple(
        Shift(np.array(shift["shares"], dtype=np.float64), _number(shift["zeros"])) for shift in record["shifts"]
    )
    if len(shifts) != len(members) or len({len(shift.shares) for shift in shifts}) != 1:
        raise ValueError("shifts are missing")
    if len(members) < 2:
        return Examination(shifts, None, None)
    (earlier,) = _cells(record["earlier"], 1, len(members))
    paired = _paired(members)
    pairs = _cells(record["pairs"], len(paired), len(paired))
    whole = len(paired) == len(members)
    return Examination(
        shifts,
        _difference(members, record["earlier"], (), earlier),
        _difference(paired, record["pairs"], pairs, earlier if whole else (None,) * len(paired)),
    )


def _cells(record: Mapping[str, Any], down: int, across: int) -> tuple[tuple[Comparison | None, ...], ...]:
    if record["epsilon"] != EPSILON or len(record["shares"]) != down:
        raise ValueError("of another threshold")
    table = tuple(tuple(cell and _comparison(cell) for cell in row) for row in record["shares"])
    if any(len(row) != across for row in table):
        raise ValueError("pairs are missing")
    return table


def _comparison(values: Sequence[Any]) -> Comparison:
    sites, _, _, _, *shares = values
    return Comparison(int(sites), None, None, None, *map(_number, shares))


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("no number")
    return float(value)


def _difference(members: Sequence[AdapterFolder], record: Mapping[str, Any], pairs: Any, earlier: Any) -> Difference:
    return _named(members, Survey(EPSILON, (), pairs, earlier, int(record["rows"]), _number(record["margin"])))
