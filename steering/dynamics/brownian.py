"""Brownian paths as functions of time: W(t) depends on (seed, index, t), not on which other times are asked for.

A virtual Brownian tree (Li, Wong, Chen & Duvenaud 2020, "Scalable gradients for stochastic differential equations",
section 4): W at the middle of a dyadic interval is the mean of W at its ends plus a normal number, a bridge, whose
counter is the middle itself, by its 64 bits. So solvers of any step, on any grid, in either direction, follow one path.

The first interval around t is its octave, [2^k, 2^(k+1)], or its mirror image; W(0) = 0, and increments over octaves
are independent. Halving ends at *leaves*, intervals 2^-`DEPTH` as long as the trajectory's span, or up to twice that.
In a leaf, W is the straight line between its ends plus one normal number times the bridge's standard deviation at t:
increments have their exact joint law as long as no two times lie inside one leaf, which grids of up to 2^17 equal steps
keep to. A leaf's length is the one thing that depends on the span: trajectories of one seed and index over spans of
other length follow the same path up to what is between two nodes of the coarser tree.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from steering.errors import PlanError
from steering.numerics.noise import MASK, normals, philox

DEPTH = 18
"""Halvings of a trajectory's span, down to its leaves."""
LATEST = 2.0**1000
"""Times are at most this, and leaves no shorter than its inverse."""
_PRECISION = 50  # bits of a time that a leaf's middle may need: a float64 has 53
_BROWNIAN = np.uint32(0x80000000)  # in the counter's first word, the number of a block: other draws have fewer blocks
_CHUNK = 2**17  # numbers that are made at once: they fit the processor's cache

_KEPT = 2**22  # numbers at ends of octaves that are kept, else they are made again

Reals = NDArray[np.float64]


class BrownianPaths:
    """The paths of n trajectories, `size` independent numbers each.

    paths = BrownianPaths(seed, range(8), 3, torch.zeros(8), torch.ones(8))
    steps = paths.increments(torch.arange(8), torch.linspace(0, 1, 101).expand(8, -1))     # [8, 100, 3]
    """

    def __init__(self, seed: int, indices: Sequence[int] | Tensor, size: int, start: Tensor, end: Tensor) -> None:
        """Paths for times between `start` and `end` [n], of which either may be the earlier.

        Raises:
            PlanError: a time beyond `LATEST`.
        """
        self.seed, self.size = seed, size
        self._indices = torch.as_tensor(indices, dtype=torch.int64).numpy().astype(np.uint32)
        first, last = start.to(torch.float64).numpy(), end.to(torch.float64).numpy()
        farthest = np.maximum(np.abs(first), np.abs(last))
        if bool((farthest > LATEST).any()):
            raise PlanError(f"t_eval: expected times of at most 2^1000 beside noise, got {farthest.max():g}")
        span, top = _exponent(np.abs(last - first)), _exponent(farthest)
        self._leaf = np.maximum(np.maximum(span - DEPTH, top - _PRECISION), -1000)
        self._octaves = max(2, int((top - self._leaf).max(initial=0)) + 2)
        self._ends: dict[float, Reals] = {}

    def at(self, rows: Int64[Tensor, " m"], t: Float64[Tensor, "m s"]) -> Float64[Tensor, "m s size"]:
        """W at some times of some of the trajectories. Times in order share most of their work."""
        which, times = rows.numpy(), t.to(torch.float64).numpy()
        out = np.empty((*times.shape, self.size))
        budget = _CHUNK // (DEPTH + 1)
        numbers = min(self.size, budget & ~3)  # blocks have 4 numbers
        for first in range(0, self.size, numbers):
            part = range(first, min(first + numbers, self.size))
            some = max(1, budget // len(part))
            for start in range(0, len(which), some):
                here = slice(start, start + some)
                chunk = max(1, budget // (len(which[here]) * len(part)))
                for begin in range(0, times.shape[1], chunk):
                    now = slice(begin, begin + chunk)
                    out[here, now, first : part.stop] = self._values(which[here], times[here, now], part)
        return torch.from_numpy(out)

    def increments(self, rows: Int64[Tensor, " m"], t: Float64[Tensor, "m s"]) -> Float64[Tensor, "m s-1 size"]:
        """W(t[:, k + 1]) - W(t[:, k])."""
        return self.at(rows, t).diff(dim=1)

    def _values(self, rows: NDArray[np.int64], t: Reals, part: range) -> Reals:
        """W [m, s, len(part)] of these of its numbers."""
        leaf = self._leaf[rows][:, None]
        distance = np.abs(t)
        octave = _exponent(distance)
        inner = octave < leaf  # nearer to 0 than a leaf is long: the leaf beside 0
        side = np.where(t < 0, -1.0, 1.0)
        low, high = self._octave(rows, side, np.where(inner, 0, octave - leaf + 1), part)

        levels = int((octave - leaf).max(initial=0)) + 1
        widths = leaf[..., None] + np.arange(levels - 1, -1, -1)  # exponents [m, 1, levels], the leaf's last
        cells = np.floor(np.ldexp(distance[..., None], -widths))
        middles = side[..., None] * np.ldexp(cells + 0.5, widths)
        used = (widths <= octave[..., None]) | (np.arange(levels) == levels - 1)
        numbers, where = self._normals(rows, middles, used, part)
        for level in range(levels - 1):
            width, inside = widths[..., level], used[..., level, None]
            middle = (low + high) / 2 + np.sqrt(np.ldexp(1.0, width - 2))[..., None] * numbers[where[..., level]]
            left = (distance < np.abs(middles[..., level]))[..., None]
            low, high = np.where(inside & ~left, middle, low), np.where(inside & left, middle, high)
        share = np.ldexp(distance, -leaf) - cells[..., -1]
        spread = np.sqrt(share * (1 - share) * np.ldexp(1.0, leaf))
        return low + share[..., None] * (high - low) + spread[..., None] * numbers[where[..., -1]]

    def _normals(
        self, rows: NDArray[np.int64], middles: Reals, used: NDArray[np.bool_], part: range
    ) -> tuple[Reals, NDArray[np.int64]]:
        """Normal numbers [k, size], each made once, and which of them belongs to each place of `middles` [m, s, l]."""
        new = used.copy()
        new[:, 1:] &= (middles[:, 1:] != middles[:, :-1]) | ~used[:, :-1]
        by_level = np.ascontiguousarray(new.transpose(0, 2, 1))  # so that a place has the last number made before it
        where = np.maximum(np.cumsum(by_level.ravel()) - 1, 0).reshape(by_level.shape).transpose(0, 2, 1)
        row, level, step = by_level.nonzero()
        return self._drawn(rows[row], middles[row, step, level], part), where

    def _drawn(self, rows: NDArray[np.int64], keys: Reals, part: range) -> Reals:
        """Standard normal [k, len(part)] of the times `keys` [k] of trajectories `rows` [k]."""
        bits = np.ascontiguousarray(keys).view(np.uint64)
        blocks = np.arange(part.start // 4, -(-part.stop // 4), dtype=np.uint32)
        counter = np.empty((4, len(keys), len(blocks)), np.uint32)
        counter[0] = blocks | _BROWNIAN
        counter[1] = (bits >> np.uint64(32)).astype(np.uint32)[:, None]
        counter[2] = (bits & np.uint64(MASK)).astype(np.uint32)[:, None]
        counter[3] = self._indices[rows][:, None]
        words = np.moveaxis(philox(counter, self.seed), 0, -1).astype(np.float64, order="C")
        return normals(torch.from_numpy(words))[:, : len(part)].numpy()

    def _octave(
        self, rows: NDArray[np.int64], side: Reals, number: NDArray[np.int64], part: range
    ) -> tuple[Reals, Reals]:
        """W at the ends of interval `number`: 0 is from 0 to a leaf's length, k from 2^(k - 1) to 2^k lengths."""
        low = np.empty((*number.shape, len(part)))
        high = np.empty_like(low)
        for sign in (1.0, -1.0):
            here, step = (side == sign).nonzero()
            if len(here):
                ends = self._ends_of(sign, rows, part)
                low[here, step] = ends[here, number[here, step]]
                high[here, step] = ends[here, number[here, step] + 1]
        return low, high

    def _ends_of(self, sign: float, rows: NDArray[np.int64], part: range) -> Reals:
        """W at 0 and at 2^k leaves' lengths on one side of 0, [m, octaves + 1, len(part)]."""
        if len(self._leaf) * (self._octaves + 1) * self.size > _KEPT:
            return self._made_ends(sign, rows, part)
        if sign not in self._ends:
            self._ends[sign] = self._made_ends(sign, np.arange(len(self._leaf)), range(self.size))
        return self._ends[sign][rows, :, part.start : part.stop]

    def _made_ends(self, sign: float, rows: NDArray[np.int64], part: range) -> Reals:
        exponents = self._leaf[rows, None] + np.arange(self._octaves)
        keys, which = sign * np.ldexp(1.0, exponents), np.repeat(rows, self._octaves)
        drawn = self._drawn(which, keys.ravel(), part).reshape(len(rows), self._octaves, len(part))
        lengths = np.ldexp(1.0, np.maximum(exponents - 1, self._leaf[rows, None]))
        ends = np.zeros((len(rows), self._octaves + 1, len(part)))
        np.cumsum(np.sqrt(lengths)[..., None] * drawn, axis=1, out=ends[:, 1:])
        return ends


def _exponent(x: Reals) -> NDArray[np.int64]:
    """floor(log2 x), and the smallest there is of 0."""
    exponent = np.frexp(x)[1].astype(np.int64) - 1
    return np.where(x == 0, -2000, exponent)
