"""A sample as a scoring network takes it: in its range of numbers, its size, its layout and its type."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from protos.card import Sample
from serving.backends import Array

AS_IT_IS = Sample()


@dataclass(frozen=True)
class Taking:
    """What becomes of samples x [B, *event] before a network scores them, as a card's `sample` says.

    A row's bits do not depend on the other rows: every step is one of single rows.
    """

    card: Sample
    dtype: np.dtype[np.generic]

    def shape(self, event: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one prepared sample; ValueError where samples of this shape cannot be prepared so."""
        card = self.card
        of_images = card.resize is not None or card.channels is not None or isinstance(card.mean, list)
        if not of_images and card.layout in ("CHW", "flat"):
            return event if card.layout == "CHW" else (math.prod(event),)
        if len(event) != 3:
            raise ValueError(f"resize, layout and channels: expected samples [channels, height, width], got {[*event]}")
        channels, *size = event
        if card.channels not in (None, channels) and channels != 1:
            raise ValueError(f"channels: expected samples of 1 or {card.channels}, got {channels}")
        channels, (height, width) = card.channels or channels, card.resize or size
        if isinstance(card.mean, list) and len(card.mean) != channels:
            raise ValueError(f"mean: expected a number for each of {channels} channels, got {len(card.mean)}")
        if card.layout == "HW" and channels != 1:
            raise ValueError(f"layout HW: expected samples of 1 channel, got {channels}")
        return {
            "CHW": (channels, height, width),
            "HWC": (height, width, channels),
            "HW": (height, width),
            "flat": (channels * height * width,),
        }[card.layout]

    def __call__(self, x: Tensor) -> Array:
        """Prepared samples [B, ...] of the input's type."""
        return self.typed(self.prepared(x))

    def typed(self, prepared: Tensor) -> Array:
        """Numbers in the input's type."""
        return prepared.detach().contiguous().numpy().astype(self.dtype, copy=False)

    def prepared(self, x: Tensor) -> Tensor:
        """Prepared samples [B, ...] in float32, differentiably unless they are whole numbers."""
        x, card = x.to(torch.float32), self.card
        if card.range is not None and card.to is not None:
            (first, last), (low, high) = card.range, card.to
            x = (x - first) * ((high - low) / (last - first)) + low
        if card.resize is not None and tuple(x.shape[2:]) != card.resize:
            x = torch.cat([_resized(row[None], card) for row in x])
        if card.channels is not None:
            x = x.expand(-1, card.channels, -1, -1)
        if card.mean is not None and card.std is not None:
            x = (x - _channels(card.mean)) / _channels(card.std)
        if self.dtype.kind in "iu":
            x = x.round()
            assert card.to is not None  # whole numbers are taken only so
            x = _clamped(x, card.to, self.dtype)
        if card.layout == "HWC":
            x = x.permute(0, 2, 3, 1)
        elif card.layout == "HW":
            x = x.squeeze(1)
        elif card.layout == "flat":
            x = x.flatten(1)
        return x


def _resized(x: Tensor, card: Sample) -> Tensor:
    """x [1, C, H, W] in the card's size; row by row, since torch's kernels look at the whole batch."""
    if card.filter == "nearest":
        return functional.interpolate(x, card.resize, mode="nearest-exact")
    return functional.interpolate(x, card.resize, mode=card.filter, align_corners=False, antialias=True)


def _clamped(x: Tensor, ends: tuple[float, float], dtype: np.dtype[np.generic]) -> Tensor:
    """x between the ends, as far as a type of whole numbers goes."""
    whole = np.iinfo(str(dtype))
    most = float(whole.max)
    if most > whole.max:  # of 64 bits: the next number of float64 is the first that does not fit
        most = math.nextafter(most, 0.0)
    if whole.max > 2**24:  # float32 would round the ends
        x = x.to(torch.float64)
    return x.clamp(max(ends[0], float(whole.min)), min(ends[1], most))


def _channels(numbers: float | list[float]) -> Tensor | float:
    return torch.tensor(numbers)[:, None, None] if isinstance(numbers, list) else numbers
