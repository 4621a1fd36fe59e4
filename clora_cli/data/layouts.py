"""The two public benchmark layouts, read as they are distributed (layer L1).

``CL_Benchmark/<Type>/<Dataset>/{train,dev,test,labels}.json``
    A list of ``{"sentence", "label"}`` rows a split.
Natural-Instructions
    One object ``{"Definition", "Instances": [{"input", "output"}]}``: three files in a task's folder, or all
    instances in one ``taskNNN_*.json``. Long-Sequence tasks in this layout get the same prompt as in the other.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from clora_cli.base.errors import DataError
from clora_cli.data.class_names import check_apart
from clora_cli.data.findings import unused_columns
from clora_cli.data.folders import split_files, unread
from clora_cli.data.known_tasks import FAMILY_INSTRUCTIONS, KnownTask, canonical, metric_of
from clora_cli.data.readers import read_json
from clora_cli.data.split_names import Twofold, choose_splits, split_of, told
from clora_cli.data.splits import Draft
from clora_cli.data.task import Example
from clora_cli.data.templates import OPTIONS_CUE, has_cue, natural_instructions, options, options_head
from clora_cli.data.texts import bare, ending, starts_with
from clora_cli.data.values import as_answers, as_text

__all__ = ["is_benchmark_folder", "is_task_file", "read_benchmark_folder", "read_task_file", "task_name"]

_LONGEST_NAME = 120  # bytes: a name of 255 at most has to hold a prefix and an ending beside it
_LABELS = "labels.json"
_COLUMNS = {"sentence", "label", "id", "input", "output"}  # of both layouts; an id says nothing about the task
_ORDER = ("train", "dev", "test")
_DEFAULT_INSTRUCTION = "Choose one from the option."
_MOST_LABELS = 50  # a classification task whose rows hold more distinct answers than this is open-ended after all

_Row = tuple[str, tuple[str, ...]]


def is_benchmark_folder(folder: Path) -> bool:
    """Whether a folder has either layout: JSON splits with ``labels.json`` beside them or a definition in them."""
    first = next((path for path in sorted(folder.iterdir()) if _is_split(path)), None)
    return first is not None and ((folder / _LABELS).is_file() or is_task_file(first))


def _is_split(path: Path) -> bool:
    split = split_of(path.stem)
    return path.suffix.lower() == ".json" and path.is_file() and split is not None and not split.before


def is_task_file(path: Path) -> bool:
    """Whether a file starts like a Natural-Instructions object; reads its first kilobytes only."""
    if ending(path) != ".json" or not path.is_file():
        return False
    start = starts_with(path, 65536).lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith(b"{") and (b'"Definition"' in start or b'"Instances"' in start)


def task_name(name: str) -> str:
    """Return a folder's or file's name as a task name: canonical if known, ``taskNNN``, else lower case and safe.

    Safe as a file's name everywhere: letters, digits, marks and symbols of any script stay, all else becomes a hyphen.
    """
    known = canonical(name)
    if known:
        return known.name
    number = re.match(r"(task\d+)_", name.casefold())
    if number:
        return number[1]
    folded = unicodedata.normalize("NFC", name).casefold()
    kept = "".join(character if _is_safe(character) else "-" for character in folded)
    return _shortened(re.sub(r"-{2,}", "-", kept).strip("-.")) or "data"


def _is_safe(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in "._"
    return unicodedata.category(character)[0] in "LMNS"


def _shortened(name: str) -> str:
    data = name.encode("utf-8")
    if len(data) <= _LONGEST_NAME:
        return name
    start = data[:_LONGEST_NAME].decode("utf-8", "ignore")
    return f"{start}-{hashlib.sha256(data).hexdigest()[:8]}"


def read_benchmark_folder(folder: Path) -> Draft:
    """Return the draft of a task folder in either layout.

    Raises:
        DataError: A file is missing or malformed, or its rows lack the layout's fields.
    """
    sources = split_files(folder, _is_split)
    try:
        chosen, _ = choose_splits(sources)
    except Twofold as error:
        raise DataError(f"{folder}: {error}; keep one", code="split-twice") from error
    files = {path: kind for kind in _ORDER if kind in chosen for name in chosen[kind] for path in sources[name]}
    contents = {file: read_json(file) for file in files}
    labels = _read_labels(folder / _LABELS)
    if isinstance(contents[next(iter(files))], dict):
        draft = _natural(folder.name, contents, labels, files)
    else:
        draft = _sentences(folder, contents, labels, files)
    sizes = {
        kind: {name: sum(len(_listed(contents[path])) for path in sources[name]) for name in names}
        for kind, names in chosen.items()
    }
    draft.notes += filter(None, (told(kind, found) for kind, found in sizes.items()))
    rows = [row for value in contents.values() for row in _listed(value)]
    draft.notes += unused_columns(rows, _COLUMNS) + unread(folder, [*files, folder / _LABELS])
    return draft


def read_task_file(path: Path) -> Draft:
    """Return the draft of a Natural-Instructions file that holds all instances of a task.

    Raises:
        DataError: The file is malformed or its instances lack the layout's fields.
    """
    content = read_json(path)
    draft = _natural(bare(path), {path: content}, (), {path: "train"})
    draft.notes += unused_columns(_listed(content), _COLUMNS)
    return draft


def _read_labels(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    labels = read_json(path)
    if (
        not isinstance(labels, list)
        or not labels
        or not all(isinstance(label, str) and label.strip() for label in labels)
    ):
        raise DataError(f"{path}: expected a list of label strings, none of them empty", code="labels-malformed")
    check_apart(labels, str(path))
    return tuple(dict.fromkeys(label.strip() for label in labels))


def _sentences(
    folder: Path, contents: Mapping[Path, object], labels: tuple[str, ...], kinds: Mapping[Path, str]
) -> Draft:
    """Draft of ``sentence``/``label`` rows."""
    known = canonical(folder.name)
    source = f"CL_Benchmark {folder.parent.name}/{folder.name}"
    draft = Draft(task_name(folder.name), {}, "exact-match", source, "options")
    rows = _by_split(
        kinds, {file: _rows(_list(value, file), file, "sentence", "label") for file, value in contents.items()}
    )
    _as_options(draft, rows, labels, known, folder.parent.name)
    return draft


def _by_split(kinds: Mapping[Path, str], rows: Mapping[Path, Iterator[_Row]]) -> dict[str, list[_Row]]:
    splits: dict[str, list[_Row]] = {}
    for file, found in rows.items():
        splits.setdefault(kinds[file], []).extend(found)
    return splits


def _natural(name: str, contents: Mapping[Path, object], labels: tuple[str, ...], kinds: Mapping[Path, str]) -> Draft:
    """Draft of Natural-Instructions objects, one a split."""
    known = canonical(name)
    objects = {file: _mapping(value, file) for file, value in contents.items()}
    instances = {file: _list(value.get("Instances"), file, "Instances") for file, value in objects.items()}
    rows = _by_split(kinds, {file: _rows(found, file, "input", "output") for file, found in instances.items()})
    metric = known.metric if known else metric_of(name)
    draft = Draft(task_name(name), {}, metric, f"Natural-Instructions {name}", "natural-instructions")
    if known and known.family in FAMILY_INSTRUCTIONS:
        _as_options(draft, rows, labels, known, known.family)
        return draft
    definition = _definition(next(iter(objects.values())), next(iter(objects)))
    draft.splits = _examples(rows, lambda text, answers: natural_instructions(definition, text, answers))
    draft.labels = labels or (known.labels if known else ())
    if draft.labels:
        draft.labels_from = "labels.json" if labels else "the task's label set"
    draft.closed = metric == "exact-match" and (bool(draft.labels) or _looks_closed(draft.splits))
    return draft


def _as_options(
    draft: Draft,
    rows: Mapping[str, list[_Row]],
    labels: tuple[str, ...],
    known: KnownTask | None,
    family: str,
) -> None:
    """Fill a draft with ``options`` prompts, with the known instruction or that of the folder's task type."""
    labels = labels or (known.labels if known else ())
    if not labels:
        raise DataError(
            f"{draft.source}: no labels.json beside the splits; add one with the list of labels",
            code="labels-file-missing",
        )
    found = {answer for split in rows.values() for _, answers in split for answer in answers}
    if not found & set(labels):
        draft.notes.append(f"labels.json ({', '.join(labels)}) names none of the rows' labels; used those found")
        labels = tuple(sorted(found))
    instruction = known.instruction if known else FAMILY_INSTRUCTIONS.get(family, _DEFAULT_INSTRUCTION)
    head = options_head(instruction, labels)
    draft.template, draft.labels, draft.labels_from, draft.closed = "options", labels, "labels.json", True
    draft.splits = _examples(rows, lambda text, answers: options(head, text, answers))
    _note_cues(draft, rows)


def _examples(
    rows: Mapping[str, list[_Row]], build: Callable[[str, tuple[str, ...]], Example]
) -> dict[str, list[Example]]:
    return {split: [build(text, answers) for text, answers in pairs] for split, pairs in rows.items()}


def _note_cues(draft: Draft, rows: Mapping[str, list[_Row]]) -> None:
    counts = {split: sum(has_cue(text, OPTIONS_CUE) for text, _ in pairs) for split, pairs in rows.items()}
    carried = [f"{count} of {len(rows[split])} {split} rows" for split, count in counts.items() if count]
    if carried:
        draft.notes.append(f"removed '{OPTIONS_CUE.strip()}' from the end of {', '.join(carried)}: the prompt adds it")


def _looks_closed(splits: Mapping[str, list[Example]]) -> bool:
    answers = [row.references for row in next(iter(splits.values())) if row.references]
    return 0 < len({first for first, *_ in answers}) <= _MOST_LABELS and all(len(each) == 1 for each in answers)


def _rows(values: list[object], file: Path, text: str, answer: str) -> Iterator[_Row]:
    """Text and answers of each row, answers without surrounding space."""
    for number, value in enumerate(values, start=1):
        where = f"{file}, row {number}"
        if not isinstance(value, dict) or text not in value or answer not in value:
            raise DataError(
                f"{where}: expected an object with '{text}' and '{answer}'; mend or remove the row",
                code="row-malformed",
            )
        answers = as_answers(value[answer], where, answer)
        yield as_text(value[text], where, text), tuple(a.strip() for a in answers)


def _listed(value: object) -> list[dict[str, object]]:
    """The rows of a file: its list, or the list of its instances."""
    rows = value.get("Instances") if isinstance(value, dict) else value
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _list(value: object, file: Path, key: str = "") -> list[object]:
    if not isinstance(value, list):
        raise DataError(f"{file}: expected a list of rows{f' under {key!r}' if key else ''}", code="rows-not-a-list")
    return value


def _mapping(value: object, file: Path) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise DataError(
            f"{file}: expected an object with 'Definition' and 'Instances', as in the task's other files",
            code="task-file-malformed",
        )
    return value


def _definition(value: Mapping[str, object], file: Path) -> str:
    parts = as_answers(value.get("Definition"), str(file), "Definition")
    return " ".join(part.strip() for part in parts)
