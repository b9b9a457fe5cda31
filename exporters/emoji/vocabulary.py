"""What the emoji model can be asked for: things, their kinds, colours and styles, and prompts that describe them."""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

STYLES = ("noto", "fluent")


@dataclass(frozen=True)
class Thing:
    """One thing that is drawn, in every style.

    Attributes:
        name: its words in prompts.
        icon: its name in the icon sets.
        kind: the word for its like; such a word alone is a prompt too.
        coloured: it is drawn in each of `COLOURS`, by turning the hue of its main colour.
        mirrored: it may be flipped from left to right.
    """

    name: str
    icon: str
    kind: str
    coloured: bool = False
    mirrored: bool = True


def _things(kind: str, icons: str, coloured: bool = False, mirrored: bool = True) -> list[Thing]:
    """`icons`: words of "name" or "name=icon", with underscores for a name's spaces."""
    parts = [each.partition("=") for each in icons.split()]
    return [
        Thing(name.replace("_", " "), icon or name.replace("_", "-"), kind, coloured, mirrored)
        for name, _, icon in parts
    ]


THINGS = (
    *_things("shape", "heart=red-heart circle=red-circle square=red-square star", coloured=True),
    *_things("object", "balloon book=closed-book", coloured=True),
    *_things("object", "crown house"),
    *_things("object", "clock=three-oclock", mirrored=False),
    *_things("vehicle", "car=automobile bus", coloured=True),
    *_things("vehicle", "rocket"),
    *_things("fruit", "apple=red-apple", coloured=True),
    *_things("fruit", "banana strawberry watermelon orange=tangerine"),
    *_things("food", "pizza doughnut ice_cream=soft-ice-cream"),
    *_things("plant", "tulip", coloured=True),
    *_things("plant", "tree=deciduous-tree cactus"),
    *_things("animal", "butterfly fish", coloured=True),
    *_things("animal", "cat=cat-face dog=dog-face fox bear panda frog lion tiger=tiger-face penguin"),
    *_things("face", "smiling_face=grinning-face sad_face=frowning-face angry_face"),
    *_things("face", "cool_face=smiling-face-with-sunglasses loving_face=smiling-face-with-heart-eyes"),
    *_things("face", "crying_face=loudly-crying-face"),
    *_things("sky", "sun=sun-with-face moon=crescent-moon", mirrored=False),
    *_things("sky", "rainbow fire"),
)
KINDS = tuple(dict.fromkeys(thing.kind for thing in THINGS))
COLOURS = {"red": 0.0, "orange": 28.0, "yellow": 52.0, "green": 125.0, "blue": 215.0, "purple": 275.0, "pink": 330.0}
"""Colours and their hues in degrees."""


@dataclass(frozen=True)
class Subject:
    """What one picture shows: a thing, in a colour where it comes in several, in a style."""

    thing: Thing
    colour: str | None
    style: str

    @property
    def name(self) -> str:
        """Colour and thing, such as "red heart"."""
        return self.thing.name if self.colour is None else f"{self.colour} {self.thing.name}"


@dataclass(frozen=True)
class Meaning:
    """What a prompt says: thing or kind, colour and style; None where it does not say."""

    noun: str | None
    colour: str | None
    style: str | None

    def fits(self, subject: Subject) -> bool:
        """Whether it contradicts nothing of a subject."""
        return (
            self.noun in (None, subject.thing.name, subject.thing.kind)
            and self.colour in (None, subject.colour)
            and self.style in (None, subject.style)
        )


def meaning(text: str) -> Meaning:
    """What a prompt made of `WORDS` says; the last of several styles counts."""
    words = [word for word in text.split() if word not in _FILLING]
    style = next((word for word in reversed(words) if word in STYLES), None)
    named = [word for word in words if word not in STYLES]
    colour = None
    if named and named[0] in COLOURS and named != ["orange"]:  # an orange alone is the fruit
        colour, *named = named
    return Meaning(" ".join(named) or None, colour, style)


_FILLING = ("a", "an", "in", "style", "thing")
SUBJECTS = tuple(
    Subject(thing, colour, style)
    for thing in THINGS
    for style in STYLES
    for colour in (COLOURS if thing.coloured else (None,))
)
WORDS = tuple(
    sorted({*_FILLING, *STYLES, *COLOURS, *KINDS, *(word for thing in THINGS for word in thing.name.split())})
)


def describe(subject: Subject, rng: random.Random, colour: float = 0.6, style: float = 0.4, kind: float = 0.15) -> str:
    """A prompt that fits a subject: a thing or only its kind, with or without colour and style.

    Args:
        colour, style: how often they are told; kind: how often the kind stands for the thing.
    """
    words = [subject.thing.kind if rng.random() < kind else subject.thing.name]
    if subject.colour is not None and rng.random() < colour:
        words.insert(0, subject.colour)
    told = rng.random() < style
    before = rng.random() < 0.5
    if told and before:
        words.insert(0, subject.style)
    if rng.random() < 0.7:
        words.insert(0, "an" if words[0][0] in "aeiou" else "a")
    if told and not before:
        words.append(f"in {subject.style} style")
    return " ".join(words)


def weights() -> Float[Tensor, " subjects"]:
    """How often each subject is shown: every thing as often, in every style and colour."""
    things = [subject.thing for subject in SUBJECTS]
    return torch.tensor([1 / things.count(thing) for thing in things])
