"""Autoencoders: the encoder, pictures [n, 3, H, W] of -1..1 to latents, and the decoder, back. Neither draws noise: the
encoder gives the mode of its law."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from exporters.diffusers.source import FolderError, Part

KINDS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")


@dataclass(frozen=True)
class Autoencoder:
    """How latents lie to what its encoder gives and its decoder takes: z = scale * (encoded - shift).

    Attributes:
        channels: of latents; `pixels`: how many pixels along a side are one of them.
        colours: of pictures.
    """

    part: Part
    channels: int
    colours: int
    pixels: int
    scale: float
    shift: float

    def encoder(self, network: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, dict[str, Tensor]]:
        """The module and an example of its input, for latents of that height and width."""
        height, width = (self.pixels * side for side in size)
        return _Encoder(network), {"pixels": _noise(self.colours, height, width).clamp(-1, 1)}

    def decoder(self, network: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, dict[str, Tensor]]:
        """The module and an example of its input, for latents of that height and width."""
        return _Decoder(network), {"latents": _noise(self.channels, *size)}


def read_autoencoder(part: Part) -> Autoencoder:
    """What the configuration says.

    Raises:
        FolderError: another class; one line.
    """
    if part.kind not in KINDS:
        raise FolderError(f"{part.folder}: {part.role}: expected one of {', '.join(KINDS)}, got {part.kind}")
    if part.said("latents_mean") or part.said("latents_std"):
        raise FolderError(f"{part.folder}: latents_mean: expected latents with one scale, got one for each channel")
    if part.kind == "AutoencoderDC":
        blocks = part.said("encoder_block_out_channels", ())
    else:
        blocks = part.said("block_out_channels" if part.kind == "AutoencoderKL" else "decoder_block_out_channels", ())
    return Autoencoder(
        part,
        channels=part.said("latent_channels", 4),
        colours=part.said("in_channels", 3),
        pixels=2 ** (len(blocks) - 1),
        scale=part.said("scaling_factor", 1.0),
        shift=part.said("shift_factor", 0.0),
    )


class _Encoder(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        found: Any = self.network.encode(pixels, return_dict=False)[0]  # type: ignore[operator]
        encoded: Tensor = found if isinstance(found, Tensor) else found.mode()
        return encoded


class _Decoder(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.network.decode(latents, return_dict=False)[0]  # type: ignore[operator]
        return pixels


def _noise(*shape: int) -> Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
