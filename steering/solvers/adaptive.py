"""Adaptive steps: each sample chooses its own, from the difference of two estimates of a step's end.

    E = rms(error / max(atol, rtol max(|y_s|, |y_t|))),   the step is kept where E <= 1
    next step = step * clip(theta E^(-1/q), 0.2, 10),     q: the order of the better estimate, which goes on

(Hairer, Norsett & Wanner 1993, section II.4; the scale is that of DPM-Solver's appendix C, arXiv:2206.00927). All
samples that are not there yet try a step at once, each at its own time, and those that are ask for no more rows.
`steps` is the first trial step: that part of the range. The states are those of `levels`, so tolerances mean the same
on every path.
"""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import BudgetError
from steering.numerics.noise import Noise
from steering.numerics.tiles import by_tiles
from steering.plans.plan import Option
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem
from steering.solvers.levels import NoiseLevel, along

SHRINK, GROW = 0.2, 10.0

Times = Float64[Tensor, " n"]
Trial = tuple[Tensor, Tensor, Tensor | None]
"""The state at a step's end, its error, and the slope there if the method knows it."""


def options(rtol: float, atol: float) -> Mapping[str, Option]:
    return {
        "rtol": Option("error of a step allowed, relative to the state", rtol, 1e-12, 1.0),
        "atol": Option("error of a step allowed, where data and noise are of size 1", atol, 1e-12, 1.0),
        "theta": Option("safety factor of the next step", 0.9, 0.1, 1.0),
        "budget": Option("network rows a sample may take; more is an error", 1000, 1, 10_000, whole=True),
    }


@dataclass(frozen=True)
class Pair:
    """An embedded pair of methods in some variable tau.

    Attributes:
        order: of the better estimate.
        rows: network evaluations of an attempt.
        tau: tau of log-SNRs; `level` is its inverse.
        slope: what a step needs of the network at its start (problem, tau, y), kept when the step is tried again.
        attempt: (problem, y, slope, tau_s, tau_t) to a trial.
    """

    order: int
    rows: int
    tau: Callable[[Tensor], Times]
    level: Callable[[Times], NoiseLevel]
    slope: Callable[[Problem, Times, Tensor], Generator[Rows, Tensor, Tensor]]
    attempt: Callable[[Problem, Tensor, Tensor, Times, Times], Generator[Rows, Tensor, Trial]]

    def draw(self, problem: Problem, noise: Noise, x: Tensor) -> Generator[Rows, Tensor, Tensor]:
        """From the first state x [n, *event] to the last."""
        plan = problem.plan
        chosen = dict(plan.options)
        ends = torch.tensor([plan.nodes[0].log_snr, plan.nodes[-1].log_snr], dtype=torch.float64)
        first, last = self.tau(ends)
        tau = first.repeat(len(x))
        step = (last - first).repeat(len(x)) / plan.steps
        y = x / along(self.level(tau).size(problem), x)
        slope = yield from self.slope(problem, tau, y)
        spent = torch.ones_like(tau)
        active = torch.arange(len(x))
        while len(active):
            spent[active] += self.rows
            if bool((spent[active] > chosen["budget"]).any()):
                i = int(active[spent[active] > chosen["budget"]][0])
                raise BudgetError(_exhausted(problem, noise, i, float(self.level(tau).log_snr[i])))
            s, h = tau[active], step[active]
            arrives = (s + h - last) * h.sign() >= 0
            t = torch.where(arrives, last, s + h)
            part = problem.rows(active)
            after, error, slope_after = yield from self.attempt(part, y[active], slope[active], s, t)
            allowed = (chosen["rtol"] * torch.maximum(y[active].abs(), after.abs())).clamp(min=chosen["atol"])
            ratio = rms(error / allowed).nan_to_num(nan=math.inf)
            kept = ratio <= 1
            step[active] = (t - s) * (chosen["theta"] * torch.exp(-torch.log(ratio) / self.order)).clamp(SHRINK, GROW)
            moved, going = active[kept], kept & ~arrives
            tau[moved], y[moved] = t[kept], after[kept]
            on = active[going]
            if slope_after is not None:
                slope[on] = slope_after[going]
            elif len(on):
                slope[on] = yield from self.slope(problem.rows(on), tau[on], y[on])
                spent[on] += 1
            active = active[~(kept & arrives)]
        return y * along(self.level(tau).size(problem), y)


def rms(error: Tensor) -> Float64[Tensor, " n"]:
    """Root mean square over each sample [n, *event], with the same bits in any batch."""
    squares = error.flatten(1).to(torch.float64).square()
    return by_tiles(lambda tile: (tile.mean(dim=1),), squares)[0].sqrt()


def _exhausted(problem: Problem, noise: Noise, i: int, log_snr: float) -> str:
    plan, sample = problem.plan, int(noise.indices[i])
    budget, rtol, atol = (dict(plan.options)[name] for name in ("budget", "rtol", "atol"))
    return (
        f"solver {plan.solver!r}: expected sample {sample} to need at most {budget:g} rows (budget) at rtol {rtol:g} "
        f"and atol {atol:g}, got to log-SNR {log_snr:.4g} of {plan.nodes[-1].log_snr:.4g} with them"
    )
