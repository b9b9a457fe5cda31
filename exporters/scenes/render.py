"""A differentiable ray marcher over voxel fields. It makes the model's training pictures, and renders the scenes that
distillation optimises.

A camera is the unit vector from the middle of the scene to it; it is at distance 3, looks at the middle, and z is up.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from exporters.scenes.family import Field

SIDE = 32
"""Pixels of a picture's edge."""
DISTANCE, NEAR, FAR = 3.0, 1.9, 4.1
"""Of the camera from the middle; where rays are sampled from and to."""
STEPS = 40
"""Samples of a ray."""
VIEW_DEGREES = 48.0
ELEVATIONS = (5.0, 40.0)
"""Degrees between which training cameras are."""


def cameras(azimuth: Float[Tensor, " n"], elevation: Float[Tensor, " n"]) -> Float[Tensor, "n 3"]:
    """Unit vectors to cameras at angles in degrees: azimuth 0 is +y, where chairs look, 90 is +x; elevation 90 is
    above."""
    a, e = azimuth.deg2rad(), elevation.deg2rad()
    return torch.stack([e.cos() * a.sin(), e.cos() * a.cos(), e.sin()], dim=-1)


def anywhere(n: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
    """Random cameras, as in training."""
    low, high = ELEVATIONS
    return cameras(360 * torch.rand(n, generator=generator), low + (high - low) * torch.rand(n, generator=generator))


def rays(camera: Float[Tensor, "n 3"], side: int = SIDE) -> Float[Tensor, "n pixels steps 3"]:
    """Where the rays of each pixel are sampled, as (x, y, z); pixels in rows from the top left."""
    forward = -camera
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]).expand_as(forward))
    right = right / right.norm(dim=-1, keepdim=True)
    up = torch.linalg.cross(right, forward)
    pixel = ((torch.arange(side) + 0.5) / side * 2 - 1) * math.tan(math.radians(VIEW_DEGREES / 2))
    down, across = torch.meshgrid(pixel, pixel, indexing="ij")
    across, down = across[..., None], down[..., None]
    towards = forward[:, None, None] + across * right[:, None, None] - down * up[:, None, None]
    towards = (towards / towards.norm(dim=-1, keepdim=True)).flatten(1, 2)
    depth = NEAR + (FAR - NEAR) * (torch.arange(STEPS) + 0.5) / STEPS
    return DISTANCE * camera[:, None, None] + towards[:, :, None] * depth[:, None]


def render(field: Field, camera: Float[Tensor, "n 3"], side: int = SIDE) -> Float[Tensor, "n 3 side side"]:
    """Pictures in -1..1 on white, by emission and absorption along each ray.

    Args:
        field: one object, seen by all cameras, or one for each camera.
    """
    at = rays(camera, side)
    n, pixels = at.shape[:2]
    grid = field.density.shape[-3:]
    volume = torch.cat([field.density.reshape(-1, 1, *grid), field.colour.reshape(-1, 3, *grid)], dim=1)
    if len(volume) == 1:
        seen = F.grid_sample(volume, at.reshape(1, n * pixels, STEPS, 1, 3), align_corners=False)
        seen = seen.reshape(4, n, pixels, STEPS).transpose(0, 1)
    else:
        seen = F.grid_sample(volume, at[:, :, :, None], align_corners=False)[..., 0]
    kept = torch.exp(-seen[:, 0] * (FAR - NEAR) / STEPS)  # of the light, by each step
    reaches = torch.cumprod(torch.cat([torch.ones_like(kept[..., :1]), kept], dim=-1), dim=-1)
    weights = (1 - kept) * reaches[..., :-1]
    picture = (weights[:, None] * seen[:, 1:]).sum(-1) + reaches[:, None, :, -1]
    return picture.reshape(n, 3, side, side) * 2 - 1
