"""Reflow couplings, and how straight a model's flow is (Liu et al. 2022, arXiv:2209.03003, algorithm 1).

On any path, z = x / (alpha + sigma) follows a rectified flow's path of time tau = sigma / (alpha + sigma),

    z = (1 - tau) x_0 + tau eps,   dz / dtau = v = eps - D,   eps = (x - alpha D) / sigma

so models of all paths are measured alike. With the chord c = (z_1 - z_0) / (tau_1 - tau_0) of a trajectory:

    straightness    int |v - c|^2 dtau = kinetic energy - transport cost; 0 if and only if the trajectory is straight
    kinetic energy  int |v|^2 dtau
    transport cost  |c|^2 (tau_1 - tau_0), which tends to |eps - x_0|^2
    curvature       int |dv/dtau| dtau
    one-step error  |z_0 - (z_1 + (tau_0 - tau_1) v_1)|^2, of a single Euler step

per sample, by the trapezoidal rule over the plan's stages. Reflow trains a new velocity on straight lines between the
pairs, which raises no convex transport cost and, repeated, straightens (theorems 3.5 and 3.7).
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import PlanError
from steering.flow.invert import directed
from steering.numerics.noise import START, Draw, Noise
from steering.plans.plan import Node, Stage
from steering.sampling.rows import Rows
from steering.sampling.sampler import Guided, Problem, Report, Tilt, Tilting, evaluate, sample


@dataclass(frozen=True, eq=False)
class Coupling:
    """Pairs of noise and the data a flow makes of it, both [n, *event] and of unit scale, with what it took.

    `noise` is standard normal: the state at t_max over sigma(t_max). `data` is the state at t_min over alpha(t_min).
    """

    noise: Tensor
    data: Tensor
    straightness: Float64[Tensor, " n"]
    kinetic_energy: Float64[Tensor, " n"]
    transport_cost: Float64[Tensor, " n"]
    curvature: Float64[Tensor, " n"]
    one_step_error: Float64[Tensor, " n"]
    network_rows: int


def couple(problem: Problem, noise: Noise) -> Generator[Rows, Tensor, Coupling]:
    """Flow one noise per index of `noise` to data by the problem's deterministic plan; one row per sample more than it.

    Keeps the velocities of all stages until the end: for large sets, call it for some indices after others.
    """
    if problem.mean is not None:
        raise PlanError("mean: expected none, since straight lines to noise around 0 are measured, got one")
    plan = directed(problem.plan, reverse=False)
    watch = _Watch(replace(problem, plan=plan), {})
    data, report = yield from sample(watch.problem, noise, watch)
    first, last = plan.nodes[0], plan.nodes[-1]
    start = noise.normal(START, Draw.SOLVER, problem.event, problem.dtype)
    z_1 = (start * first.sigma).to(torch.float64).flatten(1) / (first.alpha + first.sigma)
    z_0 = data.to(torch.float64).flatten(1) / (last.alpha + last.sigma)
    taus, velocities = zip(*sorted(watch.velocities.items(), reverse=True), strict=True)
    span = taus[0] - taus[-1]
    chord = (z_1 - z_0) / span
    return Coupling(
        noise=start,
        data=data / last.alpha,
        straightness=_integral(taus, [_square(v - chord) for v in velocities]),
        kinetic_energy=_integral(taus, [_square(v) for v in velocities]),
        transport_cost=_square(chord) * span,
        curvature=sum(
            (_square(w - v).sqrt() for v, w in pairwise(velocities)), torch.zeros(len(data), dtype=torch.float64)
        ),
        one_step_error=_square(z_0 - (z_1 - span * velocities[0])),
        network_rows=report.network_rows,
    )


@dataclass(frozen=True, eq=False)
class _Watch(Tilting, Tilt):
    """Steers nothing: keeps the velocity at every tau, the last one where a plan corrects an estimate it made there."""

    problem: Problem
    velocities: dict[float, Float64[Tensor, "n d"]]

    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, "_Watch"]:
        """Implements `Tilting.prepare`."""
        yield from ()
        return self

    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        """Implements `Tilt.steer`."""
        yield from ()
        self._see(stage.update.at, x, denoised)
        return Guided(denoised)

    def finish(self, x: Tensor, report: Report) -> Generator[Rows, Tensor, None]:
        """Implements `Tilt.finish`: the velocity at the end of the path."""
        node = self.problem.plan.nodes[-1]  # with noise, see `directed`
        denoised = yield from evaluate(self.problem, self.problem.plan.denoise(node.t), x)
        self._see(node, x, denoised)

    def _see(self, node: Node, x: Tensor, denoised: Tensor) -> None:
        state, data = x.to(torch.float64).flatten(1), denoised.to(torch.float64).flatten(1)
        self.velocities[node.sigma / (node.alpha + node.sigma)] = (state - node.alpha * data) / node.sigma - data


def _square(v: Float64[Tensor, "n d"]) -> Float64[Tensor, " n"]:
    """|v|^2."""
    return (v * v).contiguous().sum(-1)


def _integral(taus: Sequence[float], values: Sequence[Float64[Tensor, " n"]]) -> Float64[Tensor, " n"]:
    """By the trapezoidal rule over descending taus."""
    total = torch.zeros_like(values[0])
    for (tau, value), (below, after) in pairwise(zip(taus, values, strict=True)):
        total = total + (tau - below) / 2 * (value + after)
    return total
