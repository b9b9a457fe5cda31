"""A small 1-D U-Net for signals of several channels; its residual blocks are dilated convolutions."""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from exporters.digits.networks import TimeEmbedding


class Block(nn.Module):
    """Norm, SiLU, convolution, twice, the second one dilated; the embedding scales and shifts in the middle."""

    def __init__(self, before: int, after: int, embedding: int, dilation: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, before), nn.GroupNorm(4, after)
        self.conv1 = nn.Conv1d(before, after, 3, padding=1)
        self.conv2 = nn.Conv1d(after, after, 3, padding=dilation, dilation=dilation)
        self.modulation = nn.Linear(embedding, 2 * after)
        self.skip = nn.Conv1d(before, after, 1) if before != after else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[..., None].chunk(2, dim=1)
        y = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(y) * (1 + scale) + shift))


class UNet1d(nn.Module):
    """Three levels, of L, L/2 and L/4 points: `(x [B, channels, L], t [B] in 0..1) -> [B, channels, L]`.

    Args:
        labels: kinds that a sample can be told to be of, and one more, none; 0 for no labels.
    """

    def __init__(self, channels: int, width: int = 24, labels: int = 0) -> None:
        super().__init__()
        embedding, wide, widest = 2 * width, 2 * width, 2 * width
        self.time = TimeEmbedding(embedding, frequencies=16)
        self.label = nn.Embedding(labels + 1, embedding) if labels else None
        self.stem = nn.Conv1d(channels, width, 5, padding=2)
        self.fine = Block(width, width, embedding, 2)
        self.down1 = nn.Conv1d(width, wide, 4, stride=2, padding=1)
        self.middle = Block(wide, wide, embedding, 4)
        self.down2 = nn.Conv1d(wide, widest, 4, stride=2, padding=1)
        self.coarse = nn.ModuleList(Block(widest, widest, embedding, dilation) for dilation in (1, 4, 16))
        self.up2 = nn.Conv1d(widest, wide, 3, padding=1)
        self.middle_up = Block(2 * wide, wide, embedding, 4)
        self.up1 = nn.Conv1d(wide, width, 3, padding=1)
        self.fine_up = Block(2 * width, width, embedding, 2)
        self.head = nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv1d(width, channels, 5, padding=2))

    def forward(
        self, x: Float[Tensor, "b c l"], t: Float[Tensor, " b"], label: Int[Tensor, " b"] | None = None
    ) -> Tensor:
        e = self.time(t)
        if self.label is not None:
            e = e + self.label(label)
        e = F.silu(e)
        fine = self.fine(self.stem(x), e)
        middle = self.middle(self.down1(fine), e)
        coarse = self.down2(middle)
        for block in self.coarse:
            coarse = block(coarse, e)
        up = self.up2(F.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        up = self.middle_up(torch.cat([up, middle], dim=1), e)
        up = self.up1(F.interpolate(up, scale_factor=2.0, mode="nearest"))
        return self.head(self.fine_up(torch.cat([up, fine], dim=1), e))
