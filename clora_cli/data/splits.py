"""Make a sound task from rows: report faults, carve missing splits, keep dev apart from test (layer L1).

Splits are carved by a hash of the content, never by position: the same rows give the same splits in any order, and rows
that share a prompt stay together.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from clora_cli.base.errors import DataError
from clora_cli.data.task import Example, Task

__all__ = ["Draft", "finish"]

CARVED_FRACTION = 0.1
CARVED_AT_MOST = 500
_MOST_NAMED = 3  # most faulty labels that a note names, most frequent first


@dataclass
class Draft:
    """A task as its reader left it.

    Attributes:
        name: The task's short name.
        splits: Those of ``train``, ``dev`` and ``test`` that the source has.
        metric: One of ``METRICS``.
        source: One line for people.
        template: Name of the prompt template.
        labels: The closed set of answers; ``()`` if open-ended or to be taken from the training rows.
        labels_from: What defines the labels, for messages.
        closed: Whether answers must be labels.
        notes: Notes from the reader.
        missing: Spellings of missing values other than empty cells: ``nan``, ``null``.
    """

    name: str
    splits: dict[str, list[Example]]
    metric: str
    source: str
    template: str
    labels: tuple[str, ...] = ()
    labels_from: str = "the labels of the training rows"
    closed: bool = False
    notes: list[str] = field(default_factory=list)
    missing: tuple[str, ...] = ()


def finish(draft: Draft, *, keep_bad_labels: bool = False) -> Task:
    """Return a task whose three splits can be used as they are.

    Args:
        draft: The task as its reader left it.
        keep_bad_labels: Keep rows whose label is not in the label set; they are counted either way.

    Raises:
        DataError: No rows are left, or too few to carve splits from.
    """
    splits = {name: _answerable(rows, name, draft) for name, rows in draft.splits.items()}
    splits = {name: rows for name, rows in splits.items() if rows}
    if not splits:
        remarks = f" ({'; '.join(draft.notes)})" if draft.notes else ""
        raise DataError(
            f"{draft.source}: no row has both a prompt and an answer{remarks}; check the columns",
            code="no-row-complete",
        )
    labels = _labels(draft, splits)
    if labels:
        _note_alike(labels, draft)
        splits = {name: _respelled(rows, name, labels, draft) for name, rows in splits.items()}
        splits = {name: _labelled(rows, name, labels, draft, keep_bad_labels) for name, rows in splits.items()}
    train, dev, test = _three(draft, {name: rows for name, rows in splits.items() if rows})
    _report_seen(draft, train, test)
    return Task(
        name=draft.name,
        train=tuple(train),
        dev=tuple(dev),
        test=tuple(test),
        labels=labels,
        metric=draft.metric,
        source=draft.source,
        template=draft.template,
        notes=tuple(draft.notes),
    )


def _answerable(rows: Sequence[Example], split: str, draft: Draft) -> list[Example]:
    """Rows with a prompt and an answer that is not blank; the notes count the others."""
    kept = []
    for row in rows:
        references = tuple(dict.fromkeys(r for r in row.references if r.strip()))
        if references and (row.head.strip() or row.body.strip()):
            kept.append(row if references == row.references else replace(row, references=references))
    if len(kept) < len(rows):
        missing = f" ({', '.join(draft.missing)} counted as empty)" if draft.missing else ""
        draft.notes.append(
            f"dropped {len(rows) - len(kept)} of {len(rows)} {split} rows: empty prompt or answer{missing}"
        )
    return kept


def _labels(draft: Draft, splits: Mapping[str, Sequence[Example]]) -> tuple[str, ...]:
    if not draft.closed:
        return ()
    rows = splits.get("train") or next(iter(splits.values()))
    found = tuple(sorted({row.references[0] for row in rows}))
    if draft.labels and set(draft.labels) & set(found):
        return draft.labels
    if draft.labels:
        draft.notes.append(
            f"{draft.labels_from} ({', '.join(draft.labels)}) names none of the rows' labels; "
            f"used those found: {', '.join(found)}"
        )
    return found


def _labelled(
    rows: Sequence[Example], split: str, labels: tuple[str, ...], draft: Draft, keep_bad_labels: bool
) -> list[Example]:
    allowed = set(labels)
    bad = Counter(row.references[0] for row in rows if not allowed.intersection(row.references))
    if not bad:
        return list(rows)
    # A single such label (-1, '-') means an unlabelled split; several are labels in another spelling.
    if split == "test" and bad.total() == len(rows) and len(bad) > 1 and not keep_bad_labels:
        other, known = (", ".join(f"'{label}'" for label in sorted(some)[:_MOST_NAMED]) for some in (bad, labels))
        raise DataError(
            f"{draft.source}: no label of the test rows ({other}) is one of {draft.labels_from} ({known}); "
            "write both in one way",
            code="labels-disagree",
        )
    named = ", ".join(f"'{label}'" for label, _ in bad.most_common(_MOST_NAMED))
    more = f" and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
    verb = "kept" if keep_bad_labels else "dropped"
    what = f"label {named}{more} is" if len(bad) == 1 else f"labels {named}{more} are"
    draft.notes.append(f"{verb} {bad.total()} of {len(rows)} {split} rows: {what} not in {draft.labels_from}")
    return list(rows) if keep_bad_labels else [row for row in rows if allowed.intersection(row.references)]


def _note_alike(labels: Sequence[str], draft: Draft) -> None:
    forms: dict[str, list[str]] = {}
    for label in labels:
        forms.setdefault(_form(label), []).append(label)
    if alike := [" and ".join(f"'{label}'" for label in same) for same in forms.values() if len(same) > 1]:
        draft.notes.append(
            f"labels that differ in case or composition alone are labels of their own: {', '.join(alike)}"
        )


def _respelled(rows: Sequence[Example], split: str, labels: tuple[str, ...], draft: Draft) -> list[Example]:
    """Rows with labels respelled as in the label set, where they differ only in case, composition or spaces."""
    forms = Counter(map(_form, labels))
    known = {_form(label): label for label in labels if forms[_form(label)] == 1}
    meant: dict[str, str] = {}

    def spelled(label: str) -> str:
        if label in labels or _form(label) not in known:
            return label
        return meant.setdefault(label, known[_form(label)])

    kept = [
        row if {*row.references} <= {*labels} else replace(row, references=tuple(map(spelled, row.references)))
        for row in rows
    ]
    if meant:
        pairs = ", ".join(f"'{label}' as '{known}'" for label, known in sorted(meant.items())[:_MOST_NAMED])
        draft.notes.append(f"{split} labels are read as {draft.labels_from} are spelled: {pairs}")
    return kept


def _form(label: str) -> str:
    return " ".join(unicodedata.normalize("NFC", label).casefold().split())


def _three(draft: Draft, splits: dict[str, list[Example]]) -> tuple[list[Example], list[Example], list[Example]]:
    """Train, dev and test, with what is missing carved from train."""
    train, dev, test = (splits.get(name, []) for name in ("train", "dev", "test"))
    if not test and dev:
        draft.notes.append(f"no test split: the {len(dev)} dev rows are the test")
        dev, test = [], dev
    if not test:
        if len(train) < 3:
            raise DataError(
                f"{draft.source}: {len(train)} rows are too few to carve a test and a dev split from; give more",
                code="too-few-rows",
            )
        train, test = _carve(train, set())
        draft.notes.append(_carved_test(len(test), len(train)))
    if dev:
        dev = _apart(draft, dev, test)
    if not dev and train:
        train, dev = _carve(train, {row.prompt for row in test})
        draft.notes.append(_carved_note(len(dev)))
    if not train:
        draft.notes.append("no training rows: the task can be scored, not trained on")
    return train, dev, test


def _carved_test(count: int, left: int) -> str:
    if count:
        return f"no test split: carved {count} rows from train by content hash"
    return f"no test split, and none can be carved: all {left} rows share one prompt; the task can be trained on, not scored"


def _carved_note(count: int) -> str:
    if count:
        return f"dev: carved {count} rows from train by content hash"
    return "dev is empty: every training text is also in test, or too few are left to carve from"


def _apart(draft: Draft, dev: list[Example], test: Sequence[Example]) -> list[Example]:
    """Dev without the test's prompts: selecting a checkpoint on the test would be training on it."""
    tested = {row.prompt for row in test}
    kept = [row for row in dev if row.prompt not in tested]
    if not kept:
        draft.notes.append("the dev split repeats the test split; it is not used")
    elif len(kept) < len(dev):
        draft.notes.append(f"dropped {len(dev) - len(kept)} of {len(dev)} dev rows: their texts are in test")
    return kept


def _carve(rows: Sequence[Example], barred: set[str]) -> tuple[list[Example], list[Example]]:
    """Split off a tenth of the rows, at most 500, by the hash of their prompts; return (rest, carved).

    Args:
        rows: What to carve from; at least one row is left.
        barred: Prompts that must not be carved.
    """
    wanted = min(CARVED_AT_MOST, max(1, round(CARVED_FRACTION * len(rows))))
    counts = Counter(row.prompt for row in rows)
    chosen: set[str] = set()
    taken = 0
    for prompt in sorted(counts.keys() - barred, key=_hash):
        if taken >= wanted:
            break
        if taken + counts[prompt] < len(rows):
            chosen.add(prompt)
            taken += counts[prompt]
    return [row for row in rows if row.prompt not in chosen], [row for row in rows if row.prompt in chosen]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()


def _kind_of(draft: Draft) -> str:
    return "images" if draft.template == "image" else "texts"


def _report_seen(draft: Draft, train: Iterable[Example], test: Sequence[Example]) -> None:
    trained = {row.prompt for row in train}
    seen = sum(row.prompt in trained for row in test)
    if seen:
        draft.notes.append(f"{seen} of {len(test)} test {_kind_of(draft)} also occur in train; they are kept")
