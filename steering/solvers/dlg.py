"""Denoising Langevin Gibbs (Kim & Ye 2022, arXiv:2209.14593): a chain over states and noise levels, then a short run.

    Langevin    y <- y + k (a D - y) + sqrt(2 k) s z,   k = 2 snr^2,   at the level lambda
    Gibbs       lambda' ~ p(lambda | y or the flow through y)
    at the end  the probability flow from the level reached down to the data

on the joint law p(lambda) p_lambda(y), with p(lambda) uniform over the log-SNR: the paper's geometric levels. y, a, s
are those of `levels`. The paper draws lambda given x by a classifier of noise levels, which a denoiser does not come
with; taking its most likely level, as the paper's code does, keeps no law. Two draws do:

- Along the flow (the default). Where the flow through (y, lambda) began is independent of lambda, since it carries
  p_lambda into p_lambda': given that trajectory, lambda is uniform. A reflected random walk of lambda keeps this law,
  and y moves along: one step of DPM-Solver-2, two rows. The marginal of lambda is exact whatever the network; y given
  lambda is, up to the error of the flow's steps and of Langevin's, O(snr^2).
- Given the point, for laws whose density is known: the paper's conditional over LEVELS levels, drawn exactly.

The chain begins in its own law: lambda is drawn first, and the flow takes the noise there. `steps` are sweeps; the
order is that of the flow's own steps.
"""

from collections.abc import Callable, Generator, Mapping

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.numerics.noise import START, Draw, Noise
from steering.numerics.weights import draw_indices
from steering.plans.plan import Option, Solver
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem
from steering.solvers.dpm_solver_adaptive import attempt_12
from steering.solvers.levels import NoiseLevel, along

LEVELS = 1000
LEVEL = Draw.SOLVER + 1

LogDensity = Callable[[Tensor, Tensor], Float64[Tensor, "n k"]]
"""log density of x_0 + rho eps at points [n, *event] for noise levels rho [k]."""

State = tuple[Tensor, Float64[Tensor, " n"]]
"""States y [n, *event] and their log-SNRs [n]."""

OPTIONS = {
    "snr": Option("signal-to-noise ratio of a Langevin move", 0.16, 0.0, 0.7),
    "move": Option("standard deviation of the log-SNR's move in a sweep", 0.5, 0.0, 10.0),
    "denoise": Option("steps of the run to the first level, and of the last run", 10, 1, 1000, whole=True),
}


def rows(steps: int, options: Mapping[str, float]) -> int:
    return 3 * steps + 2 * 2 * int(options["denoise"])


def draw(
    problem: Problem, noise: Noise, x: Tensor, log_density: LogDensity | None = None
) -> Generator[Rows, Tensor, Tensor]:
    """From the first state x [n, *event] to the data, by way of the chain."""
    plan = problem.plan
    steps = int(dict(plan.options)["denoise"])
    low, high = (torch.full((len(x),), node.log_snr, dtype=torch.float64) for node in (plan.nodes[0], plan.nodes[-1]))
    level = low + (high - low) * noise.uniform(START, LEVEL, 1)[:, 0]
    y = yield from flow(problem, x / along(NoiseLevel(low).size(problem), x), low, level, steps)
    y, level = yield from chain(problem, noise, (y, level), log_density)
    y = yield from flow(problem, y, level, high, steps)
    return y * along(NoiseLevel(high).size(problem), y)


def chain(
    problem: Problem, noise: Noise, state: State, log_density: LogDensity | None = None
) -> Generator[Rows, Tensor, State]:
    """As many sweeps as the plan has steps."""
    plan, (y, level) = problem.plan, state
    options = dict(plan.options)
    low, high, k = plan.nodes[0].log_snr, plan.nodes[-1].log_snr, 2 * options["snr"] ** 2
    grid = torch.linspace(low, high, LEVELS, dtype=torch.float64)
    for sweep in range(plan.steps):
        at = NoiseLevel(level)
        denoised = yield from at.denoised(problem, y)
        z = noise.normal(sweep, Draw.SOLVER, problem.event, problem.dtype)
        y = y + (along(at.alpha, y) * denoised - y) * k + along(at.sigma, y) * z * (2 * k) ** 0.5
        if log_density is None:
            walked = level + options["move"] * noise.normal(sweep, LEVEL, (), torch.float64)
            moved = reflected(walked, low, high)
            y = yield from flow(problem, y, level, moved, 1)
        else:
            point = y / along(at.alpha, y)
            moved = grid[categorical(log_density(point, torch.exp(-grid)), noise.uniform(sweep, LEVEL, 1))]
            y = point * along(NoiseLevel(moved).alpha, y)
        level = moved
    return y, level


def flow(problem: Problem, y: Tensor, s: Tensor, t: Tensor, steps: int) -> Generator[Rows, Tensor, Tensor]:
    """The probability flow from log-SNRs s to t [n] by DPM-Solver-2, in either direction."""
    for step in range(steps):
        start, end = s + (t - s) * (step / steps), s + (t - s) * ((step + 1) / steps)
        eps = yield from NoiseLevel(start).eps(problem, y)
        y, _, _ = yield from attempt_12(problem, y, eps, start, end)
    return y


def reflected(level: Tensor, low: float, high: float) -> Tensor:
    """Folded back into low..high, as by mirrors at both ends."""
    width = high - low
    offset = torch.remainder(level - low, 2 * width)
    return low + width - (offset - width).abs()


def categorical(log_weights: Float64[Tensor, "n k"], uniform: Float64[Tensor, "n 1"]) -> Tensor:
    """Indices [n], drawn by the inverse of the distribution function."""
    return draw_indices(torch.softmax(log_weights, dim=1), uniform)[:, 0]


SOLVER = Solver(
    name="dlg",
    order=2,
    rows_per_step=3,
    reference="Kim & Ye 2022, arXiv:2209.14593",
    default_grid="logsnr",
    direct=draw,
    uses_noise=True,
    options=OPTIONS,
    rows=rows,
)
