"""Pictures that a request begins with: to change them, or to fill in a part of them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from serving.backends import Array
from serving.models.pipeline import CHANNELS
from serving.wire import errors
from serving.wire.parameters import IMAGE, MASK
from serving.wire.tensors import named

ANEW = 128
"""From this number of a mask on a place is drawn anew."""


@dataclass(frozen=True)
class Beginning:
    """Pictures uint8 [n, height, width, 3], or [1, ...] for all samples; masks [n, 1, height, width], or [1, ...], true
    where they are drawn anew; None for none."""

    pictures: Array
    mask: Tensor | None

    @property
    def different(self) -> int:
        """How many there are; 1 for all samples."""
        return len(self.pictures) if self.mask is None else max(len(self.pictures), len(self.mask))

    def digests(self) -> list[str]:
        """What tells each picture with its mask from others."""
        parts = [self.pictures] if self.mask is None else [self.pictures, self.mask.numpy()]
        told = [[hashlib.sha256(each.tobytes()).hexdigest() for each in part] for part in parts]
        return ["+".join(each[i % len(each)] for each in told) for i in range(self.different)]

    def grey(self, rows: slice) -> Array:
        """Some of the pictures, float32, grey where they are drawn anew."""
        pictures = self.pictures if len(self.pictures) == 1 else self.pictures[rows]
        if self.mask is None:
            return pictures.astype(np.float32)
        there = (self.mask if len(self.mask) == 1 else self.mask[rows]).permute(0, 2, 3, 1).numpy()
        return np.where(there, np.float32(127.5), pictures)  # 127.5, which stands for 0, is no whole number

    def nearest(self, size: tuple[int, ...]) -> Tensor:
        """The masks float32 [n, 1, *size], 1 where a place is drawn anew, as the nearest pixel has it: so samplers that
        fill in were trained."""
        assert self.mask is not None
        return functional.interpolate(self.mask.to(torch.float32), size)

    def kept(self, event: tuple[int, ...]) -> Tensor:
        """The places [*event] of latents none of whose pixels is drawn anew; there must be one mask."""
        assert self.mask is not None
        anew = functional.adaptive_max_pool2d(self.mask.to(torch.float32), event[1:])
        return (anew[0] == 0).expand(event)


def beginning_of(inputs: Mapping[str, Array], picture: tuple[int, ...], n: int) -> Beginning | None:
    """The pictures of a request for n samples; None for none.

    Raises:
        RequestError: INVALID_ARGUMENT, naming the input, what was expected and what came.
    """
    if (pictures := inputs.get(IMAGE)) is None:
        if MASK in inputs:
            raise errors.invalid(f"input {MASK!r}: expected an input {IMAGE} beside it, got none")
        return None
    _, *size = picture
    _check(IMAGE, pictures, (*size, CHANNELS), n)
    if (mask := inputs.get(MASK)) is None:
        return Beginning(pictures, None)
    _check(MASK, mask, tuple(size), n)
    return Beginning(pictures, torch.from_numpy(mask)[:, None] >= ANEW)


def _check(name: str, value: Array, row: tuple[int, ...], n: int) -> None:
    if value.dtype != np.uint8 or value.ndim != 1 + len(row) or value.shape[1:] != row or len(value) not in (1, n):
        shapes = " or ".join(dict.fromkeys(str([rows, *row]) for rows in (n, 1)))
        raise errors.invalid(f"input {name!r}: expected UINT8 {shapes}, got {named(value.dtype)} {list(value.shape)}")
