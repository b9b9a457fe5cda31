"""Counter-based noise: every number is a pure function of (seed, sample index, stage, draw, position).

Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") on int64 tensors. A sample's noise
does not depend on its neighbours, on the order of calls, or on the batch it is drawn in.
"""

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
START = MASK  # the "stage" of draws made before the first stage

Word = Int64[Tensor, "..."]


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
    CANDIDATES = 90


def philox(counter: tuple[Word, Word, Word, Word], seed: int) -> tuple[Word, Word, Word, Word]:
    """Four random 32-bit words per counter; counters and words are int64 tensors with values in [0, 2^32)."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & MASK, (seed >> 32) & MASK
    for _ in range(ROUNDS):
        # the product wraps modulo 2^64, which leaves its 64 bits, and so both halves, intact
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & MASK) ^ c1 ^ k0, p1 & MASK, ((p0 >> 32) & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


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

    def _words(self, stage: int, draw: int, count: int) -> Int64[Tensor, "n blocks 4"]:
        blocks = torch.arange(-(-count // 4), dtype=torch.int64)
        c0, c3 = torch.broadcast_tensors(blocks[None, :], self.indices[:, None])
        c1, c2 = torch.full_like(c0, draw & MASK), torch.full_like(c0, stage & MASK)
        return torch.stack(philox((c0.contiguous(), c1, c2, c3.contiguous()), self.seed), dim=-1)

    def uniform(self, stage: int, draw: int, count: int) -> Float64[Tensor, "n count"]:
        """`count` uniform numbers in (0, 1) per sample."""
        words = self._words(stage, draw, count).flatten(1)[:, :count]
        return (words.to(torch.float64) + 0.5) * 2.0**-32

    def normal(self, stage: int, draw: int, shape: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
        """Standard normal [n, *shape], made in float64 by Box-Muller and then rounded to `dtype`."""
        count = math.prod(shape)
        words = self._words(stage, draw, count).to(torch.float64)
        radius = torch.sqrt(-2 * torch.log((words[..., 0::2] + 1) * 2.0**-32))
        angle = words[..., 1::2] * (2 * math.pi * 2.0**-32)
        pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
        return pairs.flatten(1)[:, :count].reshape(-1, *shape).to(dtype)
