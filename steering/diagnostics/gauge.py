"""The gauge part of a score: what rotates samples along the density and leaves the density alone.

A field w with div(p w) = 0 can be added to the true score without changing what the probability flow or the reverse
SDE draw (Horvat & Pfister 2024, arXiv:2402.03845): the score is then no gradient, and no worse a sampler.

The error S - grad log p of a served score can't be seen point by point, but it can be averaged: E[-eps / sigma | x] is
grad log p for states x = alpha x_0 + sigma eps, so for any field b

    E[(S - grad log p) . b(x)] = E[(S + eps / sigma) . b(x)]

Linear b give the matrix N = E[(S + eps / sigma) (x - m)']. Partial integration against p gives E[w . grad phi] = 0 for
every phi and gauge part w; with quadratic phi, the symmetric part of w's own N is zero. Hence N's

    symmetric part       no gauge part has one: a wrong spread or shear of the density
    antisymmetric part   a rotation. N C^-1 x, with C the covariance of x, is a gauge field of N(m, C)

Both are reported over |E[S (x - m)']|_F = |1|_F = sqrt(d). What is not linear, such as rotations in opposite senses in
two modes, averages out: the gauge part is at least what is found, and `conservativity` bounds it from the other side.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.diagnostics import field
from steering.numerics.noise import Noise
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem


@dataclass(frozen=True)
class Gauge:
    """Linear parts of a score's error, over the linear part of the score.

    Attributes:
        rotation: the antisymmetric part, which leaves a Gaussian's density alone.
        strain: the symmetric part, which does not.
        floor: what either would not exceed in 19 of 20 runs, were it zero.
    """

    t: float
    rotation: float
    strain: float
    floor: float


def gauge(problem: Problem, data: Tensor, noise: Noise, t: float) -> Generator[Rows, Tensor, Gauge]:
    """The error against the law of the data, which are samples of it; one row a sample.

    |N|_F^2 and tr N^2 are averages over pairs of different samples, unbiased at any number of them.
    """
    n = len(data)
    if n < 3:
        raise ValueError(f"data: expected 3 samples or more, got {n}")
    at = field.node_at(problem, t)
    x = field.noised(problem, data, noise, at)
    clean = field.flat(problem, data)
    (found,) = yield from field.score(problem, x[None], at)
    error = found + (x - at.alpha * clean) / at.sigma**2
    centred = x - x.mean(0)
    mixed = error @ centred.T
    whole, turned = (error @ error.T) * (centred @ centred.T), mixed * mixed.T
    d, pairs = x.shape[1], n * (n - 1)
    kernels = [(part - torch.diag(part.diag())) / 2 for part in (whole - turned, whole + turned)]
    rotation, strain = (math.sqrt(max(float(kernel.sum()) / pairs / d, 0.0)) for kernel in kernels)
    # were E[error | x] zero, the signs of the errors could be drawn anew: this is the scatter it would make
    scatter = max(math.sqrt(2 * float(kernel.square().sum())) / pairs / d for kernel in kernels)
    return Gauge(t, rotation, strain, math.sqrt(1.645 * scatter))
