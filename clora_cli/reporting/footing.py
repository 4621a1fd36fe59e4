"""Whether the rows of a table were trained under one protocol, and what differs if they were not (layer L3).

A protocol is what a fair comparison keeps equal: base model, data and number of rows, prompts, steps, learning rate, rank. It
is read from the manifests of a run's adapters, task by task; without manifests there is nothing to compare.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from clora_cli.reporting.method_results import Order, Results, Series
from clora_cli.reporting.scored_run import Run
from clora_cli.reporting.training_protocol import Protocol, differing

__all__ = ["footing_notes", "unequal"]

_MOST = 4  # methods named beside one value; tasks whose values are written out


def footing_notes(results: Results) -> list[str]:
    """Return the differences in protocol: between an order's methods, between a method's runs, and below FWT."""
    several = len(results.orders) > 1
    return [note for order in results.orders for note in _notes_of(results, order, f" ({order.label})" * several)]


def _notes_of(results: Results, order: Order, where: str) -> list[str]:
    series_of_order = [group.series[order] for group in results.groups if group.traits.learns and order in group.series]
    protocols = {
        series.label: next((run.protocol for run in series.runs if run.protocol), {}) for series in series_of_order
    }
    notes = [f"unequal protocols{where}: {text}" for text in unequal(protocols)]
    for series in series_of_order:
        by_run = {_name(run, number): run.protocol for number, run in enumerate(series.runs, start=1)}
        notes += [f"the runs of {series.label}{where} are not repetitions: {text}" for text in unequal(by_run)]
        if text := _unlike_alone(series):
            notes.append(f"FWT of {series.label}{where} is measured from training alone under another protocol: {text}")
    return notes


def unequal(protocols: Mapping[str, Protocol]) -> list[str]:
    """Return what differs between protocols, entry by entry: ``rank: 8 (o-lora, n-lora), 128 (cast)``.

    Args:
        protocols: By label; empty ones are not compared.
    """
    protocols = {label: protocol for label, protocol in protocols.items() if protocol}
    shared = set.intersection(*(set(protocol) for protocol in protocols.values())) if protocols else set()
    tasks = [task for task in next(iter(protocols.values()), {}) if task in shared]
    names = dict.fromkeys(name for protocol in protocols.values() for task in tasks for name in protocol[task])
    return [text for name in names if (text := _difference(name, protocols, tasks))]


def _difference(name: str, protocols: Mapping[str, Protocol], tasks: Sequence[str]) -> str:
    """Return how one entry differs; ``""`` if it does not."""
    protocols = {
        label: protocol for label, protocol in protocols.items() if all(name in protocol[task] for task in tasks)
    }
    values = {task: {_text(protocol[task][name]) for protocol in protocols.values()} for task in tasks}
    odd = [task for task in tasks if len(values[task]) > 1]
    holders: dict[tuple[str, ...], list[str]] = {}
    for label, protocol in protocols.items():
        holders.setdefault(tuple(_text(protocol[task][name]) for task in odd), []).append(label)
    where = f"{name} of {_first(odd)}" if len(odd) < len(tasks) else name
    texts = ", ".join(f"{_joined(by_task)} ({_first(labels)})" for by_task, labels in holders.items())
    return f"{where}: {texts}" if odd else ""


def _name(run: Run, number: int) -> str:
    return f"run {number}" if run.seed is None else f"seed {run.seed}"


def _unlike_alone(series: Series) -> str:
    """Return what differs between a method's runs and the training alone that its FWT is measured from."""
    texts: dict[str, str] = {}
    for run in series.runs:
        for task, alone in run.single_protocol.items():
            own = run.protocol.get(task, {})
            for name in differing(own, alone):
                texts.setdefault(name, f"{name} {_text(alone.get(name))} instead of {_text(own.get(name))}")
    return ", ".join(texts.values())


def _joined(texts: Sequence[str]) -> str:
    """Write the one value that all tasks share, or those of the first tasks."""
    return texts[0] if len(set(texts)) == 1 else "/".join(texts[:_MOST]) + ("/…" if len(texts) > _MOST else "")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else str(value)
    return value if isinstance(value, str) else json.dumps(value)


def _first(labels: Sequence[str]) -> str:
    more = len(labels) - _MOST
    return ", ".join(labels[:_MOST]) + (f" and {more} more" if more > 0 else "")
