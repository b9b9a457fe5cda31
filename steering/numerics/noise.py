"""Counter-based noise: every number is a pure function of (seed, sample index, stage, draw, position).

Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A sample's noise does not depend on
its neighbours, on the order of calls, or on the batch it is drawn in.

Words are NumPy's: torch has no unsigned arithmetic, and takes four times as long over the few numbers of one sample.
"""

import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt32
from numpy.typing import NDArray
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
START = MASK  # the "stage" of draws made before the first stage

Words = UInt32[NDArray[np.uint32], "4 ..."]


class Draw(IntEnum):
    """What a draw is for; stages of a solver that need several use SOLVER, SOLVER + 1, ...

    Candidates for these are CANDIDATES, CANDIDATES + 1, ...
    """

    SOLVER = 0
    PARTICLES = 64
    NEIGHBOURS = 65
    REMAINDER = 66
    SELECT = 67
    CALIBRATION = 68
    PROBES = 69
    RESAMPLE = 80
    PICK = 81
    LOOK_AHEAD = 82
    BANK = 83
    DISTIL = 84
    JITTER = 85
    CANDIDATES = 90


def philox(counter: Words, seed: int) -> Words:
    """Four random 32-bit words [4, ...] for each counter [4, ...]; the seed's lower 64 bits are the key."""
    even, odd = counter[0::2], counter[1::2]
    multipliers, weyl = (np.array(each, np.uint64).reshape(2, *(1,) * (even.ndim - 1)) for each in (MULTIPLIERS, WEYL))
    key = np.array([seed & MASK, (seed >> 32) & MASK], np.uint64).reshape(weyl.shape)
    for _ in range(ROUNDS):
        product = even * multipliers
        high, low = (product >> 32).astype(np.uint32), product.astype(np.uint32)
        even, odd = high[::-1] ^ odd ^ key.astype(np.uint32), low[::-1]
        key = key + weyl
    return np.stack([even[0], odd[0], even[1], odd[1]])


def normals(words: Float64[Tensor, "n blocks 4"]) -> Float64[Tensor, "n count"]:
    """A standard normal number from each word, 4 of each block, by Box-Muller."""
    radius = torch.sqrt(-2 * torch.log((words[..., 0::2] + 1) * 2.0**-32))
    angle = words[..., 1::2] * (2 * math.pi * 2.0**-32)
    pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
    return pairs.flatten(1)


class Noise:
    """The noise of the samples `indices` of the request with this seed."""

    def __init__(self, seed: int, indices: Sequence[int] | range) -> None:
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"seed: expected an integer in 0..2^63-1, got {seed!r}")
        self.seed = seed
        self.indices: Int64[Tensor, " n"] = torch.tensor(list(indices), dtype=torch.int64)

    def __getitem__(self, rows: Tensor) -> "Noise":
        """The noise of some of the samples: `rows` is a mask or an index into them."""
        subset = Noise(self.seed, ())
        subset.indices = self.indices[rows]
        return subset

    def _words(self, stage: int, draw: int, count: int) -> Float64[Tensor, "n blocks 4"]:
        blocks = -(-count // 4)
        counter = np.empty((4, len(self.indices), blocks), np.uint32)
        counter[0], counter[1], counter[2] = np.arange(blocks, dtype=np.uint32), draw & MASK, stage & MASK
        counter[3] = self.indices.numpy().astype(np.uint32)[:, None]
        return torch.from_numpy(np.moveaxis(philox(counter, self.seed), 0, -1).astype(np.float64, order="C"))

    def uniform(self, stage: int, draw: int, count: int) -> Float64[Tensor, "n count"]:
        """`count` uniform numbers in (0, 1) per sample."""
        words = self._words(stage, draw, count).flatten(1)[:, :count]
        return (words + 0.5) * 2.0**-32

    def normal(self, stage: int, draw: int, shape: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Standard normal [n, *shape], made in float64 by Box-Muller and then rounded to `dtype`."""
        count = math.prod(shape)
        return normals(self._words(stage, draw, count))[:, :count].reshape(-1, *shape).to(dtype)
