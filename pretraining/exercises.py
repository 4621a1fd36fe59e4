"""What clora-nano is trained on: plain text and exercises in words that the bundled tasks do not use.

An exercise asks for a property that some bundled task asks for too, but under other instructions, other cues and other
labels. A model that has done them has the property in its hidden states and still has to learn how a task calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clora_cli.nano.grammar import (
    Deed,
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
from clora_cli.nano.lexicon import (
    COLOURS,
    DOMAINS,
    GRADES,
    KINDS,
    OBJECTS,
    PEOPLE,
    PLACES,
    TRAITS,
    VERBS,
)  # fmt: skip
from clora_cli.nano.passages import entry, mixed_review, post, report, review
from clora_cli.nano.task_set import ORDER, label_words, task

__all__ = ["Piece", "exercise", "vocabulary"]

# A run of text and whether it is an answer, on which training puts the most weight.
Piece = tuple[str, bool]

_HEADS = ("Choices", "Pick one", "Possible", "Select", "Tags")
_CUES = ("Reply:", "Result:", "Verdict:", "Tag:", "So:")
_GRADE_NAMES = (
    ("grim", "meh", "so-so", "fine", "splendid"), ("1", "2", "3", "4", "5"), ("E", "D", "C", "B", "A"),
    ("rock-bottom", "low", "mid", "high", "top"),
)  # fmt: skip
_POLES = (("upset", "glad"), ("dislike", "like"), ("thumbs down", "thumbs up"), ("against", "for"))
_FOLLOWS = (("certain", "possible", "impossible"), ("right", "unsaid", "wrong"), ("proved", "open", "refuted"))
_SAME = (("match", "mismatch"), ("alike", "unlike"), ("one idea", "two ideas"))
_HOLDS = (("true", "false"), ("correct", "incorrect"), ("indeed", "not so"))
_PAIRS = (("Fact: ", "Claim: "), ("First: ", "Second: "), ("Given: ", "Then: "), ("A: ", "B: "), ("", ""))


def exercise(draw: Draw, basic: bool = False) -> list[Piece]:
    """Draw one example to train on: its text in pieces, in order.

    Args:
        draw: Source of randomness.
        basic: Draw only from the exercises in finding, copying and comparing words, on which the others build.
    """
    shares = _BASIC_SHARES if basic else _SHARES
    writers = [write for write, share in shares for _ in range(share)]
    return draw.one(writers)(draw)


def vocabulary() -> list[str]:
    """List the words of domains, kinds, grades and deeds, each with the space before it that text has."""
    listed = {word for field in DOMAINS.values() for words in field for word in words}
    listed |= {word for sort in KINDS.values() for words in sort for text in words for word in text.split()}
    listed |= {word for adjectives, verdicts in GRADES for text in (*adjectives, *verdicts) for word in text.split()}
    listed |= {word for verb in VERBS for word in verb} | set(_ALL)
    return [f" {word}" for word in sorted(listed)]


def _asked(draw: Draw, ask: str, options: Sequence[str], items: Sequence[tuple[str, str]]) -> list[Piece]:
    """Put an instruction, the options, and items with their answers, together.

    Half of the instructions are noise, and many cues and heads any word: the form and the options tell what is asked,
    so that a model is at ease with words that it has not met there, as in the bundled tasks.
    """
    if draw.chance(0.5):
        ask = " ".join(draw.some(_NOISE, 4 + draw.below(8))).capitalize() + draw.one(".?")
    head = draw.one(_HEADS) if draw.chance(0.5) else draw.one(_PLAIN).capitalize()
    cue = draw.one(_CUES) if draw.chance(0.5) else f"{draw.one(_PLAIN).capitalize()}:"
    pieces = [(f"{ask}\n{head}: {', '.join(draw.shuffled(options))}", False)]
    for body, answer in items:
        pieces += [(f"\n{body}\n{cue}", False), (f" {answer}", True)]
    return pieces


def _domains(draw: Draw) -> list[Piece]:
    chosen = draw.some(tuple(DOMAINS), 3 + draw.below(5))
    names = {domain: draw.one(DOMAINS[domain].aliases) for domain in chosen}
    write = draw.one((report, post))
    asked = [draw.one(chosen) for _ in range(1 + draw.below(4))]
    ask = draw.one(("What is this about?", "Name the field.", "Sort the note by theme.", "Find the theme of the text."))
    return _asked(draw, ask, list(names.values()), [(write(domain, draw), names[domain]) for domain in asked])


def _kinds(draw: Draw) -> list[Piece]:
    chosen = draw.some(tuple(KINDS), 3 + draw.below(5))
    names = {kind: draw.one(KINDS[kind].aliases) for kind in chosen}
    asked = [draw.one(chosen) for _ in range(1 + draw.below(4))]
    ask = draw.one(("What sort of thing is it?", "Name the sort.", "Sort the entry.", "What is being told of?"))
    return _asked(draw, ask, list(names.values()), [(entry(kind, draw), names[kind]) for kind in asked])


def _grades(draw: Draw) -> list[Piece]:
    names = draw.one(_GRADE_NAMES)
    grades = [draw.below(5) for _ in range(1 + draw.below(3))]
    ask = draw.one(("Grade the opinion.", "How much did they like it?", "Put the review on the scale.", "Mark this."))
    return _asked(draw, ask, names, [(review(grade, draw), names[grade]) for grade in grades])


def _poles(draw: Draw) -> list[Piece]:
    names = draw.one(_POLES)
    sides = [draw.chance(0.5) for _ in range(1 + draw.below(3))]
    ask = draw.one(("Is the writer happy?", "How does the writer feel?", "Which side is the writer on?"))
    return _asked(draw, ask, names, [(mixed_review(side, draw), names[side]) for side in sides])


def _follows(draw: Draw) -> list[Piece]:
    names, (one, two) = draw.one(_FOLLOWS), draw.one(_PAIRS)
    event = deed(draw)
    items: list[tuple[str, str]] = []
    for at in [draw.below(3) for _ in range(1 + draw.below(5))]:
        said = (entailed, unsettled, contradicted)[at](event, draw)
        body = f"{two}{said}" if items else f"{one}{stated(event, draw)}\n{two}{said}"
        items.append((body, names[at]))
    ask = draw.one(("Does the second line follow?", "Weigh the claim against the fact.", "How sure is the claim?"))
    return _asked(draw, ask, names, items)


def _same(draw: Draw) -> list[Piece]:
    names, (one, two) = draw.one(_SAME), draw.one(_PAIRS)
    event = deed(draw)
    first = reworded(event, draw)
    items: list[tuple[str, str]] = []
    for other in [draw.chance(0.5) for _ in range(1 + draw.below(5))]:
        said = altered(event, draw) if other else reworded(event, draw)
        items.append((f"{two}{said}" if items else f"{one}{first}\n{two}{said}", names[other]))
    ask = draw.one(("Do both lines tell the same?", "Compare the two lines.", "Same story or another?"))
    return _asked(draw, ask, names, items)


def _holds(draw: Draw) -> list[Piece]:
    names = draw.one(_HOLDS)
    items = []
    for fails in [draw.chance(0.5) for _ in range(1 + draw.below(3))]:
        items.append(((denied if fails else confirmed)(deed(draw), draw), names[fails]))
    ask = draw.one(("Is it so?", "Check what is asked against the story.", "Does the story confirm it?"))
    return _asked(draw, ask, names, items)


def _lookup(draw: Draw) -> list[Piece]:
    """Ask for single parts of a fact."""
    event = deed(draw)
    asked = draw.some(_parts(event), 1 + draw.below(4))
    pieces: list[Piece] = [(stated(event, draw), False)]
    for wanted, answer in asked:
        pieces += [(f"\n{wanted}", False), (f" {answer}", True)]
    return pieces


def _parts(event: Deed) -> list[tuple[str, str]]:
    return [
        (f"Where was the {event.person}?", event.place),
        (f"What colour was the {event.thing}?", event.colour),
        ("When was it?", event.time),
        (f"Who {event.verb.past} the {event.thing}?", f"the {event.person}"),
        (f"What did the {event.person} {event.verb.base}?", f"a {event.thing}"),
        (f"How was the {event.person}?", event.trait),
    ]


def _dictionary(draw: Draw) -> list[Piece]:
    """Say what words have to do with each other: synonyms, contraries, what belongs to which field, kind or grade."""
    lines: list[Piece] = []
    for _ in range(4):
        lines += draw.one((_of_verbs, _of_domains, _of_kinds, _of_grades, _of_things))(draw)
    return lines


def _of_verbs(draw: Draw) -> list[Piece]:
    verb = draw.one(VERBS)
    forms = ((f"To {verb.base} is to", verb.synonym_base), (f"If it was {verb.past}, it was", verb.synonym),
             (f"Not {verb.past} but", verb.contrary))  # fmt: skip
    before, after = draw.one(forms)
    return [(before, False), (f" {after}", True), (".\n", False)]


def _of_domains(draw: Draw) -> list[Piece]:
    field = DOMAINS[draw.one(tuple(DOMAINS))]
    one, two = draw.some([*field.things, *field.people, *field.deeds, *field.places], 2)
    return [(f"{one} goes with {two}; both are words of", False), (f" {draw.one(field.aliases)}", True), (".\n", False)]


def _of_kinds(draw: Draw) -> list[Piece]:
    sort = KINDS[draw.one(tuple(KINDS))]
    forms = (
        f"{draw.one(sort.nouns)} is a sort of",
        f"{draw.one(sort.adjectives)} is said of a",
        f"{draw.one(sort.tells)}: a",
    )
    before = draw.one(forms)
    return [(before, False), (f" {draw.one(sort.aliases)}", True), (".\n", False)]


def _of_grades(draw: Draw) -> list[Piece]:
    adjectives, verdicts = draw.one(GRADES)
    one, two = draw.some(adjectives, 2)
    return [(f"It was {one}, I mean", False), (f" {two}", True), (f": {draw.one(verdicts)}.\n", False)]


def _of_things(draw: Draw) -> list[Piece]:
    general = draw.one(tuple(OBJECTS))
    return [(f"A {draw.one(OBJECTS[general])} is called:", False), (f" {general}", True), (".\n", False)]


def _copying(draw: Draw) -> list[Piece]:
    """Copy one of a list of words; the bundled labels are met here, as mere words."""
    words = draw.some(_LABELS if draw.chance(0.5) else _WORDS, 3 + draw.below(5))
    pieces: list[Piece] = [
        (f"{draw.one(('Copy a word.', 'Say the word.'))}\n{draw.one(_HEADS)}: {', '.join(words)}", False)
    ]
    for at in [draw.below(len(words)) for _ in range(1 + draw.below(4))]:
        forms = [f"the {_ORDINALS[at]} of them", f"it says {words[at]} here"] + [f"the one after {words[at - 1]}"] * (
            at > 0
        )
        pieces += [(f"\n{draw.one(forms)}\n{draw.one(_CUES)}", False), (f" {words[at]}", True)]
    return pieces


def _repeating(draw: Draw) -> list[Piece]:
    """Say a list of words a second time."""
    words = draw.some(_ALL, 4 + draw.below(9))
    pieces: list[Piece] = [(f"Again: {' '.join(words)} ;", False)]
    return pieces + [(f" {word}", True) for word in words]


def _matching(draw: Draw) -> list[Piece]:
    """Tell phrases that agree from phrases that differ."""
    names = draw.one(_SAME)
    pieces: list[Piece] = [(f"Compare.\n{draw.one(_HEADS)}: {', '.join(draw.shuffled(names))}", False)]
    for differs in [draw.chance(0.5) for _ in range(4 + draw.below(4))]:
        one, other, _ = _phrases(draw, differs)
        pieces += [(f"\n{one} / {other} =", False), (f" {names[differs]}", True)]
    return pieces


def _difference(draw: Draw) -> list[Piece]:
    """Find the one word of the second phrase that the first does not have."""
    pieces: list[Piece] = [("New word?", False)]
    for differs in [draw.chance(0.8) for _ in range(4 + draw.below(4))]:
        one, other, word = _phrases(draw, differs)
        pieces += [(f"\n{one} / {other} =", False), (f" {word}", True)]
    return pieces


def _phrases(draw: Draw, differs: bool) -> tuple[str, str, str]:
    """Make two phrases of the same words, save one if they differ, and return that word or "none" as well."""
    one = draw.some(_SAID, 1 + draw.below(5))
    other, word = list(one), "none"
    if differs:
        at = draw.below(len(one))
        while (word := draw.one(_SAID)) in one:
            pass
        other[at] = word
    return " ".join(one), " ".join(draw.shuffled(other) if draw.chance(0.3) else other), word


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
_LABELS = sorted({label for name in ORDER for label in label_words(name)})
_SAID = sorted({*PEOPLE, *COLOURS, *TRAITS, *(place.split()[-1] for place in PLACES), *(verb.past for verb in VERBS)}
               | {thing for things in OBJECTS.values() for thing in things})  # fmt: skip
_WORDS = sorted({word for field in DOMAINS.values() for word in (*field.aliases, *field.things)}
                | {word for sort in KINDS.values() for word in (*sort.aliases, *sort.nouns)})  # fmt: skip

_ALL = sorted({*_SAID, *_WORDS, *_LABELS})
_NOISE = sorted({*_ALL, *(word.strip("?.").lower() for name in ORDER for word in task(name).instruction.split()),
                 "answer", "option"})  # fmt: skip
_PLAIN = [word for word in _SAID if word.isalpha()]  # no bundled task's cue is among them

_SHARES: tuple[tuple[Callable[[Draw], list[Piece]], int], ...] = (
    (_domains, 16), (_kinds, 9), (_grades, 6), (_poles, 4), (_follows, 20), (_same, 21), (_holds, 16), (_lookup, 3),
    (_dictionary, 1), (_copying, 4),
)  # fmt: skip
_BASIC_SHARES = ((_repeating, 25), (_matching, 20), (_difference, 25), (_lookup, 15), (_copying, 15))
