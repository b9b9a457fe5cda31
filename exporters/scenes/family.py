"""Chairs and mugs of boxes, cylinders and rings on a voxel grid: what the scene model learns, and is judged by.

Axes: z is up, a chair's back is at -y, a mug's handle at +x. A member is a pure function of its split, kind and number;
the `train` split alone is rendered for training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

GRID = 32
"""Voxels along each edge of the cube [-1, 1]^3."""
KINDS = ("chair", "mug")
SPLITS = ("train", "unseen")
DENSITY = 30.0
"""Optical density of solid matter, per unit of length."""
PAINT = ((0.85, 0.2, 0.2), (0.2, 0.45, 0.85), (0.2, 0.65, 0.3), (0.9, 0.7, 0.15), (0.55, 0.3, 0.7), (0.25, 0.25, 0.3))
WOOD = ((0.45, 0.3, 0.18), (0.2, 0.2, 0.22), (0.7, 0.55, 0.35))
LIGHT = (0.35, 0.5, 0.79)
"""Where the light comes from. It is painted on: it does not move with the camera."""
EDGE, BLEND = 0.025, 0.02
"""Widths over which matter begins, and over which colours of touching parts mix."""

Colour = tuple[float, float, float]
Distance = Float[Tensor, "z y x"]
"""Signed distance of every voxel to a surface, negative inside."""


@dataclass(frozen=True, eq=False)
class Field:
    """An object, or several: density [*n, z, y, x] >= 0 and colour [*n, 3, z, y, x] in 0..1 at the voxels' centres."""

    density: Tensor
    colour: Tensor

    @classmethod
    def stacked(cls, fields: Sequence["Field"]) -> "Field":
        """Several objects as one batch."""
        return cls(torch.stack([each.density for each in fields]), torch.stack([each.colour for each in fields]))


def member(split: str, kind: str, number: int) -> Field:
    """One object of the family.

    Args:
        split: `train` or `unseen`; `kind`: `chair` or `mug`; `number`: from 0.

    Raises:
        ValueError: another split or kind.
    """
    which, what = _place("split", SPLITS, split), _place("kind", KINDS, kind)
    draw = Draw(torch.Generator().manual_seed((number * len(KINDS) + what) * len(SPLITS) + which))
    return _painted(_chair(draw) if kind == "chair" else _mug(draw))


def voxels() -> Float[Tensor, "z y x 3"]:
    """Centres of the voxels, as (x, y, z)."""
    axis = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


_VOXELS = voxels()


class Draw:
    """The random numbers of one member."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self._generator))

    def one(self, colours: Sequence[Colour]) -> Colour:
        return colours[int(torch.randint(len(colours), (), generator=self._generator))]


def _chair(draw: Draw) -> list[tuple[Distance, Colour]]:
    width, depth, height = draw.between(0.38, 0.58), draw.between(0.38, 0.55), draw.between(-0.2, 0.05)
    seat, back, board, leg = (draw.between(*ends) for ends in ((0.07, 0.11), (0.5, 0.8), (0.07, 0.1), (0.07, 0.11)))
    paint, wood = draw.one(PAINT), draw.one(WOOD)
    parts = [
        (_box((0.0, 0.0, height), (width, depth, seat)), paint),
        (_box((0.0, board - depth, height + back / 2 + seat), (width, board, back / 2)), paint),
    ]
    floor = -0.85
    half = (height - seat - floor) / 2
    for right in (-1, 1):
        for front in (-1, 1):
            centre = (right * (width - leg), front * (depth - leg), floor + half)
            parts.append((_box(centre, (leg, leg, half)), wood))
    return parts


def _mug(draw: Draw) -> list[tuple[Distance, Colour]]:
    radius, half, ring = draw.between(0.38, 0.58), draw.between(0.42, 0.68), draw.between(0.2, 0.3)
    paint, stripe = draw.one(PAINT), draw.one(PAINT)
    wall, x = 0.09, -0.15
    hollow = _cylinder((x, 0.0, 0.18), radius - wall, half)
    handle = _ring((x + radius + 0.02, 0.0, 0.0), ring, 0.085)
    return [
        (_without(_cylinder((x, 0.0, 0.0), radius, half), hollow), paint),
        (_without(handle, _cylinder((x, 0.0, 0.0), radius - wall / 2, half)), paint),
        (_without(_cylinder((x, 0.0, 0.0), radius + 0.015, 0.12), hollow), stripe),
    ]


def _painted(parts: Sequence[tuple[Distance, Colour]]) -> Field:
    """Matter inside the nearest surface, each part in its colour, under the light."""
    distances = torch.stack([distance for distance, _ in parts])
    colours = torch.tensor([colour for _, colour in parts])
    surface = distances.amin(0)
    flat = torch.einsum("pzyx,pc->czyx", torch.softmax(-distances / BLEND, 0), colours)
    normal = torch.stack([torch.gradient(surface, dim=axis)[0] for axis in (2, 1, 0)], dim=-1)
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    shade = 0.55 + 0.45 * (normal @ torch.tensor(LIGHT)).clamp(min=0)
    return Field(torch.sigmoid(-surface / EDGE) * DENSITY, flat * shade)


def _box(centre: Sequence[float], half: Sequence[float]) -> Distance:
    outside = (_VOXELS - torch.tensor(centre)).abs() - torch.tensor(half)
    return outside.clamp(min=0).norm(dim=-1) + outside.amax(-1).clamp(max=0)


def _cylinder(centre: Sequence[float], radius: float, half: float) -> Distance:
    """Along z."""
    from_axis = (_VOXELS[..., :2] - torch.tensor(centre[:2])).norm(dim=-1) - radius
    outside = torch.stack([from_axis, (_VOXELS[..., 2] - centre[2]).abs() - half], dim=-1)
    return outside.clamp(min=0).norm(dim=-1) + outside.amax(-1).clamp(max=0)


def _ring(centre: Sequence[float], radius: float, thickness: float) -> Distance:
    """A torus in the plane of x and z."""
    at = _VOXELS - torch.tensor(centre)
    from_circle = torch.stack([at[..., [0, 2]].norm(dim=-1) - radius, at[..., 1]], dim=-1)
    return from_circle.norm(dim=-1) - thickness


def _without(one: Distance, other: Distance) -> Distance:
    return torch.maximum(one, -other)


def _place(what: str, names: Sequence[str], given: str) -> int:
    if given not in names:
        raise ValueError(f"{what}: expected one of {', '.join(names)}, got {given!r:.60}")
    return names.index(given)
