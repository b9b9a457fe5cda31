"""Interpolation between samples through their noises (Song et al. 2021, arXiv:2010.02502, section 5.3).

Both samples are encoded by a deterministic plan, their noises joined by the great circle

    z_w = (sin((1 - w) a) z_0 + sin(w a) z_1) / sin a,   cos a = <z_0, z_1> / (|z_0| |z_1|)   (appendix D.5)

and decoded again. In high dimensions noise lies near a sphere, which a straight line would leave.
"""

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from steering.flow.invert import decode, encode
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem

PARALLEL = 1e-4
"""Sine of the angle under which a great circle is a straight line up to its square, or is none: opposites have many."""


def interpolate(
    problem: Problem, first: Tensor, second: Tensor, weights: Sequence[float]
) -> Generator[Rows, Tensor, Tensor]:
    """What lies between `first` and `second` [n, *event] at the given weights: [len(weights), n, *event].

    Weight 0 gives `first` and weight 1 `second`, each up to the error of its round trip. The problem's plan is a
    deterministic one, its conditions hold for both ends and all that is between them.
    """
    if first.shape != second.shape:
        raise ValueError(f"expected two tensors of one shape, got {list(first.shape)} and {list(second.shape)}")
    z_0 = yield from encode(problem, first)
    z_1 = yield from encode(problem, second)
    mean = torch.zeros_like(z_0) if problem.mean is None else problem.mean
    between = [mean + spherical(z_0 - mean, z_1 - mean, weight) for weight in weights]
    k = len(between)
    x = yield from decode(problem.repeated(k), torch.cat(between))
    return x.reshape(k, *first.shape)


def spherical(z_0: Tensor, z_1: Tensor, weight: float) -> Tensor:
    """The point at `weight` of the great circle from z_0 to z_1, both [n, *event]."""
    a, b = (z.to(torch.float64).flatten(1).contiguous() for z in (z_0, z_1))
    lengths = torch.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    angle = torch.acos(((a * b).sum(-1) / lengths.clamp(min=torch.finfo(torch.float64).tiny)).clamp(-1, 1))
    straight = torch.sin(angle) < PARALLEL
    safe = torch.where(straight, 1.0, angle)
    left = torch.where(straight, 1 - weight, torch.sin((1 - weight) * safe) / torch.sin(safe))
    right = torch.where(straight, weight, torch.sin(weight * safe) / torch.sin(safe))
    return (left[:, None] * a + right[:, None] * b).reshape(z_0.shape).to(z_0.dtype)
