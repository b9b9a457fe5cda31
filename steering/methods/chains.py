"""Chains with weights, in populations that are resampled on the way: the engine of `smc`."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from steering.errors import SteeringError
from steering.numerics.noise import START, Draw, Noise
from steering.numerics.resampling import systematic
from steering.numerics.weights import effective_size, softmax
from steering.plans.plan import Node, Stage
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, Report, Start, Tilt, evaluate, first_state
from steering.targets.target import Target

Potential = Literal["twisted", "difference", "max", "sum"]
Chains = Float64[Tensor, " chains"]

FLOOR = 10.0
"""A chain of value -inf before the end keeps e^-FLOOR of the least other weight: its value may become finite later."""
COLLAPSED = 2.0
"""Effective chains of a population below which its samples are copies of one."""

ACCUMULATE: Mapping[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "twisted": lambda value, running, total: (running, value),
    "difference": lambda value, running, total: (running, value),
    "max": lambda value, running, total: ((best := torch.maximum(running, value)), total + best),
    "sum": lambda value, running, total: ((added := running + value), total + added),
}
"""(v_t, the running maximum or sum of v, log prod_s G_s) -> the latter two at the next stage.

"twisted" and "difference": log G_t = v_t - v_s. "max" and "sum": the maximum and the sum of all v so far.
"""


@dataclass(frozen=True)
class Settings:
    """Settings of the weights of chains; see `Smc`."""

    target: Target
    population: int
    keep: int
    potential: Potential
    resample_at: float
    tempering: float
    every: int

    def strength(self, index: int, stages: int) -> float:
        """lambda_t at a stage, in 0..1."""
        rising = self.tempering * stages
        return 1.0 if rising == 0 else min(1.0, index / rising)


@dataclass
class Populations:
    """The chains of all populations side by side: chain j of the p-th is p * population + j.

    Attributes:
        noise: of the chains; `own` of the populations, for resampling.
        samples: the population of each sample [n], and which of those drawn from it the sample is [n].
        report: receives the costs, weights and warnings.
    """

    settings: Settings
    problem: Problem
    noise: Noise
    own: Noise
    samples: tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]
    tilt: Tilt | None
    report: Report
    sizes: list[Tensor] = field(default_factory=list)
    ancestry: list[Tensor] = field(default_factory=list)

    def march(self, x_init: Start | None) -> Generator[Rows, Tensor, tuple[Tensor, Int64[Tensor, "p keep"]]]:
        """All chains at the end [chains, *event], and which of them the samples of each population are."""
        settings = self.settings
        x, log_w = self._start(x_init)
        steered, plain = [x], [x]  # registers of the proposal, and of the plan's own steps through the same states
        total = torch.zeros_like(log_w)
        running = torch.full_like(log_w, -torch.inf if settings.potential == "max" else 0.0)
        log_z = torch.zeros(len(self.own.indices), dtype=torch.float64)
        for stage in self.problem.plan.stages:
            x = steered[0]
            denoised = yield from evaluate(self.problem, stage.denoise, x)
            towards, value = yield from self._potential(stage, x, denoised)
            if value is not None:
                value = torch.where(value.isnan(), total, value)  # no estimate: keep the last one
                running, accumulated = ACCUMULATE[settings.potential](value, running, total)
                log_w, total = log_w + (accumulated - total), accumulated
            if self.problem.show_every:
                yield from self.problem.shown(stage, towards[self._heaviest(log_w)])
            due, ancestors = self._resample(log_w, stage.index)
            if bool(due.any()):
                log_z = log_z + torch.where(due, self._mean(log_w), 0.0)
                log_w = torch.where(due.repeat_interleave(settings.population), 0.0, log_w)
                steered, plain = ([each[ancestors] for each in registers] for registers in (steered, plain))
                denoised, towards, running, total = (each[ancestors] for each in (denoised, towards, running, total))
                if self.tilt is not None:
                    self.tilt.continued(ancestors)
            steered, plain, ratio = self._move(stage, steered, plain, towards, denoised)
            log_w = log_w + ratio
        x = steered[0]
        rewards = yield from self._score(x)
        return x, self._finish(log_w + settings.target.log_weight(rewards) - total, log_z)

    def _start(self, x_init: Start | None) -> tuple[Tensor, Chains]:
        """First states, and log p / q of the shift they were drawn with."""
        shift = None if self.tilt is None else self.tilt.start_shift()
        shift = None if shift is None else shift * self._strength(0)
        x = first_state(self.problem, self.noise, shift, x_init)
        if shift is None or x_init is not None:
            return x, torch.zeros(len(x), dtype=torch.float64)
        first = self.problem.plan.nodes[0]
        z = self.noise.normal(START, Draw.SOLVER, self.problem.event, self.problem.dtype)
        a = shift.to(self.problem.dtype) * (first.alpha / first.sigma)
        return x, _log_ratio([z], [a.expand_as(x)])

    def _strength(self, index: int) -> float:
        return self.settings.strength(index, len(self.problem.plan.stages))

    def _potential(
        self, stage: Stage, x: Tensor, denoised: Tensor
    ) -> Generator[Rows, Tensor, tuple[Tensor, Chains | None]]:
        """What the proposal moves by, and lambda_t times the potential's value here where one is made: not -inf, and
        NaN for chains whose inner method makes none.

        Noise that the inner method would choose is not used: choosing among chains is what weights are for.
        """
        settings, strength = self.settings, self._strength(stage.index)
        towards, log_h = denoised, None
        if self.tilt is not None:
            guided = yield from self.tilt.steer(stage, x, denoised, self.noise)
            towards = guided.denoised if strength == 1 else denoised + (guided.denoised - denoised) * strength
            log_h = guided.log_h
        if settings.potential == "twisted":
            if log_h is None:
                raise SteeringError("inner: expected a method that estimates log h, for potential 'twisted', got none")
            return towards, self._finite(log_h.to(torch.float64)) * strength
        if stage.index % settings.every:
            return towards, None
        rewards = yield from settings.target.score(denoised, torch.float64)
        return towards, self._finite(settings.target.log_weight(rewards)) * strength

    def _finite(self, value: Chains) -> Chains:
        """-inf becomes the population's least finite value less FLOOR, so that no chain is lost before the end."""
        rows = self._rows(value)
        least = torch.where(rows > -torch.inf, rows, torch.inf).min(dim=1, keepdim=True).values
        floor = torch.where(least == torch.inf, 0.0, least - FLOOR)
        return torch.where(rows == -torch.inf, floor, rows).flatten()

    def _resample(self, log_w: Chains, stage: int) -> tuple[Bool[Tensor, " p"], Int64[Tensor, " chains"]]:
        """Which populations are resampled now, and the chain that each chain continues from (itself if its population
        is not resampled)."""
        settings, weights = self.settings, softmax(self._rows(log_w))
        size = effective_size(weights)
        due = size < settings.resample_at * settings.population
        drawn = systematic(weights, self.own.uniform(stage, Draw.RESAMPLE, 1), settings.population)
        same = torch.arange(settings.population).expand_as(drawn)
        ancestors = self._global(torch.where(due[:, None], drawn, same)).flatten()
        self.sizes.append(size)
        self.ancestry.append(self.noise.indices[ancestors])
        return due, ancestors

    def _move(
        self, stage: Stage, steered: Sequence[Tensor], plain: Sequence[Tensor], towards: Tensor, denoised: Tensor
    ) -> tuple[list[Tensor], list[Tensor], Chains]:
        """Both registers after a stage, and log p / q of the step.

        Every chain takes the plan's own step with noise z + a, so p / q = N(z + a) / N(z) whatever else registers hold.
        In
        units of the noise, a is how far D_h moves the state beyond D, times V_t / V_s: for kernels as narrow as a
        plan's the best proposal aims at the next h, and log h there changes with x by V_t / V_s of what D_h - D says.
        Measured with 64 chains, d=2, 20 steps of sde_dpmpp_2m: the standard deviation of Z is .14 of it, .44 without
        the factor; at 10 steps .17 and 1.88. A step without noise is the plan's own.
        """
        update, event, dtype = stage.update, self.problem.event, self.problem.dtype
        z = [self.noise.normal(stage.index, Draw.SOLVER + k, event, dtype) for k in range(stage.draws)]
        own, even = stage.advance(plain, denoised, z), torch.zeros(len(denoised), dtype=torch.float64)
        if self.tilt is None:
            return own, own, even
        proposal = stage.advance(steered, towards, z)
        scales = update.C[0] if update.C else ()
        power = sum(c * c for c in scales)
        if power == 0:
            return [own[0], *proposal[1:]], own, even
        apart = (proposal[0] - own[0]) * (_variance(update.to) / _variance(update.at))
        a = [apart * (c / power) for c in scales]
        own = stage.advance(plain, denoised, [one + by for one, by in zip(z, a, strict=True)])
        return [own[0], *proposal[1:]], own, _log_ratio(z, a)

    def _heaviest(self, log_w: Chains) -> Int64[Tensor, " n"]:
        """The chain that stands for each sample while it is drawn: of the heaviest of its population, as many as are
        kept, in the order of their numbers."""
        population, place = self.samples
        order = self._rows(log_w).argsort(dim=1, descending=True, stable=True)
        return self._global(order[:, : self.settings.keep].sort(dim=1).values)[population, place]

    def _score(self, x: Tensor) -> Generator[Rows, Tensor, Chains]:
        """Rewards of the finished chains; the tilt's own final scores where it asks for them."""
        if self.tilt is not None:
            yield from self.tilt.finish(x, self.report)
        if self.report.rewards is None:
            self.report.rewards = yield from self.settings.target.score(x)
        return self.report.rewards.to(torch.float64)

    def _finish(self, log_w: Chains, log_z: Float64[Tensor, " p"]) -> Int64[Tensor, "p keep"]:
        """Draw the samples from the weighted chains, and report."""
        settings, report, name = self.settings, self.report, self.settings.target.name
        hit = (self._rows(log_w) > -torch.inf).any(dim=1)
        report.log_z = torch.where(hit, log_z + self._mean(log_w), -torch.inf)
        weights = softmax(torch.where(hit[:, None], self._rows(log_w), 0.0))
        self.sizes.append(torch.where(hit, effective_size(weights), 0.0))
        report.population_ess, report.ancestry = torch.stack(self.sizes), torch.stack(self.ancestry)
        missed = int((~hit).sum())
        report.no_hit += missed * settings.population
        collapsed = int(((report.population_ess < COLLAPSED).any(dim=0) & hit).sum())
        fell = f"populations of {settings.population} chains fell to fewer than {COLLAPSED:g} effective chains"
        report.tallies |= {
            f"populations: no chain had weight, reward {name!r}": (missed, len(hit)),
            f"{fell}: their samples are alike, and rare ones are missing": (collapsed, len(hit)),
        }
        uniform = self.own.uniform(len(self.sizes) - 1, Draw.RESAMPLE, 1)
        return self._global(systematic(weights, uniform, settings.keep))

    def _rows(self, each: Tensor) -> Tensor:
        """[chains] by population: [p, population]."""
        return each.reshape(-1, self.settings.population)

    def _global(self, within: Int64[Tensor, "p m"]) -> Int64[Tensor, "p m"]:
        """Places within populations as places among all chains."""
        return within + torch.arange(len(within))[:, None] * self.settings.population

    def _mean(self, log_w: Chains) -> Float64[Tensor, " p"]:
        """log of the mean weight of each population."""
        return torch.logsumexp(self._rows(log_w), dim=1) - math.log(self.settings.population)


def _variance(node: Node) -> float:
    """V, the variance of x_0 given x_t for data of unit variance."""
    return node.sigma**2 / (node.alpha**2 + node.sigma**2)


def _log_ratio(z: Sequence[Float[Tensor, "n *event"]], a: Sequence[Float[Tensor, "n *event"]]) -> Float64[Tensor, " n"]:
    """log N(z + a) / N(z) = -z.a - |a|^2 / 2, all draws and coordinates together."""
    each = [(-one * by - by * by / 2).flatten(1).to(torch.float64) for one, by in zip(z, a, strict=True)]
    return torch.cat(each, dim=1).sum(dim=1)
