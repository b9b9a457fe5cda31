"""Drawings: from an icon's JSON to pictures of every subject."""

from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.emoji.data import SHIFT, SIDE, SIZES, Pictures, pictures, recoloured, rendered, svg
from exporters.emoji.vocabulary import COLOURS, STYLES, SUBJECTS, THINGS

DRAWN = Path(__file__).parents[3] / "deploy" / "demo_data" / "emoji.npz"
PIXELS = {"red": (1.0, 0.0, 0.0), "yellow": (1.0, 0.87, 0.0), "green": (0.0, 1.0, 0.08), "blue": (0.0, 0.42, 1.0)}


@pytest.fixture(scope="module")
def shown() -> Pictures:
    """Of the drawings that are shipped."""
    return pictures(np.load(DRAWN)["drawings"])


def test_an_icon_has_its_own_size_or_its_sets():
    body = '<path d="M0 0"/>'
    whole = {"width": 128, "height": 64}
    assert svg({"body": body}, whole) == f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 64">{body}</svg>'
    assert 'viewBox="0 0 24 64"' in svg({"body": body, "width": 24}, whole)
    assert 'viewBox="0 0 16 16"' in svg({"body": body}, {})


def test_a_rendered_icon_lies_in_the_middle_in_each_size():
    drawn = rendered(svg({"body": '<rect width="32" height="32" fill="#ff0000"/>'}, {"width": 32, "height": 32}))
    assert drawn.shape == (len(SIZES), SIDE, SIDE, 4)
    for canvas, size in zip(drawn, SIZES, strict=True):
        edge = (SIDE - size) // 2
        assert edge >= SHIFT
        assert (canvas[edge : SIDE - edge, edge : SIDE - edge] == [255, 0, 0, 255]).all()
        assert canvas[..., 3].sum() == 255 * size**2


@pytest.mark.parametrize("came", PIXELS)
@pytest.mark.parametrize("becomes", PIXELS)
def test_the_main_colour_turns_and_others_stay(came: str, becomes: str):
    """A drawing that is three quarters of one colour, with grey and clear pixels, and some of a far hue."""
    purple = (0.5, 0.0, 0.9)
    drawing = torch.tensor([[*PIXELS[came], 1.0]] * 12 + [[*purple, 1.0], [0.5, 0.5, 0.5, 1.0], [1.0, 0.0, 1.0, 0.0]])
    turned = recoloured(drawing, becomes)
    assert torch.allclose(turned[:12, :3], torch.tensor(PIXELS[becomes]).expand(12, 3), atol=0.02)
    assert torch.allclose(turned[13:, :3], drawing[13:, :3], atol=1e-5)
    assert torch.equal(turned[:, 3], drawing[:, 3])
    if came != "blue":  # which is near purple
        assert torch.allclose(turned[12, :3], torch.tensor(purple), atol=1e-5)


def test_every_subject_has_a_picture_on_white(shown: Pictures):
    assert shown.x.shape == (len(SUBJECTS), len(SIZES), 3, SIDE, SIDE)
    assert float(shown.x.amin()) >= -1
    assert float(shown.x.amax()) <= 1
    corner = shown.x[..., :1, :1]
    assert torch.equal(corner, torch.ones_like(corner))
    flat = shown.x.flatten(1)
    apart = torch.cdist(flat, flat) + 1e3 * torch.eye(len(flat))
    assert float(apart.min()) > 3  # no two are the same


def test_coloured_things_are_of_their_colour(shown: Pictures):
    """The channel that a red, green or blue thing has most of, over all its pixels."""
    for i, subject in enumerate(SUBJECTS):
        if subject.colour in ("red", "green", "blue"):
            channel = ("red", "green", "blue").index(subject.colour)
            assert int(shown.x[i].mean(dim=(0, 2, 3)).argmax()) == channel, subject


def test_batches_are_drawings_in_other_sizes_and_places(shown: Pictures):
    clock = next(i for i, s in enumerate(SUBJECTS) if s.thing.name == "clock")
    cat = next(i for i, s in enumerate(SUBJECTS) if s.thing.name == "cat")
    drawn = {i: shown.batch(torch.full((64,), i), torch.Generator().manual_seed(0)) for i in (clock, cat)}
    for i, flipped in ((clock, (False,)), (cat, (False, True))):
        places = [
            torch.roll(each.flip(2) if flip else each, (dy, dx), (1, 2))
            for each in shown.x[i]
            for flip in flipped
            for dy in range(-SHIFT, SHIFT + 1)
            for dx in range(-SHIFT, SHIFT + 1)
        ]
        assert all(any(torch.equal(x, each) for each in places) for x in drawn[i])
        assert len({x.numpy().tobytes() for x in drawn[i]}) > 10


def test_the_drawings_are_of_every_thing_and_style():
    assert np.load(DRAWN)["drawings"].shape == (len(THINGS), len(STYLES), len(SIZES), SIDE, SIDE, 4)
    assert set(COLOURS) == {s.colour for s in SUBJECTS} - {None}
