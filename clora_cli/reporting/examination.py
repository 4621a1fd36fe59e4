"""One package's adapters examined: how far they move weights, how they collide; kept beside them (layer L3).

Small packages are examined whole. Of large ones the magnitudes are counted, and the collisions estimated, in rows drawn at
random; of packages of many adapters every pair of a sample of them is compared. What was found is kept in the package, in
``.anatomy.json``, by the checksums of the adapters: it is never out of date, and may be deleted at any time.
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
from clora_cli.presenting.figures.magnitudes import Shift, measure_shift
from clora_cli.reporting.differences import Difference, distinct_labels, read_deltas
from clora_cli.store.adapter_folder import AdapterFolder, is_adapter

__all__ = ["KEPT", "Examination", "examine_members", "examined"]

KEPT = ".anatomy.json"
_SCHEMA = "clora.anatomy/1"
_WHOLE = 1 << 26  # entries of all deltas together, up to which every one of them is looked at
_ROWS = 64  # rows of each layer that are looked at otherwise
_PAIRED = 24  # adapters at most that are compared pair by pair


@dataclass(frozen=True, eq=False)
class Examination:
    """What was found of some adapters.

    Attributes:
        shifts: The magnitudes of each adapter's deltas.
        earlier: Each adapter against all before it; None for a single adapter.
        pairs: Every pair of adapters, or of a sample of them; None likewise.
    """

    shifts: tuple[Shift, ...]
    earlier: Difference | None
    pairs: Difference | None


def examined(path: Path, members: Sequence[AdapterFolder], progress: Progress) -> Examination:
    """Return what was found earlier of these adapters, or examine them and keep it; a folder that refuses it is left alone.

    Args:
        path: The package's folder, or an adapter's, in which nothing is kept.
        members: Its adapters, at least one.
        progress: Is told of each adapter and layer.

    Raises:
        CloraError: As ``examine_members``.
    """
    if is_adapter(path):
        return examine_members(members, progress)
    with suppress(ArtifactError, KeyError, TypeError, ValueError, IndexError):  # none yet, of others, or damaged
        return _read(read_json(path / KEPT, "examination"), members)
    found = examine_members(members, progress)
    with suppress(CloraError):  # a package may be read-only
        write_text(path / KEPT, to_json(_record(found, members)))
    return found


def examine_members(members: Sequence[AdapterFolder], progress: Progress) -> Examination:
    """Examine adapters.

    Args:
        members: At least one, in the order in which they were trained.
        progress: Is told of each adapter and layer.

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
        every = survey(deltas, scope="collisions" if whole else "earlier", rows=rows, advance=advance)
        chosen = {str(member.path): deltas[str(member.path)] for member in paired}
        pairs = every if whole else survey(chosen, scope="collisions", rows=rows, advance=advance)
    return Examination(tuple(shifts), _named(members, every), _named(paired, pairs))


def _named(members: Sequence[AdapterFolder], found: Survey) -> Difference:
    return Difference(tuple(members), tuple(distinct_labels(members)), found)


def _entries(adapter: Deltas) -> int:
    return sum(delta.shape[0] * delta.shape[1] for delta in adapter.values())


def _paired(members: Sequence[AdapterFolder]) -> list[AdapterFolder]:
    """Return all adapters or, of many, some drawn by a fixed seed, in their order."""
    if len(members) <= _PAIRED:
        return list(members)
    return [members[k] for k in sorted(random.Random(0).sample(range(len(members)), _PAIRED))]


def _identities(members: Sequence[AdapterFolder]) -> list[str]:
    """Return what makes each adapter what it is: its tensors and its configuration, which holds their scaling."""
    return [f"{member.digest} {hashlib.sha256(to_json(member.config).encode()).hexdigest()}" for member in members]


def _record(found: Examination, members: Sequence[AdapterFolder]) -> dict[str, Any]:
    surveys = {"earlier": found.earlier, "pairs": found.pairs}
    return {
        "schema": _SCHEMA,
        "adapters": _identities(members),
        "shifts": [{"shares": shift.shares.tolist(), "zeros": shift.zeros} for shift in found.shifts],
        **{name: one and _survey_record(one.survey, name) for name, one in surveys.items()},
    }


def _survey_record(found: Survey, what: str) -> dict[str, Any]:
    table = [found.earlier] if what == "earlier" else found.pairs
    cells = [[None if one is None else astuple(one) for one in row] for row in table]
    return {"epsilon": found.epsilon, "rows": found.rows, "margin": found.margin, "shares": cells}


def _read(record: Mapping[str, Any], members: Sequence[AdapterFolder]) -> Examination:
    """Return what a record says.

    Raises:
        KeyError, TypeError, ValueError, IndexError: If it is of other adapters or settings, or damaged.
    """
    if record["schema"] != _SCHEMA or record["adapters"] != _identities(members):
        raise ValueError("of other adapters")
    shifts = tuple(Shift(np.array(one["shares"], dtype=np.float64), _number(one["zeros"])) for one in record["shifts"])
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
    table = tuple(tuple(one and _comparison(one) for one in row) for row in record["shares"])
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
