"""How near pictures of a scene are to a single member of the family that no training saw."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

FLOOR = 40
"""Members whose own distance is measured for the floor."""


@dataclass(frozen=True)
class Distance:
    """Root mean squares of differences, for pictures in -1..1.

    Attributes:
        one: to the single member that is nearest in all views together.
        each: to the member that is nearest in each view: views of different members cost nothing.
    """

    one: float
    each: float


def distance(
    views: Float[Tensor, "views 3 h w"],
    references: UInt8[Tensor, "members views 3 h w"],
    leave_out: int | None = None,
) -> Distance:
    """How far pictures of one scene from the reference cameras are from the family.

    Args:
        references: of `data.unseen`.
        leave_out: the number of a member that does not count.
    """
    squares = (views - (references.float() / 127.5 - 1)).square().mean(dim=(2, 3, 4))
    if leave_out is not None:
        squares[leave_out] = torch.inf
    return Distance(float(squares.mean(1).amin().sqrt()), float(squares.amin(0).mean().sqrt()))


def floor(references: UInt8[Tensor, "members views 3 h w"], members: int = FLOOR) -> Distance:
    """The mean distance of members to the nearest other: nothing that is not a copy can be expected to be nearer."""
    found = [distance(references[i].float() / 127.5 - 1, references, leave_out=i) for i in range(members)]
    return Distance(sum(each.one for each in found) / members, sum(each.each for each in found) / members)
