"""The dimension of the data around a sample (Stanczuk et al. 2022, arXiv:2212.12611, algorithm 1).

Near data of dimension m in d dimensions and at small noise, the score points back to them: scores at x_0's noised
copies fill the d - m normal directions, and the rest are small. The number of large singular values is d - m.

The noises are sqrt(d) times the plus and minus unit vectors of a random basis: of the right length and exactly white,
so that the singular values, of eps_hat = -sigma S against eps, are 1 in normal directions with no scatter of their own.
For a Gaussian they are sigma^2 / (sigma^2 + alpha^2 c), c the eigenvalues of its covariance.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from steering.diagnostics import field
from steering.numerics.noise import START, Draw, Noise
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem


@dataclass(frozen=True, eq=False)
class IntrinsicDimension:
    """One row a sample.

    Attributes:
        dimension: [n] d less the singular values before the largest gap, those of 1 and 0 added at the ends.
        effective: [n] d - sum s, which counts every direction by the share of the noise that is taken for data.
        spectrum: [n, d] singular values, falling.
    """

    t: float
    dimension: Int64[Tensor, " n"]
    effective: Float64[Tensor, " n"]
    spectrum: Float64[Tensor, "n d"]


def intrinsic_dimension(
    problem: Problem, data: Tensor, noise: Noise, t: float
) -> Generator[Rows, Tensor, IntrinsicDimension]:
    """Around each of the data, 2 d rows a sample; t small."""
    at = field.node_at(problem, t)
    clean = at.alpha * field.flat(problem, data)
    n, d = clean.shape
    basis = torch.linalg.qr(noise.normal(START, Draw.PROBES, (d, d))).Q.movedim(1, 0)
    step = at.sigma * math.sqrt(d)
    ahead, behind = (
        yield from field.score(problem, torch.cat([clean + step * basis, clean - step * basis]), at)
    ).chunk(2)
    response = (behind - ahead) * (at.sigma / (2 * math.sqrt(d)))
    spectrum = torch.linalg.svdvals(response.movedim(1, 0))
    ends = torch.ones(n, 1, dtype=torch.float64), torch.zeros(n, 1, dtype=torch.float64)
    gaps = torch.cat([ends[0], spectrum.clamp(max=1), ends[1]], dim=1).diff(dim=1).neg()
    return IntrinsicDimension(t, d - gaps.argmax(dim=1), d - spectrum.sum(dim=1), spectrum)
