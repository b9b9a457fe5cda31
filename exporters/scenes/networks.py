"""The denoiser of the 3-D demo: a small U-Net in EDM's form that is told the object and the camera."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from exporters.scenes.family import KINDS
from exporters.scenes.render import SIDE

SIGMA_DATA = 0.55
"""Root mean square of the pictures' deviations, about."""
NO_KIND = len(KINDS)
"""The number that stands for an unknown object; an unknown camera is the vector 0."""
FREQUENCIES = 12
CAMERA = 10
"""Features of a camera."""


class Block(nn.Module):
    """Norm, SiLU, convolution, twice; what the network is told scales and shifts the middle."""

    def __init__(self, channels_in: int, channels: int, told: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.modulation = nn.Linear(told, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.modulation(told)[:, :, None, None].chunk(2, dim=1)
        y = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(y) * (1 + scale) + shift))


class SceneDenoiser(nn.Module):
    """EDM's raw network (Karras et al. 2022, arXiv:2206.00364, table 1), 1.3M parameters.

    `(x [B, 3, 32, 32] = c_in (x_0 + sigma eps), t [B] = log(sigma) / 4, kind [B], camera [B, 3]) -> F [B, 3, 32, 32]`,
    with kind 0 a chair, 1 a mug, 2 unknown; camera a unit vector, 0 for unknown.
    """

    frequencies: Tensor

    def __init__(self, widths: tuple[int, int, int] = (48, 80, 112), told: int = 128) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(30), FREQUENCIES)), persistent=False)
        self.kind = nn.Embedding(len(KINDS) + 1, told)
        self.told = nn.Sequential(
            nn.Linear(2 * FREQUENCIES + CAMERA + told, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU()
        )
        self.stem = nn.Conv2d(12, fine, 3, padding=1)
        self.place = nn.Parameter(0.02 * torch.randn(1, fine, SIDE // 2, SIDE // 2))
        self.down_fine = nn.ModuleList([Block(fine, fine, told), Block(fine, fine, told)])
        self.to_middle = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.down_middle = Block(middle, middle, told)
        self.to_coarse = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList([Block(coarse, coarse, told), Block(coarse, coarse, told)])
        self.up_middle = Block(middle + coarse, middle, told)
        self.up_fine = nn.ModuleList([Block(fine + middle, fine, told), Block(fine, fine, told)])
        self.head = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, 12, 3, padding=1))

    def forward(
        self,
        x: Float[Tensor, "b 3 side side"],
        t: Float[Tensor, " b"],
        kind: Int[Tensor, " b"],
        camera: Float[Tensor, "b 3"],
    ) -> Float[Tensor, "b 3 side side"]:
        phase = t[:, None] * self.frequencies
        told = self.told(torch.cat([phase.sin(), phase.cos(), _seen_from(camera), self.kind(kind)], dim=1))
        # 2x2 pixels are folded into channels: a quarter of the cost of full resolution at equal width
        y = self.stem(F.pixel_unshuffle(x, 2)) + self.place
        for block in self.down_fine:
            y = block(y, told)
        fine = y
        middle = y = self.down_middle(self.to_middle(y), told)
        y = self.to_coarse(y)
        for block in self.coarse:
            y = block(y, told)
        y = self.up_middle(torch.cat([F.interpolate(y, scale_factor=2.0), middle], dim=1), told)
        y = torch.cat([F.interpolate(y, scale_factor=2.0), fine], dim=1)
        for block in self.up_fine:
            y = block(y, told)
        return F.pixel_shuffle(self.head(y), 2)


class Redness(nn.Module):
    """A reward: `x [B, 3, 32, 32] of -1..1 -> [B]`, 40 times the mean of red less half of green and blue, in 0..1."""

    def forward(self, x: Float[Tensor, "b 3 side side"]) -> Float[Tensor, " b"]:
        red, green, blue = (x / 2 + 0.5).mean(dim=(2, 3)).unbind(1)
        return 40 * (red - (green + blue) / 2)


def _seen_from(camera: Float[Tensor, "b 3"]) -> Float[Tensor, "b 10"]:
    """A direction, its products of two (all 0 for an unknown camera), and angles of twice its azimuth's sharpness."""
    x, y, z = camera.unbind(1)
    known = x * x + y * y + z * z
    plane = x * x - y * y, 2 * x * y  # of twice the azimuth
    twice = plane[0] ** 2 - plane[1] ** 2, 2 * plane[0] * plane[1]  # of four times the azimuth
    return torch.stack([x, y, z, known, *plane, *twice, x * z, y * z], dim=1)
