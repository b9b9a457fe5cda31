"""The sampler: a generator that runs a plan and meets the outside world only by yielding rows."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from steering.errors import NetworkError, PlanError, SteeringError, UnsuitableError
from steering.numerics.noise import START, Draw, Noise
from steering.plans.plan import Plan, Stage
from steering.plans.predictions import Denoise
from steering.sampling.guidance import Interval, extrapolated, inside
from steering.sampling.rows import Condition, Result, Rows, metered


@dataclass(frozen=True)
class Guided:
    """The result of steering one stage.

    Attributes:
        denoised: [n, *event], the steered estimate.
        noises: the solver's noise, where steering chose it.
        log_h: [n], estimates of log E[w(x_0) | x_t], if the method makes them: -inf if no candidate had any weight, NaN
            for samples without candidates at this stage.
    """

    denoised: Tensor
    noises: Sequence[Tensor] | None = None
    log_h: Tensor | None = None


@dataclass
class Report:
    """Cost of a run, and diagnostics of steering; rows are totals over all samples.

    Attributes:
        network_rows, reward_rows: rows evaluated while sampling.
        gradient_rows: vector-Jacobian products of the network; each costs about two network rows, and is not counted as
            one.
        reward_gradient_rows: rewards evaluated together with their gradients, not counted as reward rows.
        setup_rows, setup_reward_rows: rows spent once to draw, calibrate and score a bank, and reused afterwards.
        ess: [stages, n] effective sample size of the rewarded weights behind each correction.
        methods: how many (stage, sample) corrections came from "bank", "average", "select" or "none".
        no_hit: (stage, sample) pairs where no candidate had any weight.
        rewards: [n] rewards of the finished samples, when steered.
        log_z: log E_p[w], the log normalising constant of the tilted law, where the method estimates it: [1] from a
            bank, [populations] from sequential Monte Carlo.
        population_ess: [stages + 1, populations] effective sizes of the chains' own weights, the last of the finished
            chains; sequential Monte Carlo only.
        ancestry: [stages, chains]: the chain that each chain continued from (itself if its population was not
        resampled).
        choices: which methods were chosen automatically, and why.
        tallies: further warnings as counts (how many of how many), summed over groups of samples.
    """

    network_rows: int = 0
    reward_rows: int = 0
    gradient_rows: int = 0
    reward_gradient_rows: int = 0
    setup_rows: int = 0
    setup_reward_rows: int = 0
    ess: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    methods: Counter[str] = field(default_factory=Counter)
    no_hit: int = 0
    rewards: Tensor | None = None
    log_z: Tensor | None = None
    population_ess: Tensor | None = None
    ancestry: Tensor | None = None
    choices: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tallies: dict[str, tuple[int, int]] = field(default_factory=dict)

    def count(self, meter: Counter[str]) -> None:
        """Add the rows of a meter that ran while sampling."""
        self.network_rows += meter["network"]
        self.reward_rows += meter["reward"]
        self.gradient_rows += meter["pullback"]
        self.reward_gradient_rows += meter["reward_gradient"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is being sampled: the plan, the event's shape, and how the network is asked.

    Attributes:
        condition: tensors [n, ...] by name, handed to the network row by row.
        guidance: classifier-free guidance scale w in D_null + w (D_condition - D_null); 1 asks no null rows.
        null: the null condition's tensors, [1, ...] or [n, ...] by name. A condition without one is kept: the null rows
            have it too. Rows may differ in shape from those of the condition.
        guidance_interval: where guidance acts; None for everywhere. Elsewhere no null rows are asked.
        guidance_rescale: see `guidance.extrapolated`.
        model: identifies the network, so that steering can keep what it measured on it.
        mean: [n, *event], what the states of a mean-reverting process revert to: the path is then that of x - mean.
        start_mean: [*event], the mean of the data, with which first states are drawn from N(alpha mean, sigma^2), or
            None for N(0, sigma^2). Without it the flow of data N(m, s^2) ends alpha s m / sqrt(alpha^2 s^2 + sigma^2)
            short of their mean, alpha and sigma those of t_max: .068 m s on Stable Diffusion's betas.
        show_every: stages of the plan from one denoised estimate that is shown, as rows of kind "estimate", to the
            next; 0 for none. It changes no sample. Steered estimates are shown as they are steered.
        show_path: the states at the plan's nodes are shown, as rows of kind "state", from the first to the sample. It
            changes no sample. Plans without stages have none.
    """

    plan: Plan
    event: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    condition: Condition = field(default_factory=dict)
    guidance: float = 1.0
    null: Condition = field(default_factory=dict)
    guidance_interval: Interval | None = None
    guidance_rescale: float = 0.0
    model: Hashable = None
    mean: Tensor | None = None
    start_mean: Tensor | None = None
    show_every: int = 0
    show_path: bool = False

    def rows(self, index: Tensor | slice) -> "Problem":
        """The same problem for some of the samples: `index` is a mask, an index or a slice of them."""
        condition = {name: tensor[index] for name, tensor in self.condition.items()}
        null = {name: tensor if len(tensor) == 1 else tensor[index] for name, tensor in self.null.items()}
        mean = None if self.mean is None else self.mean[index]
        return replace(self, condition=condition, null=null, mean=mean)

    def repeated(self, times: int) -> "Problem":
        """The same problem for `times` copies of its samples, one block after another."""
        condition = {name: torch.cat([tensor] * times) for name, tensor in self.condition.items()}
        null = {name: t if len(t) == 1 else torch.cat([t] * times) for name, t in self.null.items()}
        mean = None if self.mean is None else torch.cat([self.mean] * times)
        return replace(self, condition=condition, null=null, mean=mean)

    def shown(self, stage: Stage, denoised: Tensor) -> Generator[Rows, Tensor, None]:
        """Shows the estimate [n, *event] of a stage, if it is one of those that are shown."""
        if self.show_every and (stage.index + 1) % self.show_every == 0:
            yield Rows.estimate(denoised if self.mean is None else denoised + self.mean, stage.index + 1)

    def passed(self, node: int | None, x: Tensor) -> Generator[Rows, Tensor, None]:
        """Shows the state x [n, *event] at a node of the plan, if the path is shown; None for no node."""
        if self.show_path and node is not None:
            yield Rows.state(x if self.mean is None else x + self.mean, node)

    def guided(self, t: float | Tensor) -> Tensor | slice | None:
        """The samples that null rows are asked for at the network's time t, or at a time each [n]: None for none."""
        if self.guidance == 1 or not self.condition or not self.null:
            return None
        if self.guidance_interval is None:
            return slice(None)
        there = inside(self.guidance_interval, self.plan.trained.log_snr(t))
        if not there.ndim or bool(there.all()) or not bool(there.any()):
            return slice(None) if bool(there.all()) else None
        return there.nonzero().squeeze(1)

    def null_condition(self, index: Tensor | slice) -> Condition:
        """The conditions of null rows for some of the samples."""
        part, null = self.rows(index), dict[str, Tensor]()
        for name, tensor in part.condition.items():
            rows = part.null.get(name, tensor)
            null[name] = rows.expand(len(tensor), *rows.shape[1:])
        return null


@dataclass(frozen=True, eq=False)
class Noised:
    """Data [n, *event] to start from as `x_init`, instead of a state.

    A sample's first state is alpha data + sigma eps at the plan's first node, eps its own noise there: that of a start
    without data. Chains of one sample start apart.
    """

    data: Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Noised":
        return Noised(self.data[rows])


Start = Tensor | Noised
"""What samples start from: states at the plan's first node [n, *event], already scaled, or data."""
Drawing = Generator[Rows, Tensor, tuple[Tensor, Report]]
"""Draws samples [n, *event] and says how it went."""


class Tilt(ABC):
    """A method that replaces denoised estimates, prepared for one problem."""

    def start_shift(self) -> Tensor | None:
        """[*event], or [n, *event], to add to x_0's mean in the first state, or None."""
        return None

    @abstractmethod
    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        """Steer one stage, x and denoised [n, *event]; may yield rows of its own."""

    def continued(self, ancestors: Tensor) -> None:
        """After a stage's `steer`, resampled: sample i goes on from where sample ancestors[i] is."""
        return

    def finish(self, x: Tensor, report: Report) -> Generator[Rows, Tensor, None]:
        """Score the finished samples and fill in the report."""
        yield from ()


class Steering(ABC):
    """A steering method: how to draw samples of a problem so that they follow another law."""

    @property
    def reward(self) -> Callable[[Tensor], Tensor] | None:
        """Scores samples [B, *event] -> [B]; None for methods that ask for no reward rows."""
        return None

    @property
    def name(self) -> str:
        """Its name in errors."""
        return type(self).__name__

    @property
    def held(self) -> int:
        """States or candidates of one sample held at a time: bounds how many samples are drawn together."""
        return 1

    @property
    def together(self) -> int:
        """How many neighbouring samples make up a unit that must not be divided."""
        return 1

    @property
    def stage_rows(self) -> int:
        """Network rows that such a unit takes at a stage, at most."""
        return 1

    @property
    def stage_evaluations(self) -> int:
        """Network evaluations in sequence at a stage."""
        return 1

    @property
    def needs_gradients(self) -> bool:
        """Whether it asks for rows of kind "pullback" or "reward_gradient"."""
        return False

    @property
    def shows(self) -> bool:
        """Whether it has estimates of its samples on the way; one that picks samples at the end has none."""
        return True

    def unsuitable(self, plan: Plan) -> str:
        """Why it cannot draw by a plan; empty if it can."""
        return ""

    @abstractmethod
    def draw(self, problem: Problem, noise: Noise, x_init: Start | None) -> Drawing:
        """One sample per index of `noise`, with a report."""


def most_network_rows(steering: Steering | None, plan: Plan, samples: int) -> int:
    """Most network rows of n samples, without setup and the doubling of classifier-free guidance."""
    if steering is None:
        return samples * plan.most_rows
    return -(-samples // steering.together) * steering.stage_rows * plan.most_rows


def rows_at_once(steering: Steering | None, samples: int) -> int:
    """Estimated network rows that n samples, drawn together, ask for at a time."""
    if steering is None:
        return samples
    return max(1, -(-samples // steering.together) * steering.stage_rows // steering.stage_evaluations)


def evaluate(problem: Problem, rule: Denoise, x: Tensor) -> Generator[Rows, Tensor, Tensor]:
    """The denoised estimate of x [n, *event] by a plan's rule, under classifier-free guidance where asked for.

    States and estimates of a mean-reverting process are those of x - mean, which follows the plan's path; only the
    network sees x (MRS, arXiv:2502.07856: y = x - mean is an ordinary process).
    """
    scaled, mean = rule.scaled(x), problem.mean
    scaled = scaled if mean is None else scaled + mean
    rows, guided = Rows.network(scaled, rule.t, problem.condition), problem.guided(rule.t)
    if guided is None:
        output = checked((yield rows), rows)
    else:
        null = Rows.network(rows.x[guided], rows.t[guided], problem.null_condition(guided))
        output, other = yield from asked_together(rows, null)
        moved = extrapolated(output[guided], other, problem.guidance, problem.guidance_rescale)
        output = moved if isinstance(guided, slice) else output.index_copy(0, guided, moved)
    denoised = rule(x, output if output.dtype == x.dtype else output.to(x.dtype))
    return denoised - mean if mean is not None and problem.plan.prediction == "x0" else denoised


def asked_together(first: Rows, second: Rows) -> Generator[Rows, Tensor, tuple[Tensor, Tensor]]:
    """The replies to two lots of network rows, asked for at once unless their conditions differ in shape."""
    if (both := first.beside(second)) is not None:
        reply = checked((yield both), both)
        return reply[: len(first)], reply[len(first) :]
    one = checked((yield first), first)
    return one, checked((yield second), second)


def checked(output: object, rows: Rows) -> Tensor:
    """A network's reply to `rows`, or `NetworkError`."""
    if not isinstance(output, Tensor):
        raise NetworkError(f"network: expected a tensor of shape {list(rows.x.shape)}, got {type(output).__name__}")
    if output.shape != rows.x.shape:
        raise NetworkError(f"network: expected output of shape {list(rows.x.shape)}, got {list(output.shape)}")
    # a sum is finite only if all numbers are, and takes a third of the time of looking at each
    if not math.isfinite(output.sum().item()) and not bool(output.isfinite().all()):
        row = int((~output.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise NetworkError(f"network: expected finite output at t={float(rows.t[row]):.6g}, got NaN or infinity")
    return output


def sample(problem: Problem, noise: Noise, steering: Steering | None = None, x_init: Start | None = None) -> Drawing:
    """Draw one sample per index of `noise`: [n, *event], with a report.

    Args:
        x_init: state at the plan's first node [n, *event], already scaled, or data to be `Noised`; drawn when absent.
    """
    if problem.plan.reverse and x_init is None:
        raise PlanError("x_init: expected the data to start from, for a plan in reverse, got none")
    if problem.plan.reverse and isinstance(x_init, Noised):
        raise PlanError("x_init: expected data without noise for a plan in reverse, got data to be noised")
    if problem.mean is not None and problem.plan.preconditioning == "edm":
        raise PlanError("mean: expected none beside preconditioning 'edm', whose scales are those of data about 0")
    if problem.mean is not None and problem.plan.limit is not None:
        raise PlanError("mean: expected none beside a limit of D, whose bounds are those of data about 0")
    if problem.start_mean is not None:
        _check_start_mean(problem, x_init)
    drawing = guided(problem, noise, None, x_init) if steering is None else steering.draw(problem, noise, x_init)
    x, report = yield from drawing
    finite(problem, x)
    if (warning := problem.plan.warning) and warning not in report.warnings:
        report.warnings.append(warning)
    return x, report


def finite(problem: Problem, x: Tensor) -> None:
    """Refuse samples [n, *event] that are no numbers: finite outputs of a network may still overflow on the way."""
    if not bool(x.isfinite().all()):
        i = int((~x.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        kind = str(problem.dtype).removeprefix("torch.")
        raise NetworkError(
            f"samples: expected finite numbers, got NaN or infinity in sample {i}: the network's outputs are too large "
            f"for {kind} with solver {problem.plan.solver!r}"
            + (f" under guidance {problem.guidance:g}" if problem.guidance != 1 else "")
        )


def _check_start_mean(problem: Problem, x_init: object) -> None:
    """Refuse a mean of the first states that does not fit, or where these are given or belong to another process."""
    assert problem.start_mean is not None
    if tuple(problem.start_mean.shape) != problem.event:
        raise PlanError(f"start_mean: expected shape {list(problem.event)}, got {list(problem.start_mean.shape)}")
    beside = "x_init" if x_init is not None else "mean" if problem.mean is not None else ""
    if beside:
        raise PlanError(f"start_mean: expected none beside {beside}, which says where samples start, got one")


def guided(
    problem: Problem, noise: Noise, preparing: Generator[Rows, Tensor, Tilt] | None, x_init: Start | None
) -> Drawing:
    """Draw with the tilt that `preparing` comes to, or plain."""
    plan, report = problem.plan, Report()
    tilt: Tilt | None = None
    if preparing is not None:
        if why := unsteerable(plan, problem.mean is not None):
            raise UnsuitableError(why)
        tilt = yield from prepared(preparing, report)
    meter: Counter[str] = Counter()
    x = first_state(problem, noise, tilt.start_shift() if tilt is not None else None, x_init)
    draw = _directly(problem, noise, x) if plan.direct else _march(problem, noise, tilt, x)
    x = yield from metered(draw, meter)
    x = x if problem.mean is None else x + problem.mean
    if tilt is not None:
        yield from metered(tilt.finish(x, report), meter)
    report.count(meter)
    return x, report


class Tilting(Steering):
    """A steering method that only replaces denoised estimates."""

    @abstractmethod
    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, Tilt]:
        """Work to do once per problem."""

    def draw(self, problem: Problem, noise: Noise, x_init: Start | None) -> Drawing:
        """Implements `Steering.draw`."""
        return guided(problem, noise, self.prepare(problem), x_init)


def prepared(preparing: Generator[Rows, Tensor, Result], report: Report) -> Generator[Rows, Tensor, Result]:
    """The result of `preparing`, its rows counted as the report's setup."""
    setup: Counter[str] = Counter()
    result = yield from metered(preparing, setup)
    report.setup_rows += setup["network"]
    report.setup_reward_rows += setup["reward"]
    return result


def unsteerable(plan: Plan, reverts: bool) -> str:
    """Why a plan cannot be steered, and which plans can; empty if it can."""
    what = (
        "a plan in reverse" if plan.reverse else f"solver {plan.solver!r}" if plan.direct else "a mean-reverting path"
    )
    if not (plan.direct or plan.reverse or reverts):
        return ""
    return f"{what} cannot be steered: expected no steering, or a forward plan of fixed steps, such as dpmpp_2m"


def first_state(problem: Problem, noise: Noise, shift: Tensor | None, x_init: Start | None) -> Tensor:
    """The state at the plan's first node, for data whose mean is shifted by [*event] or [n, *event], beside what
    `start_mean` says."""
    first, mean = problem.plan.nodes[0], problem.mean
    if x_init is not None:
        given = (x_init.data if isinstance(x_init, Noised) else x_init).to(problem.dtype)
        x = given if mean is None else given - mean
        if not isinstance(x_init, Noised):
            return x
        return x * first.alpha + noise.normal(START, Draw.SOLVER, problem.event, problem.dtype) * first.sigma
    x = noise.normal(START, Draw.SOLVER, problem.event, problem.dtype) * first.sigma
    if problem.start_mean is not None:
        x = x + problem.start_mean.to(problem.dtype) * first.alpha
    if shift is not None and shift.ndim == x.ndim and len(shift) not in (1, len(x)):
        raise SteeringError(f"steering: expected values for 1 or {len(x)} samples, got {len(shift)}")
    return x if shift is None else x + shift.to(problem.dtype) * first.alpha


def _directly(problem: Problem, noise: Noise, x: Tensor) -> Generator[Rows, Tensor, Tensor]:
    """A direct sampler, with the stages before and after it."""
    plan = problem.plan
    assert plan.direct is not None
    for stage in plan.opening:
        (x,) = stage.advance([x], (yield from evaluate(problem, stage.denoise, x)))
    x = yield from plan.direct(replace(problem, plan=replace(plan, nodes=plan.within)), noise, x)
    for stage in plan.closing:
        (x,) = stage.advance([x], (yield from evaluate(problem, stage.denoise, x)))
    return x


def _march(problem: Problem, noise: Noise, tilt: Tilt | None, x: Tensor) -> Generator[Rows, Tensor, Tensor]:
    """Stage after stage of a plan's table."""
    registers, landings = [x], problem.plan.landings
    yield from problem.passed(0, x)
    for stage in problem.plan.stages:
        x = registers[0]
        denoised = yield from evaluate(problem, stage.denoise, x)
        noises = [noise.normal(stage.index, Draw.SOLVER + k, problem.event, problem.dtype) for k in range(stage.draws)]
        if tilt is not None:
            guided = yield from tilt.steer(stage, x, denoised, noise)
            denoised, noises = guided.denoised, list(guided.noises or noises)
        yield from problem.shown(stage, denoised)
        registers = stage.advance(registers, denoised, noises)
        yield from problem.passed(landings.get(stage.index), registers[0])
    return registers[0]
