"""Prompts: what they describe, and what they mean."""

import random

import pytest
import torch

from exporters.emoji.vocabulary import (
    COLOURS,
    KINDS,
    STYLES,
    SUBJECTS,
    THINGS,
    WORDS,
    Meaning,
    describe,
    meaning,
    weights,
)


def test_every_prompt_fits_what_it_describes_and_is_made_of_the_words():
    rng = random.Random(0)
    for subject in SUBJECTS:
        for _ in range(20):
            text = describe(subject, rng)
            assert meaning(text).fits(subject), (text, subject)
            assert set(text.split()) <= set(WORDS)
            assert len(text.split()) <= 10


def test_prompts_tell_subjects_apart():
    """The whole description of one subject fits it alone."""
    for subject in SUBJECTS:
        fits = meaning(f"a {subject.name} in {subject.style} style").fits
        assert [other for other in SUBJECTS if fits(other)] == [subject]


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("", Meaning(None, None, None)),
        ("a red heart", Meaning("heart", "red", None)),
        ("an orange", Meaning("orange", None, None)),
        ("an orange in noto style", Meaning("orange", None, "noto")),
        ("an orange heart", Meaning("heart", "orange", None)),
        ("a blue thing", Meaning(None, "blue", None)),
        ("a fluent light bulb", Meaning("light bulb", None, "fluent")),
    ],
)
def test_meaning(text: str, means: Meaning):
    assert meaning(text) == means


def test_no_name_is_two_things():
    names = [thing.name for thing in THINGS] + list(KINDS)
    assert len(names) == len(set(names))
    assert len({thing.icon for thing in THINGS}) == len(THINGS)


def test_every_thing_is_shown_as_often():
    shown = weights()
    totals = [sum(float(w) for s, w in zip(SUBJECTS, shown, strict=True) if s.thing == thing) for thing in THINGS]
    assert totals == pytest.approx([1.0] * len(THINGS))
    assert len(SUBJECTS) == sum(len(STYLES) * (len(COLOURS) if thing.coloured else 1) for thing in THINGS)
    assert isinstance(shown, torch.Tensor)
