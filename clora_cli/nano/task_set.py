"""The bundled tasks: eight classification tasks in the shapes that continual-learning papers use (layer L1).

Texts are generated, the same on every platform and Python version, and no text is in two splits of a task.

>>> task("yes-no").labels
('yes', 'no')
>>> len(rows("yes-no", "test"))
200
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from clora_cli.base.errors import DataError, UnknownNameError
from clora_cli.nano.grammar import (
    Draw,
    altered,
    confirmed,
    contradicted,
    deed,
    denied,
    entailed,
    reworded,
    stated,
    unsettled,
)  # fmt: skip
from clora_cli.nano.passages import entry, mixed_review, post, report, review

__all__ = ["ORDER", "SPLITS", "BundledTask", "label_words", "rows", "task"]


@dataclass(frozen=True, slots=True)
class BundledTask:
    """What a task asks: its instruction and the labels that may answer it.

    Attributes:
        name: The name that ``--data`` takes.
        family: The family of public tasks whose shape it has.
        summary: One line on what is asked.
        instruction: What the prompt says first.
        labels: The possible answers, in the order in which the prompt lists them.
    """

    name: str
    family: str
    summary: str
    instruction: str
    labels: tuple[str, ...]


SPLITS = {"train": 600, "dev": 100, "test": 200}

# Labels, and the properties (domains, kinds) that they name here.
_NEWS = {"politics": "government", "business": "trade", "sports": "contest", "science": "inquiry", "crime": "justice",
         "weather": "sky"}  # fmt: skip
_WIKI = {"animal": "beast", "plant": "herb", "river": "stream", "building": "house", "artist": "maker",
         "company": "firm", "village": "hamlet", "vessel": "ship"}  # fmt: skip
_FORUM = {"food": "kitchen", "health": "body", "computers": "machine", "gardening": "soil", "travel": "road",
          "school": "class", "songs": "tune"}  # fmt: skip
_STARS = ("one star", "two stars", "three stars", "four stars", "five stars")

_TASKS = (
    BundledTask("topics-news", "topic classification", "the section of a news item",
                "Which section of the newspaper does this item belong to?",
                ("politics", "business", "sports", "science", "crime")),
    BundledTask("sentiment-stars", "sentiment", "the stars that a review gives, five grades",
                "How many stars does this review give?", _STARS),
    BundledTask("inference", "natural language inference", "whether a premise entails or contradicts a hypothesis",
                "What is the logical relation of sentence 1 to sentence 2?",
                ("entailment", "neutral", "contradiction")),
    BundledTask("topics-wiki", "topic classification", "the category of an encyclopaedia's entry",
                "What category does the described entity have?",
                ("animal", "plant", "building", "artist", "vessel")),
    BundledTask("yes-no", "question answering", "a yes/no question about a short passage",
                "Read the passage and respond to the question.", ("yes", "no")),
    BundledTask("topics-forum", "topic classification", "the board of a forum on which a post belongs",
                "On which board should this post be filed?",
                ("food", "health", "computers", "gardening", "songs")),
    BundledTask("paraphrase", "paraphrase", "whether two sentences mean the same",
                "Do sentence 1 and sentence 2 have an equal meaning?", ("equivalent", "different")),
    BundledTask("sentiment-binary", "sentiment", "whether a comment is favourable",
                "What is the sentiment of this comment?", ("negative", "positive")),
)  # fmt: skip
_BY_NAME = {entry_.name: entry_ for entry_ in _TASKS}

ORDER: tuple[str, ...] = tuple(_BY_NAME)


def label_words(name: str) -> tuple[str, ...]:
    """Return every label that a task could have: its own, and for topics those that it does not ask for.

    clora-nano has met all of them in training, as mere words.
    """
    named: dict[str, Mapping[str, str]] = {"topics-news": _NEWS, "topics-wiki": _WIKI, "topics-forum": _FORUM}
    return tuple(named.get(name, ())) or task(name).labels


def task(name: str) -> BundledTask:
    """Return the bundled task of this name.

    Raises:
        UnknownNameError: If no bundled task has this name.
    """
    if name not in _BY_NAME:
        raise UnknownNameError("bundled task", name, ORDER)
    return _BY_NAME[name]


def rows(name: str, split: str) -> list[tuple[str, str]]:
    """Return the (text, label) rows of one split: 600 in train, 100 in dev, 200 in test.

    Raises:
        UnknownNameError: If no bundled task has this name.
        DataError: If the split is none of train, dev and test.
    """
    if split not in SPLITS:
        raise DataError(
            f"bundled task '{name}' has no split '{split}'; it has {', '.join(SPLITS)}", code="split-missing"
        )
    start = 0
    for other, size in SPLITS.items():
        if other == split:
            break
        start += size
    return list(_all_rows(task(name).name)[start : start + size])


@cache
def _all_rows(name: str) -> tuple[tuple[str, str], ...]:
    """Generate all splits at once, so that no text can be in two of them."""
    draw, labels, write = Draw(f"bundled task {name}"), task(name).labels, _WRITERS[name]
    seen: set[str] = set()
    result: list[tuple[str, str]] = []
    for size in SPLITS.values():
        part: list[tuple[str, str]] = []
        while len(part) < size:
            label = labels[len(part) % len(labels)]
            text = write(label, draw)
            if text not in seen:
                seen.add(text)
                part.append((text, label))
        result += draw.shuffled(part)
    return tuple(result)


def _inference(label: str, draw: Draw) -> str:
    event = deed(draw)
    say = {"entailment": entailed, "neutral": unsettled, "contradiction": contradicted}[label]
    return f"Sentence 1: {stated(event, draw)}\nSentence 2: {say(event, draw)}"


def _paraphrase(label: str, draw: Draw) -> str:
    event = deed(draw)
    first = second = reworded(event, draw)
    while second == first:
        second = reworded(event, draw) if label == "equivalent" else altered(event, draw)
    return f"Sentence 1: {first}\nSentence 2: {second}"


_WRITERS: dict[str, Callable[[str, Draw], str]] = {
    "topics-news": lambda label, draw: report(_NEWS[label], draw),
    "topics-wiki": lambda label, draw: entry(_WIKI[label], draw),
    "topics-forum": lambda label, draw: post(_FORUM[label], draw),
    "sentiment-stars": lambda label, draw: review(_STARS.index(label), draw),
    "sentiment-binary": lambda label, draw: mixed_review(label == "positive", draw),
    "inference": _inference,
    "paraphrase": _paraphrase,
    "yes-no": lambda label, draw: (confirmed if label == "yes" else denied)(deed(draw), draw),
}
