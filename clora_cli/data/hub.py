"""Data sets of the Hugging Face Hub, and data sets that ``datasets`` saved to disk (layer L1).

Without a network nothing is retried: data sets come from the cache, or fail at once.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from clora_cli.base.errors import DataError
from clora_cli.data.columns import draft_of
from clora_cli.data.known_tasks import HubSource, KnownTask
from clora_cli.data.layouts import task_name
from clora_cli.data.readers import Record, with_class_names
from clora_cli.data.split_names import Twofold, choose_splits, told
from clora_cli.data.splits import Draft
from clora_cli.data.templates import options, options_head
from clora_cli.data.texts import in_brief, library

__all__ = ["MEND", "read_hub", "read_known", "read_saved"]

MEND = "give a path or set CLORA_DATA"
TRAIN_ROWS_A_LABEL = 1000  # as in the public benchmark files
TEST_ROWS = 7600
_PROBE_SECONDS = 3.0
_TRUE = {"1", "ON", "YES", "TRUE"}


def read_hub(name: str, columns: Mapping[str, str] | None = None) -> Draft:
    """Return the draft of a Hub data set, with all its rows.

    Args:
        name: ``owner/name`` or ``owner/name:config``.
        columns: Role to column name.

    Raises:
        DataError: It does not exist, cannot be reached and is not cached, or its columns are not recognised.
    """
    repo, _, config = name.partition(":")
    with library(f"Hub {name}", "a data set that can be read", "choose another or give files"):
        records, notes = _by_kind(_load(repo, config or None), f"Hub {name}")
    if not any(records.values()):
        raise DataError(f"Hub {name}: no train, validation or test split with rows", code="no-usable-split")
    return draft_of(task_name(repo.rpartition("/")[2]), f"Hub {name}", records, columns, notes)


def read_known(task: KnownTask, source: HubSource) -> Draft:
    """Return the draft of a known task from its Hub source: the benchmark's sentences, labels and sizes.

    Raises:
        DataError: The source cannot be reached and is not cached.
    """
    origin = f"Hub {source.repo}{f' {source.config}' if source.config else ''}"
    with library(origin, f"what '{task.name}' is made of", MEND):
        return _known(task, source, origin, _load_known(source))


def _known(task: KnownTask, source: HubSource, origin: str, splits: Mapping[str, Any]) -> Draft:
    head = options_head(task.instruction, task.labels)
    draft = Draft(task.name, {}, task.metric, origin, "options", task.labels, "the task's labels", closed=True)
    for name, split in (("train", "train"), ("test", source.test)):
        rows, kept = splits[split], _sample(splits[split][source.label], name)
        if len(kept) < len(rows):
            draft.notes.append(f"kept {len(kept)} of {len(rows)} {name} rows, the benchmark's size")
        draft.splits[name] = [
            options(head, source.form.format_map(row), (_label(source, row),)) for row in rows.select(kept)
        ]
    draft.notes += _left({split: len(rows) for split, rows in splits.items() if split not in ("train", source.test)})
    return draft


def read_saved(path: Path) -> tuple[dict[str, list[Record]], list[str]]:
    """Return the rows by split of a folder that ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote, and notes.

    Raises:
        DataError: The folder is damaged, or none of its splits is a known one.
    """
    import datasets

    with library(str(path), "a readable saved data set", "save it again"):
        saved = datasets.load_from_disk(str(path))
        if not isinstance(saved, datasets.DatasetDict):
            return {"train": list(_records(saved, f"{path.name} train"))}, []
        return _by_kind(saved, path.name)


def _by_kind(splits: Mapping[str, Any], source: str) -> tuple[dict[str, list[Record]], list[str]]:
    """Rows of train, dev and test, and notes on splits with other names."""
    names = [str(name) for name in splits]
    try:
        chosen, left = choose_splits(names)
    except Twofold as error:
        raise DataError(f"{source}: {error}; save one of them alone and give that", code="split-twice") from error
    if not chosen and len(names) == 1:
        chosen, left = {"train": names}, []
    if not chosen:
        raise DataError(
            f"{source}: none of its splits is train, validation or test: {', '.join(names)}; save one alone",
            code="no-usable-split",
        )
    records = {
        kind: [row for name in taken for row in _records(splits[name], f"{source} {name}")]
        for kind, taken in chosen.items()
    }
    notes = [told(kind, {name: len(splits[name]) for name in taken}) for kind, taken in chosen.items()]
    return records, [*filter(None, notes), *_left({name: len(splits[name]) for name in left})]


def _left(sizes: Mapping[str, int]) -> list[str]:
    named = ", ".join(f"{name} ({rows} rows)" for name, rows in sizes.items())
    return [f"splits not used: {named}"] if sizes else []


def _records(rows: Any, file: str) -> Iterator[Record]:
    """Rows of a ``datasets.Dataset``, with class names instead of indices."""
    inner = {name: getattr(f, "feature", f) for name, f in rows.features.items()}
    names = {name: list(f.names) for name, f in inner.items() if type(f).__name__ == "ClassLabel"}
    for name in (name for name, f in rows.features.items() if type(f).__name__ == "Image"):
        rows = rows.cast_column(name, type(rows.features[name])(decode=False))  # its bytes, as in a file
    for number, row in enumerate(rows, start=1):
        yield Record(file, "row", number, with_class_names(row, names))


def _label(source: HubSource, row: Mapping[str, Any]) -> str:
    index = int(row[source.label])
    return source.values[index] if 0 <= index < len(source.values) else ""


def _sample(labels: Sequence[int], split: str) -> list[int]:
    """Indices of the rows to keep, in order: 1000 per label for training, 7600 for the test, drawn with a fixed seed."""
    order = list(range(len(labels)))
    random.Random(0).shuffle(order)
    if split == "test":
        return sorted(order[:TEST_ROWS])
    kept: dict[int, list[int]] = {}
    for i in order:
        rows = kept.setdefault(int(labels[i]), [])
        if len(rows) < TRAIN_ROWS_A_LABEL:
            rows.append(i)
    return sorted(i for rows in kept.values() for i in rows)


def _load_known(source: HubSource) -> Mapping[str, Any]:
    if not source.exported:
        return _load(source.repo, source.config)
    files = {split: f"{source.config}/{split}/*.parquet" for split in ("train", source.test)}
    return _load(source.repo, None, revision="refs/convert/parquet", data_files=files)


def _load(repo: str, config: str | None, **options: Any) -> Mapping[str, Any]:
    """``datasets.load_dataset``, only from the cache where there is no network, and with failures in one line."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    offline = _told_offline() or not _reachable()
    try:
        with _cache_only(datasets.config, offline):
            loaded: Mapping[str, Any] = datasets.load_dataset(repo, config, **options)
    except (OSError, ValueError, RuntimeError) as error:  # the caller handles others
        if offline:
            why = "HF_HUB_OFFLINE is set" if _told_offline() else "the Hub cannot be reached"
            raise DataError(f"Hub {repo}: {why} and it is not in the cache; {MEND}", code="hub-unreachable") from error
        raise DataError(f"Hub {repo}: cannot be loaded: {in_brief(error)}", code="hub-load-failed") from error
    return loaded


@contextmanager
def _cache_only(config: Any, offline: bool) -> Iterator[None]:
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _told_offline() -> bool:
    return any(os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))


def _reachable() -> bool:
    """Whether the Hub, or the proxy on the way to it, answers within three seconds, name resolution included."""
    from huggingface_hub.constants import ENDPOINT

    url = urlsplit(getproxies().get(urlsplit(ENDPOINT).scheme, ENDPOINT))
    address = (url.hostname or "localhost", url.port or (80 if url.scheme == "http" else 443))
    answered = threading.Event()
    # A thread, because a dead name server blocks for longer than any socket timeout and cannot be interrupted.
    knocker = threading.Thread(target=_knock, args=(address, answered), daemon=True)
    knocker.start()
    knocker.join(_PROBE_SECONDS)
    return answered.is_set()


def _knock(address: tuple[str, int], answered: threading.Event) -> None:
    try:
        with socket.create_connection(address, timeout=_PROBE_SECONDS):
            answered.set()
    except OSError:
        return
