"""The sampler: a generator that runs a plan and meets the outside world only by yielding rows."""

from collections import Counter
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from steering.errors import NetworkError
from steering.noise import START, Draw, Noise
from steering.plan import Plan, Stage
from steering.rows import Condition, Rows, metered


@dataclass(frozen=True)
class Guided:
    """What steering makes of a stage: the denoised estimate to go on with, and the solver's noise if it chose it."""

    denoised: Tensor
    noises: Sequence[Tensor] | None = None


@dataclass
class Report:
    """What a run cost and how steering went; rows are totals over all samples.

    Attributes:
        network_rows, reward_rows: rows evaluated while sampling.
        setup_rows, setup_reward_rows: rows spent once to draw, calibrate and score a bank, and reused afterwards.
        ess: [stages, n] effective sample size of the rewarded weights behind each correction.
        methods: how many (stage, sample) corrections came from "bank", "average", "select" or "none".
        no_hit: (stage, sample) pairs where every candidate had reward -inf.
        rewards: [n] rewards of the finished samples, when steered.
    """

    network_rows: int = 0
    reward_rows: int = 0
    setup_rows: int = 0
    setup_reward_rows: int = 0
    ess: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    methods: Counter[str] = field(default_factory=Counter)
    no_hit: int = 0
    rewards: Tensor | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """What is being sampled: the plan, the event's shape, and how the network is asked.

    Attributes:
        condition: tensors [n, ...] by name, handed to the network row by row.
        guidance: classifier-free guidance scale w in D_null + w (D_condition - D_null); 1 asks no null rows.
        null: the null condition's tensors, [1, ...] by name.
        model: identifies the network, so that steering can keep what it measured on it.
    """

    plan: Plan
    event: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    condition: Condition = field(default_factory=dict)
    guidance: float = 1.0
    null: Condition = field(default_factory=dict)
    model: Hashable = None


class Tilt(Protocol):
    """A steering method, prepared for one problem."""

    def start_shift(self) -> Tensor | None:
        """[*event] to add to x_0's mean in the first state, or None."""
        ...

    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        """Steer one stage; may yield rows of its own."""
        ...

    def finish(self, x: Tensor, report: Report) -> Generator[Rows, Tensor, None]:
        """Score the finished samples and fill in the report."""
        ...


class Steering(Protocol):
    """A steering method: what to do once per problem."""

    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, Tilt]: ...


def evaluate(problem: Problem, stage: Stage, x: Tensor) -> Generator[Rows, Tensor, Tensor]:
    """The denoised estimate of x [n, *event] at a stage, under classifier-free guidance where asked for."""
    scaled = x if stage.denoise.scale == 1 else x * stage.denoise.scale
    n = len(x)
    if problem.guidance == 1 or not problem.condition:
        rows = Rows.network(scaled, stage.t, problem.condition)
        output = _checked((yield rows), rows, stage.t)
    else:
        both = {k: torch.cat([c, problem.null[k].expand_as(c)]) for k, c in problem.condition.items()}
        rows = Rows.network(torch.cat([scaled, scaled]), stage.t, both)
        outputs = _checked((yield rows), rows, stage.t)
        output = outputs[n:] + (outputs[:n] - outputs[n:]) * problem.guidance
    return stage.denoise(x, output.to(x.dtype))


def _checked(output: object, rows: Rows, t: float) -> Tensor:
    """A network's reply to `rows`, or `NetworkError`."""
    if not isinstance(output, Tensor):
        raise NetworkError(f"network: expected a tensor of shape {list(rows.x.shape)}, got {type(output).__name__}")
    if output.shape != rows.x.shape:
        raise NetworkError(f"network: expected output of shape {list(rows.x.shape)}, got {list(output.shape)}")
    if not bool(output.isfinite().all()):
        raise NetworkError(f"network: expected finite output at t={t:.6g}, got NaN or infinity")
    return output


def sample(
    problem: Problem, noise: Noise, steering: Steering | None = None, x_init: Tensor | None = None
) -> Generator[Rows, Tensor, tuple[Tensor, Report]]:
    """Draw one sample per index of `noise`: [n, *event], with a report.

    Args:
        x_init: state at the plan's first node [n, *event], already scaled; drawn when absent.
    """
    report = Report()
    tilt: Tilt | None = None
    if steering is not None:
        setup: Counter[str] = Counter()
        tilt = yield from metered(steering.prepare(problem), setup)
        report.setup_rows, report.setup_reward_rows = setup["network"], setup["reward"]
    meter: Counter[str] = Counter()
    x = yield from metered(_stages(problem, noise, tilt, x_init), meter)
    if tilt is not None:
        yield from metered(tilt.finish(x, report), meter)
    report.network_rows, report.reward_rows = meter["network"], meter["reward"]
    return x, report


def _stages(
    problem: Problem, noise: Noise, tilt: Tilt | None, x_init: Tensor | None
) -> Generator[Rows, Tensor, Tensor]:
    plan, dtype, event = problem.plan, problem.dtype, problem.event
    if x_init is not None:
        x = x_init.to(dtype)
    else:
        first = plan.nodes[0]
        x = noise.normal(START, Draw.SOLVER, event, dtype) * first.sigma
        shift = tilt.start_shift() if tilt is not None else None
        if shift is not None:
            x = x + shift.to(dtype) * first.alpha
    registers = [x]
    for stage in plan.stages:
        x = registers[0]
        denoised = yield from evaluate(problem, stage, x)
        noises = [noise.normal(stage.index, Draw.SOLVER + k, event, dtype) for k in range(stage.draws)]
        if tilt is not None:
            guided = yield from tilt.steer(stage, x, denoised, noise)
            denoised, noises = guided.denoised, list(guided.noises or noises)
        registers = stage.advance(registers, denoised, noises)
    return registers[0]
