"""The model's field at many points: D and the score S = (alpha D - x) / sigma^2, in float64.

Points are [k, n, d]: k of them for each of the n samples, flat. Networks of float32 are asked at rounded points, and S
belongs to these: differences of S then carry the network's rounding and none of the points'.
"""

from collections.abc import Generator

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.numerics.noise import START, Draw, Noise
from steering.plans.plan import Node, nodes_at
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, evaluate

REFUSED = (torch.float16, torch.bfloat16)
Points = Float64[Tensor, "k n d"]


def node_at(problem: Problem, t: float) -> Node:
    """The path's scalars at a time inside the plan's range."""
    low, high = sorted((problem.plan.nodes[0].t, problem.plan.nodes[-1].t))
    if not low <= t <= high:
        raise ValueError(f"t: expected a time in {low:g}..{high:g}, the range of the plan, got {t:g}")
    if problem.dtype in REFUSED:
        raise ValueError(f"dtype: expected float32 or float64, which resolve differences, got {problem.dtype}")
    return nodes_at(problem.plan.path, torch.tensor([t], dtype=torch.float64))[0]


def noised(problem: Problem, data: Tensor, noise: Noise, at: Node) -> Float64[Tensor, "n d"]:
    """States alpha x_0 + sigma eps of the data [n, *event]; the same eps at every level."""
    clean = flat(problem, data)
    return at.alpha * clean + at.sigma * noise.normal(START, Draw.CALIBRATION, clean.shape[1:])


def flat(problem: Problem, data: Tensor) -> Float64[Tensor, "n d"]:
    """Data as the path's own: flat, and less the mean that a mean-reverting process reverts to."""
    if tuple(data.shape[1:]) != problem.event:
        raise ValueError(f"data: expected shape [n, {', '.join(map(str, problem.event))}], got {list(data.shape)}")
    whole = data.to(torch.float64)
    return (whole if problem.mean is None else whole - problem.mean).flatten(1)


def directions(noise: Noise, d: int, probes: int) -> Points:
    """For each sample, `probes` vectors of random signs, E[v v'] = 1; all unit vectors instead where d is no more."""
    n = len(noise.indices)
    if d <= probes:
        return torch.eye(d, dtype=torch.float64)[:, None].expand(d, n, d)
    signs = noise.uniform(START, Draw.PROBES, probes * d).reshape(n, probes, d) < 0.5
    return torch.where(signs, -1.0, 1.0).to(torch.float64).movedim(1, 0)


def reach(problem: Problem, root: int) -> float:
    """Half the width of a central difference in units of sigma, eps^(1 / root).

    Rounding and truncation errors are alike for roots 3 and 4, in first and in second differences.
    """
    return float(torch.finfo(problem.dtype).eps ** (1 / root))


def denoised(problem: Problem, points: Points, t: float) -> Generator[Rows, Tensor, Points]:
    """D at points that the problem's dtype holds, see `rounded`."""
    k, n, d = points.shape
    x = points.reshape(k * n, *problem.event).to(problem.dtype)
    found = yield from evaluate(problem.repeated(k), problem.plan.denoise(t), x)
    return found.to(torch.float64).reshape(k, n, d)


def score(problem: Problem, points: Points, at: Node) -> Generator[Rows, Tensor, Points]:
    """S at the nearest points that the problem's dtype holds."""
    held = rounded(problem, points)
    found = yield from denoised(problem, held, at.t)
    return (at.alpha * found - held) / at.sigma**2


def rounded(problem: Problem, points: Points) -> Points:
    """The nearest numbers the problem's dtype holds."""
    return points.to(problem.dtype).to(torch.float64)
