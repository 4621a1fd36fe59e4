"""Data sets of the Hugging Face Hub, and those that ``datasets`` saved to disk (layer L1).

Without a network nothing is retried: the cache is asked, and what is not in it fails at once.
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

from clora_cli.data.columns import draft_of
from clora_cli.data.files import Record, with_class_names
from clora_cli.data.known import HubSource, KnownTask
from clora_cli.data.layouts import task_name
from clora_cli.data.paths import SPLIT_NAMES
from clora_cli.data.splits import Draft
from clora_cli.data.templates import options, options_head
from clora_cli.errors import DataError

__all__ = ["read_hub", "read_known", "read_saved"]

TRAIN_ROWS_A_LABEL = 1000  # the sizes of the public benchmark files
TEST_ROWS = 7600
_PROBE_SECONDS = 3.0
_LONGEST_REASON = 200  # characters of a loader's own message
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
    splits = {SPLIT_NAMES[split]: rows for split, rows in _load(repo, config or None).items() if split in SPLIT_NAMES}
    records = {split: list(_records(rows, f"Hub {name} {split}")) for split, rows in splits.items()}
    if not any(records.values()):
        raise DataError(f"Hub {name}: no train, validation or test split with rows")
    return draft_of(task_name(repo.rpartition("/")[2]), f"Hub {name}", records, columns)


def read_known(task: KnownTask, source: HubSource) -> Draft:
    """Return the draft of a known task from its Hub source: the benchmark's sentences, labels and sizes.

    Raises:
        DataError: The source cannot be reached and is not cached.
    """
    splits = _load_known(source)
    head = options_head(task.instruction, task.labels)
    origin = f"Hub {source.repo}{f' {source.config}' if source.config else ''}"
    draft = Draft(task.name, {}, task.metric, origin, "options", task.labels, "the task's labels", closed=True)
    for name, split in (("train", "train"), ("test", source.test)):
        rows, kept = splits[split], _sample(splits[split][source.label], name)
        if len(kept) < len(rows):
            draft.notes.append(f"kept {len(kept)} of {len(rows)} {name} rows, the benchmark's size")
        draft.splits[name] = [
            options(head, source.form.format_map(row), (_label(source, row),)) for row in rows.select(kept)
        ]
    return draft


def read_saved(path: Path) -> dict[str, list[Record]]:
    """Return the rows by split of a folder that ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote.

    Raises:
        DataError: The folder is damaged.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a readable saved data set ({_in_brief(error)})") from error
    splits = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    return {
        SPLIT_NAMES[split]: list(_records(rows, f"{path.name} {split}"))
        for split, rows in splits.items()
        if split in SPLIT_NAMES
    }


def _records(rows: Any, file: str) -> Iterator[Record]:
    """Rows of a ``datasets.Dataset``, class indices replaced by their names."""
    names = {name: list(f.names) for name, f in rows.features.items() if type(f).__name__ == "ClassLabel"}
    for number, row in enumerate(rows, start=1):
        yield Record(file, "row", number, with_class_names(row, names))


def _label(source: HubSource, row: Mapping[str, Any]) -> str:
    index = int(row[source.label])
    return source.values[index] if 0 <= index < len(source.values) else ""


def _sample(labels: Sequence[int], split: str) -> list[int]:
    """Indices of the rows to keep, in order: 1000 a label to train on, 7600 to test on, by a fixed seed."""
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
    """``datasets.load_dataset``, from the cache alone where there is no network, every failure in one line."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    offline = _told_offline() or not _reachable()
    try:
        with _cache_only(datasets.config, offline):
            loaded: Mapping[str, Any] = datasets.load_dataset(repo, config, **options)
    except (OSError, ValueError, RuntimeError) as error:
        if offline:
            why = "HF_HUB_OFFLINE is set" if _told_offline() else "the Hub cannot be reached"
            raise DataError(f"Hub {repo}: {why} and it is not in the cache; give a path or set CLORA_DATA") from error
        raise DataError(f"Hub {repo}: cannot be loaded: {_in_brief(error)}") from error
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


def _in_brief(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
