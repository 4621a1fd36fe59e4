"""Texts with a property that can be named: domain, kind or grade of praise (layer L1)."""

from __future__ import annotations

from clora_cli.nano.grammar import Draw, phrased
from clora_cli.nano.lexicon import (
    ADVERBS,
    DOMAINS,
    GOODS,
    GRADES,
    KINDS,
    LANDS,
    NAMES,
    PLACES,
    RELATIVES,
    SYLLABLES,
    TIMES,
)

__all__ = ["entry", "invented", "mixed_review", "post", "report", "review"]


def report(domain: str, draw: Draw) -> str:
    """Write a short news item of the domain."""
    field = DOMAINS[domain]
    one, two = draw.some(field.things, 2)
    who, other = draw.some(field.people, 2)
    deed, where, when = draw.one(field.deeds), draw.one(field.places), draw.one(TIMES)
    forms = (
        f"The {who} {deed} the {one} {when}. The {two} will follow, {draw.one(NAMES)} said.",
        f"{draw.one(NAMES)}, a {who}, spoke of the {one} {when}. The {two} was {draw.one(ADVERBS)} {deed}.",
        f"News of the {one} reached the {where} {when}. The {who} and the {other} {draw.one(ADVERBS)} agreed.",
        f"{when[0].upper()}{when[1:]} a {who} near the {where} {deed} the {one}, {draw.one(NAMES)} wrote.",
    )
    return phrased(forms, draw)


def post(domain: str, draw: Draw) -> str:
    """Write a question as asked on a message board of the domain."""
    field = DOMAINS[domain]
    one, two = draw.some(field.things, 2)
    wish, deed, where = draw.one(field.wishes), draw.one(field.deeds), draw.one(field.places)
    kin, name = draw.one(RELATIVES), draw.one(NAMES)
    forms = (
        f"How can I {wish} my {one}? My {kin} {deed} the {two} and it did not help.",
        f"Hello, I am {name}. Is the {one} meant to be in the {where}? My {kin} says it is.",
        f"Should I {wish} the {one} or the {two} first? Thanks, {name}.",
        f"My {kin} {deed} the {one} {draw.one(ADVERBS)}. What should I do with the {two}?",
        f"Does a {draw.one(field.people)} need the {one}? I am new to this, {name}.",
    )
    return phrased(forms, draw)


def invented(draw: Draw) -> str:
    """Make up a proper name."""
    return "".join(draw.some(SYLLABLES, 2)).capitalize()


def entry(kind: str, draw: Draw) -> str:
    """Write the first lines of an encyclopaedia's entry on something of the kind."""
    sort = KINDS[kind]
    noun, adjective, name, land = draw.one(sort.nouns), draw.one(sort.adjectives), invented(draw), invented(draw)
    first, second = draw.some(sort.tells, 2)
    forms = (
        f"{name} is a {adjective} {noun} of {draw.one(LANDS)} {land}; {first}.",
        f"The {adjective} {name}, in {land}: {first}, and {second}.",
        f"{name} ({land}) was known as a {noun}; {first}.",
        f"Of {name} it is told that {first}. In {draw.one(LANDS)} {land} {second}.",
    )
    return phrased(forms, draw)


def review(grade: int, draw: Draw) -> str:
    """Write a review whose every opinion is of one grade, 0 (worst) to 4 (best)."""
    adjectives, verdicts = GRADES[grade]
    goods = draw.one(tuple(GOODS))
    one, two = draw.some(GOODS[goods], 2)
    this, that = draw.some(adjectives, 2)
    verdict = draw.one(verdicts)
    forms = (
        f"The {one} of this {goods} was {this} and the {two} {that}.",
        f"A {this} {goods}: {verdict}.",
        f"I chose the {goods} {draw.one(TIMES)}. The {one} was {this}; {verdict}.",
        f"My {draw.one(RELATIVES)} told me of the {goods} {draw.one(PLACES)}. What a {this} {one}, {verdict}.",
    )
    return phrased(forms, draw)


def mixed_review(good: bool, draw: Draw) -> str:
    """Write a review with a clear verdict and, at times, a concession to the other side."""
    grade = draw.below(2) + (3 if good else 0)
    if draw.chance(0.7):
        return review(grade, draw)
    goods = draw.one(tuple(GOODS))
    one, two = draw.some(GOODS[goods], 2)
    adjectives, verdicts = GRADES[grade]
    against = draw.one(GRADES[1 if good else 3][0])
    concession = f"Although the {one} of the {goods} was {against}"
    return f"{concession}, the {two} was {draw.one(adjectives)}; {draw.one(verdicts)}."
