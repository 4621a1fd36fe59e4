"""Sentences about deeds: facts, claims about them, rewordings and questions (layer L1).

A ``Deed`` is one event of the bundled world. Everything that compares two sentences (inference, paraphrase, yes/no
questions) is built from a deed and a change to it, so that the right label is known by construction.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from clora_cli.nano.lexicon import COLOURS, MOODS, OBJECTS, PEOPLE, PLACES, RELATIVES, TIMES, TRAITS, VERBS, Verb

__all__ = [
    "Deed", "Draw", "altered", "confirmed", "contradicted", "deed", "denied", "entailed", "phrased", "reworded",
    "stated", "unsettled", "varied",
]  # fmt: skip

T = TypeVar("T")


class Draw:
    """Random choices that are the same on every platform and Python version: they only use ``random()``."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")).random

    def below(self, limit: int) -> int:
        """Return an integer in [0, limit)."""
        return int(self._random() * limit)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability, in [0, 1]."""
        return self._random() < probability

    def one(self, items: Sequence[T], but: object = None) -> T:
        """Return one of the items, never one equal to ``but``."""
        while (item := items[self.below(len(items))]) == but:
            pass
        return item

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """Return ``count`` of the items without repetition, in random order."""
        return self.shuffled(items)[:count]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in random order."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result


class Deed(NamedTuple):
    """One event: who (with a trait) did what to which (coloured) thing, where and when."""

    trait: str
    person: str
    verb: Verb
    colour: str
    thing: str
    place: str
    time: str


def phrased(forms: Sequence[str], draw: Draw) -> str:
    """Pick one of several wordings and write "an" where "a" meets a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeio]|u(?!s|ni))", r"\1n ", draw.one(forms))


def deed(draw: Draw) -> Deed:
    """Draw an event."""
    thing = draw.one(OBJECTS[draw.one(tuple(OBJECTS))])
    return Deed(
        draw.one(TRAITS), draw.one(PEOPLE), draw.one(VERBS), draw.one(COLOURS), thing, draw.one(PLACES), draw.one(TIMES)
    )


def stated(event: Deed, draw: Draw) -> str:
    """Say the event in full."""
    rest = f"he {event.trait} {event.person} {event.verb.past} a {event.colour} {event.thing} {event.place}"
    if draw.chance(0.3):
        return f"{event.time[0].upper()}{event.time[1:]} t{rest}."
    return f"T{rest} {event.time}."


def entailed(event: Deed, draw: Draw) -> str:
    """Say something that the event makes certain."""
    if draw.chance(0.1):
        return phrased([f"The {event.person} {event.verb.past} a {_general(event.thing)}."], draw)
    verb = draw.one((event.verb.past, event.verb.synonym))
    forms = (
        f"The {event.person} {verb} a {event.thing}.",
        f"The {event.person} was {event.place}.",
        f"The {event.thing} was {event.colour}.",
        f"The {event.person} was {event.trait}.",
        f"It happened {event.time}.",
        f"Someone {verb} a {event.thing} {event.place}.",
    )
    return phrased(forms, draw)


def contradicted(event: Deed, draw: Draw) -> str:
    """Say something that the event rules out."""
    forms = (
        f"The {event.person} {event.verb.contrary} the {event.thing}.",
        f"The {event.person} did not {event.verb.base} a {event.thing}.",
        f"Nobody {event.verb.past} a {event.thing}.",
        f"The {event.person} was {draw.one(PLACES, event.place)}.",
        f"The {event.thing} was {draw.one(COLOURS, event.colour)}.",
        f"It happened {draw.one(TIMES, event.time)}.",
    )
    return phrased(forms, draw)


def unsettled(event: Deed, draw: Draw) -> str:
    """Say something that the event leaves open."""
    forms = (
        f"The {event.person} was {draw.one(MOODS)}.",
        f"The {event.person} had a {draw.one(RELATIVES)}.",
        f"The {event.thing} was for a {draw.one(RELATIVES)}.",
        f"A {draw.one(RELATIVES)} of the {event.person} was {draw.one(MOODS)}.",
        f"The {event.thing} cost a lot.",
        f"The {event.person} was {draw.one(MOODS)} {event.place}.",
    )
    return phrased(forms, draw)


def reworded(event: Deed, draw: Draw) -> str:
    """Say who did what and where, in one of several orders and with or without the synonym of the deed."""
    return _told(event, event.verb.synonym if draw.chance(0.3) else event.verb.past, draw)


def altered(event: Deed, draw: Draw) -> str:
    """Say something with another meaning in words like those of ``reworded``: denied, contrary or changed."""
    way = draw.below(4)
    if way == 0:
        verb = draw.one((f"did not {event.verb.base}", f"never {event.verb.past}"))
        return f"The {event.person} {verb} a {event.colour} {event.thing} {event.place}."
    if way == 1:
        return _told(event, event.verb.contrary, draw)
    return reworded(varied(varied(event, draw), draw), draw)


def _told(event: Deed, verb: str, draw: Draw) -> str:
    thing = f"{event.colour} {event.thing}"
    forms = (
        f"The {event.person} {verb} a {thing} {event.place}.",
        f"A {thing} was {_PARTICIPLES.get(verb, verb)} by the {event.person} {event.place}.",
        f"{event.place[0].upper()}{event.place[1:]} the {event.person} {verb} a {thing}.",
        f"It was the {event.person} who {verb} a {thing} {event.place}.",
    )
    return phrased(forms, draw)


def varied(event: Deed, draw: Draw) -> Deed:
    """Return the event with one part changed: the person, the thing, its colour or the place."""
    part = draw.below(4)
    if part == 0:
        return event._replace(person=draw.one(PEOPLE, event.person))
    if part == 1:
        return event._replace(thing=_other_thing(event.thing, draw))
    if part == 2:
        return event._replace(colour=draw.one(COLOURS, event.colour))
    return event._replace(place=draw.one(PLACES, event.place))


def confirmed(event: Deed, draw: Draw) -> str:
    """State the event, then ask for something that is true of it."""
    return f"{stated(event, draw)}\n{_question(event, event.verb.base, draw)}"


def denied(event: Deed, draw: Draw) -> str:
    """State an event, then ask for something that is not true of it: a denied deed, its contrary, or a changed part."""
    way = draw.below(3)
    if way == 0:
        verb = draw.one((f"did not {event.verb.base}", f"never {event.verb.past}"))
        statement = (
            f"The {event.trait} {event.person} {verb} a {event.colour} {event.thing} {event.place} {event.time}."
        )
        return f"{statement}\nDid the {event.person} {event.verb.base} a {event.thing}?"
    if way == 1:
        return f"{stated(event, draw)}\nDid the {event.person} {event.verb.contrary_base} a {event.thing}?"
    other = varied(event, draw)
    while other.person != event.person:
        other = varied(event, draw)
    return f"{stated(event, draw)}\n{_question(other, event.verb.base, draw, event)}"


def _question(event: Deed, verb: str, draw: Draw, unlike: Deed | None = None) -> str:
    """Ask whether a part of the event is so; if ``unlike`` is given, ask for the part that differs from it."""
    asked = {
        "colour": f"Was the {event.thing} {event.colour}?",
        "place": f"Was the {event.person} {event.place}?",
        "thing": f"Did the {event.person} {verb} a {event.thing}?",
    }
    parts = [part for part in asked if unlike is None or getattr(event, part) != getattr(unlike, part)]
    return asked[draw.one(parts)]


def _general(thing: str) -> str:
    return next(general for general, things in OBJECTS.items() if thing in things)


def _other_thing(thing: str, draw: Draw) -> str:
    return draw.one([item for items in OBJECTS.values() for item in items], thing)


_PARTICIPLES = {"hid": "hidden", "took": "taken", "chose": "chosen", "broke": "broken"}
