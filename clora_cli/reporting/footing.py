"""Whether what a table compares was trained under one protocol, and what differs where it was not (layer L3).

A protocol is what a comparison holds equal: base model, data and their number, prompts, steps, learning rate, rank. It is read from the
manifests of a run's adapters, task by task; where these are not at hand nothing is said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from clora_cli.reporting.method_results import Results, Series
from clora_cli.reporting.scored_run import Run
from clora_cli.reporting.training_protocol import Protocol, differing, protocol_of

__all__ = ["Protocol", "footing_notes", "protocol_of", "unequal"]

_MOST = 4  # methods named beside one value; tasks' values named apart


def footing_notes(results: Results) -> list[str]:
    """Return what does not stand on equal footing: between methods of an order, between a method's runs, and under FWT."""
    notes = []
    for order in results.orders:
        learning = [group for group in results.groups if group.traits.learns]
        found = [group.series[order] for group in learning if order in group.series]
        told = f" ({order.label})" if len(results.orders) > 1 else ""
        known = {one.label: next((run.protocol for run in one.runs if run.protocol), {}) for one in found}
        notes += [f"unequal protocols{told}: {text}" for text in unequal(known)]
        for one in found:
            runs = {_name(run, number): run.protocol for number, run in enumerate(one.runs, start=1)}
            notes += [f"the runs of {one.label}{told} are no repetitions: {text}" for text in unequal(runs)]
            if text := _alone(one):
                notes.append(f"FWT of {one.label}{told} is measured from training alone under another protocol: {text}")
    return notes


def unequal(protocols: Mapping[str, Protocol]) -> list[str]:
    """Return what differs between protocols that are known, entry by entry: ``rank: 8 (o-lora, n-lora), 128 (cast)``."""
    known = {label: protocol for label, protocol in protocols.items() if protocol}
    tasks = set.intersection(*(set(protocol) for protocol in known.values())) if known else set()
    order = [task for task in next(iter(known.values()), {}) if task in tasks]
    names = dict.fromkeys(name for protocol in known.values() for task in order for name in protocol[task])
    return [text for name in names if (text := _told(name, known, order))]


def _told(name: str, protocols: Mapping[str, Protocol], tasks: Sequence[str]) -> str:
    protocols = {label: one for label, one in protocols.items() if all(name in one[task] for task in tasks)}
    each = {task: {_one(protocol[task][name]) for protocol in protocols.values()} for task in tasks}
    odd = [task for task, values in each.items() if len(values) > 1]
    labels: dict[tuple[str, ...], list[str]] = {}
    for label, protocol in protocols.items():
        labels.setdefault(tuple(_one(protocol[task][name]) for task in odd), []).append(label)
    where = f"{name} of {_some(odd)}" if len(odd) < len(tasks) else name
    values = ", ".join(f"{_spelled(value)} ({_some(holders)})" for value, holders in labels.items())
    return f"{where}: {values}" if odd else ""


def _name(run: Run, number: int) -> str:
    return f"run {number}" if run.seed is None else f"seed {run.seed}"


def _alone(series: Series) -> str:
    """Return what differs between a method's runs and the training alone that its FWT is measured from."""
    found: dict[str, str] = {}
    for run in series.runs:
        for task, alone in run.single_protocol.items():
            own = run.protocol.get(task, {})
            for name in differing(own, alone):
                found.setdefault(name, f"{name} {_one(alone.get(name))} where it has {_one(own.get(name))}")
    return ", ".join(found.values())


def _spelled(texts: Sequence[str]) -> str:
    """Write a value that all tasks share, or those of the first tasks."""
    return texts[0] if len(set(texts)) == 1 else "/".join(texts[:_MOST]) + ("/…" if len(texts) > _MOST else "")


def _one(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else str(value)
    return value if isinstance(value, str) else json.dumps(value)


def _some(labels: Sequence[str]) -> str:
    more = len(labels) - _MOST
    return ", ".join(labels[:_MOST]) + (f" and {more} more" if more > 0 else "")
