"""The three networks of the digit demo: an unconditional denoiser, a reward classifier and an independent judge."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

DIGITS = 10


class TimeEmbedding(nn.Module):
    """Fourier features of a path time t in [0, 1], followed by a two-layer perceptron."""

    frequencies: Tensor

    def __init__(self, width: int, frequencies: int = 32) -> None:
        super().__init__()
        # 1 .. 1000 cycles-per-unit on a log scale resolves both ends of the path
        octaves = torch.linspace(0.0, math.log(1000.0), frequencies)
        self.register_buffer("frequencies", torch.exp(octaves), persistent=False)
        self.perceptron = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        phase = t[:, None] * self.frequencies
        return self.perceptron(torch.cat([phase.cos(), phase.sin()], dim=1))


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, with the time embedding as a scale and a shift in the middle."""

    def __init__(self, channels_in: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y) * (1 + scale) + shift))
        return self.skip(x) + y


class Attention(nn.Module):
    """Self-attention over the pixels of a feature map, added to its input."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(2, 3).reshape(b, c, h, w))


class DigitDenoiser(nn.Module):
    """A two-level U-Net on 2x2 pixel blocks: `(x [B, 1, 28, 28], t [B]) -> v [B, 1, 28, 28]`.

    Folding 2x2 pixels into channels moves every convolution to 14x14 or 7x7, a quarter of the cost of full
    resolution at equal width.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        embedding, wide = 4 * width, 2 * width
        block = lambda cin, cout: ResidualBlock(cin, cout, embedding)  # noqa: E731
        self.time = TimeEmbedding(embedding)
        self.stem = nn.Conv2d(4, width, 3, padding=1)
        self.down_fine = nn.ModuleList([block(width, width), block(width, width)])
        self.down = nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.down_coarse = nn.ModuleList([block(wide, wide), block(wide, wide)])
        self.middle = nn.ModuleList([Attention(wide), block(wide, wide), Attention(wide)])
        self.up_coarse = nn.ModuleList([block(2 * wide, wide), block(2 * wide, wide)])
        self.up = nn.Conv2d(wide, width, 3, padding=1)
        self.up_fine = nn.ModuleList([block(2 * width, width), block(2 * width, width)])
        self.head = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1))

    def forward(self, x: Float[Tensor, "b 1 28 28"], t: Float[Tensor, " b"]) -> Float[Tensor, "b 1 28 28"]:
        e = F.silu(self.time(t))
        y = self.stem(F.pixel_unshuffle(x, 2))
        fine, coarse = [], []
        for layer in self.down_fine:
            y = layer(y, e)
            fine.append(y)
        y = self.down(y)
        for layer in self.down_coarse:
            y = layer(y, e)
            coarse.append(y)
        for layer in self.middle:
            y = layer(y, e) if isinstance(layer, ResidualBlock) else layer(y)
        for layer in self.up_coarse:
            y = layer(torch.cat([y, coarse.pop()], dim=1), e)
        y = self.up(F.interpolate(y, scale_factor=2.0, mode="nearest"))
        for layer in self.up_fine:
            y = layer(torch.cat([y, fine.pop()], dim=1), e)
        return F.pixel_shuffle(self.head(y), 2)


def classifier_body(width: int, features: int, dropout: float) -> nn.Sequential:
    """Three strided convolutions and a dense layer: `[B, 1, 28, 28] -> [B, features]`."""

    def stage(cin: int, cout: int) -> list[nn.Module]:
        return [nn.Conv2d(cin, cout, 3, stride=2, padding=1), nn.BatchNorm2d(cout), nn.SiLU()]

    layers = [
        *stage(1, width),
        *stage(width, 2 * width),
        *stage(2 * width, 4 * width),
        nn.Flatten(),
        nn.Dropout(dropout),
    ]
    return nn.Sequential(*layers, nn.Linear(4 * width * 16, features), nn.SiLU())


class DigitClassifier(nn.Module):
    """The reward: `(x [B, 1, 28, 28], label [B]) -> (reward [B] = log p(label | x), log_probabilities [B, 10])`."""

    def __init__(self, width: int = 16, features: int = 64) -> None:
        super().__init__()
        self.body = classifier_body(width, features, dropout=0.3)
        self.logits = nn.Linear(features, DIGITS)

    def forward(
        self, x: Float[Tensor, "b 1 28 28"], label: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b 10"]]:
        log_probabilities = F.log_softmax(self.logits(self.body(x)), dim=1)
        return log_probabilities.gather(1, label[:, None]).squeeze(1), log_probabilities


class DigitJudge(nn.Module):
    """The independent reader: `x [B, 1, 28, 28] -> (log_probabilities [B, 10], features [B, 96])`; never steers."""

    def __init__(self, width: int = 24, features: int = 96) -> None:
        super().__init__()
        self.body = classifier_body(width, features, dropout=0.4)
        self.logits = nn.Linear(features, DIGITS)

    def forward(self, x: Float[Tensor, "b 1 28 28"]) -> tuple[Float[Tensor, "b 10"], Float[Tensor, "b features"]]:
        features = self.body(x)
        return F.log_softmax(self.logits(features), dim=1), features
