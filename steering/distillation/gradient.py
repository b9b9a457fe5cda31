"""The gradient of a distillation loss with respect to rendered views or their latents.

A client optimises a scene; it renders B views, sends them (or their latents) and takes a step down the gradient that
comes back. With d_v the direction that a mode gives for view v, w its weight and c the clip,

    loss = sum_v |clip(w d_v)|^2 / (2 B),    gradient_v = clip(w d_v) / B.

The loss is that of the usual surrogate |x - sg(x - clip(w d))|^2 / (2 B): its gradient, not its value, is what
matters. The division by B is in both.

The gradient of a view is a pure function of (x_v, condition_v, iteration, seed, number of the view) and of the
settings; its bits do not depend on the views beside it.
"""

import math
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.distillation import advice, ism, noises
from steering.distillation.estimates import Estimator, along
from steering.distillation.levels import Levels, Times, levels
from steering.distillation.mode import Looked
from steering.distillation.perp_neg import Negatives
from steering.distillation.settings import Settings
from steering.distillation.weighting import WEIGHTINGS
from steering.errors import PlanError, UnsuitableError
from steering.numerics.tiles import by_tiles
from steering.paths import Path
from steering.plans.compile import compile_plan
from steering.plans.limits import Limit
from steering.plans.plan import Plan
from steering.sampling.rows import Rows, metered
from steering.sampling.sampler import Problem, Report, Steering, Tilting
from steering.solvers import SOLVERS
from steering.targets.target import Target

MOST_VIEW = 2**31
"""Numbers of views are in 0..this - 1."""


@dataclass(frozen=True, eq=False)
class Distilled:
    """A gradient, [B, *event], and what it was made of; numbers a view are [B] in float64.

    Attributes:
        gradient: of `loss.sum()` with respect to the views, in the problem's precision: the optimiser goes down it.
        loss: each view's share.
        t1, t2: path times; t2 is the schedule's also for modes that look at t1 alone.
        rho1, rho2: their noise levels sigma / alpha.
        norm: Euclidean norm of each view's gradient.
        nonfinite: numbers of the gradient that were NaN or infinite, and are 0.
        network_rows, reward_rows: evaluated for it.
        setup_rows, setup_reward_rows: spent once by steering, to draw and score a bank.
        ess: [calls, B * noises] effective sizes of steering's weights.
    """

    gradient: Tensor
    loss: Float64[Tensor, " b"]
    t1: Float64[Tensor, " b"]
    t2: Float64[Tensor, " b"]
    rho1: Float64[Tensor, " b"]
    rho2: Float64[Tensor, " b"]
    norm: Float64[Tensor, " b"]
    nonfinite: int
    network_rows: int
    reward_rows: int = 0
    setup_rows: int = 0
    setup_reward_rows: int = 0
    ess: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    choices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@lru_cache(maxsize=64)
def prior(
    path: Path, prediction: str, preconditioning: str = "none", sigma_data: float = 0.5, limit: Limit | None = None
) -> Plan:
    """The plan of a problem whose network is asked for gradients: it says how D is made, its steps are not taken."""
    return compile_plan(
        SOLVERS, "ddim", path=path, steps=2, prediction=prediction, preconditioning=preconditioning,
        sigma_data=sigma_data, limit=limit,
    )  # fmt: skip


def gradient(
    problem: Problem,
    x: Tensor,
    settings: Settings,
    *,
    iteration: int,
    seed: int,
    views: Sequence[int] | None = None,
    over: int | None = None,
    steer: Tilting | Sequence[Tilting] | None = None,
    target: Target | None = None,
    negatives: Negatives | None = None,
    deviation: float | None = None,
) -> Generator[Rows, Tensor, Distilled]:
    """The gradient for B views x [B, *event]; yields the rows that it needs, as samplers do.

    Args:
        problem: the network, its conditions [B, ...] by name (a camera is one) and guidance, by a plan such as
            `prior`'s: on the path that the network was trained on, without noise.
        iteration: the client's own count, from 0.
        views: the number of each view, for its noise and times; 0..B - 1 when absent. Equal numbers share them.
        over: what the loss averages over, B when absent: for a client that sends its views in several calls.
        steer: tilts the prior, with one method for all views or one for each.
        target: the reward that weighs noises, for mode "reward_sds".
        negatives: negative conditions, see `perp_neg`; they need guidance.
        deviation: the data's standard deviation, for warnings.

    Raises:
        PlanError: arguments that do not fit one another, or are out of range; one line.
        UnsuitableError: a steering method that does more than replace denoised estimates.
        SteeringError: a reward that failed.
    """
    numbers = list(range(len(x))) if views is None else list(views)
    report = Report()
    estimator, looked, times = _looked(problem, x, settings, iteration, seed, numbers, steer, target, negatives, report)
    first, second = times
    kind, b = settings.kind, len(x)
    share = b if over is None else over
    if isinstance(share, bool) or not isinstance(share, int) or share < 1:
        raise PlanError(f"over: expected a number of views of at least 1, got {over!r}")
    if estimator.steer:
        yield from estimator.prepare()
    meter: Counter[str] = Counter()
    raw = yield from metered(kind.direction(looked), meter)
    raw = raw * along(WEIGHTINGS[settings.weighting](first), raw)
    finite = raw.isfinite()
    clean = raw if bool(finite.all()) else torch.where(finite, raw, 0.0)
    clip = settings.clip_at(iteration)
    if clip is not None:
        clean = clean.clamp(-clip, clip)
    given = (clean / share).to(problem.dtype)
    overflown = given.isinf()  # of a smaller dtype
    if bool(overflown.any()):
        given = torch.where(overflown, 0.0, given)
    squares = by_tiles(lambda tile: ((tile * tile).sum(dim=1),), clean.flatten(1))[0]
    report.count(meter)
    return Distilled(
        gradient=given,
        loss=squares / (2 * share),
        t1=first.t,
        t2=second.t,
        rho1=first.rho,
        rho2=second.rho,
        norm=squares.sqrt() / share,
        nonfinite=int((~finite).sum()) + int(overflown.sum()),
        network_rows=report.network_rows,
        reward_rows=report.reward_rows,
        setup_rows=report.setup_rows,
        setup_reward_rows=report.setup_reward_rows,
        ess=torch.stack(estimator.ess) if _even(estimator.ess) else torch.empty(0, 0),
        choices=tuple(report.choices),
        warnings=(*advice.warnings(settings, second.rho, deviation), *report.warnings),
    )


def network_rows(problem: Problem, settings: Settings, rho2: Tensor, negatives: int = 0) -> int:
    """Network rows of views whose cleaner noise levels are rho2 [B], without those of steering."""
    b = len(rho2)
    guided = problem.guidance != 1 and bool(problem.condition) and bool(problem.null)
    each = (2 + negatives) if guided else 1
    if settings.mode == "ism":
        return int(ism.inversions(rho2, settings.stride, settings.data_scale).sum()) + b + b * each
    return b * settings.noises * each * (2 if settings.mode == "cds" else 1)


def times_of(
    problem: Problem, settings: Settings, iteration: int, seed: int, views: Sequence[int]
) -> tuple[Levels, Levels]:
    """The levels of t1 and t2 of each view, as the network knows them. Raises `PlanError`."""
    plan, given = problem.plan, settings.times
    times = given if isinstance(given, Times) else given.times(plan.path, iteration, seed, views)
    return levels(plan, times, len(views), settings.kind.two)


def _looked(
    problem: Problem,
    x: Tensor,
    settings: Settings,
    iteration: int,
    seed: int,
    numbers: list[int],
    steer: Tilting | Sequence[Tilting] | None,
    target: Target | None,
    negatives: Negatives | None,
    report: Report,
) -> tuple[Estimator, Looked, tuple[Levels, Levels]]:
    """What a mode looks at."""
    kind, b = settings.kind, len(x)
    _check(problem, x, iteration, seed, numbers)
    if (target is not None) != kind.weighs:
        wanted = "a reward" if kind.weighs else "no reward that weighs noises"
        raise PlanError(f"mode {settings.mode!r}: expected {wanted}, got {'one' if target is not None else 'none'}")
    if kind.weighs and steer is not None:
        raise PlanError(f"mode {settings.mode!r}: expected no steering beside it, got some")
    if negatives is not None:
        negatives = negatives.checked(b, set(problem.condition))
        if problem.guidance == 1 or not problem.null:
            raise PlanError("negatives: expected guidance other than 1 and a null condition beside them, got none")
    first, second = times_of(problem, settings, iteration, seed, numbers)
    methods = _methods(steer, b)
    candidates = noises.of_iteration(seed, iteration, numbers) if methods else None
    estimator = Estimator(problem, methods, candidates, negatives, report)
    copies = x.to(torch.float64)
    if problem.mean is not None:
        copies = copies - problem.mean.to(torch.float64)
    of = torch.arange(b)
    noise = torch.empty(0, dtype=torch.float64)
    k = settings.noises
    if kind.noise is not None:
        drawn = noises.normal(settings.noise or kind.noise, seed, iteration, numbers, k, problem.event)
        noise = drawn.reshape(k * b, *problem.event)
        if k > 1:
            copies, of = copies.repeat(k, *(1 for _ in problem.event)), of.repeat(k)
    looked = Looked(
        estimator=estimator, copies=copies, of=of, first=first if k == 1 else first[of],
        second=second if k == 1 else second[of], noise=noise, noises=k, rescale=settings.rescale,
        stride=settings.stride, scale=settings.data_scale, target=target,
    )  # fmt: skip
    return estimator, looked, (first, second)


def _methods(steer: Tilting | Sequence[Tilting] | None, views: int) -> Sequence[Tilting]:
    """The steering method of each view; none for no steering."""
    if steer is None:
        return ()
    methods = [steer] * views if isinstance(steer, Steering) else list(steer)
    if len(methods) != views:
        raise PlanError(f"steer: expected one method, or one for each of {views} views, got {len(methods)}")
    for each in methods:
        if not isinstance(each, Tilting):
            raise UnsuitableError(
                f"steer: expected a method that replaces denoised estimates, such as Doob, got {type(each).__name__}"
            )
    return methods


def _check(problem: Problem, x: Tensor, iteration: int, seed: int, numbers: list[int]) -> None:
    plan = problem.plan
    if plan.path != plan.trained or plan.uses_noise or plan.reverse:
        raise PlanError("plan: expected one of the path that the network was trained on, without noise, got another")
    if plan.generates:
        raise PlanError("plan: expected a denoiser, whose estimates are means, got a consistency model's")
    if not len(x) or tuple(x.shape[1:]) != tuple(problem.event):
        raise PlanError(f"views: expected shape {['B', *problem.event]}, got {list(x.shape)}")
    if not x.is_floating_point() or not bool(x.isfinite().all()):
        raise PlanError("views: expected finite numbers, got NaN or infinity, or integers")
    if isinstance(iteration, bool) or not isinstance(iteration, int) or not 0 <= iteration < noises.MOST_ITERATIONS:
        raise PlanError(f"iteration: expected a whole number in 0..{noises.MOST_ITERATIONS - 1}, got {iteration!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise PlanError(f"seed: expected an integer in 0..2^63-1, got {seed!r}")
    if len(numbers) != len(x) or not all(0 <= number < MOST_VIEW for number in numbers):
        raise PlanError(f"views: expected {len(x)} numbers in 0..{MOST_VIEW - 1}, got {numbers!r:.80}")
    for name, tensor in problem.condition.items():
        if len(tensor) != len(x):
            raise PlanError(f"condition {name!r}: expected {len(x)} rows, one a view, got {len(tensor)}")


def _even(parts: list[Tensor]) -> bool:
    return bool(parts) and len({len(part) for part in parts}) == 1


def summed(parts: Sequence[tuple[float, Distilled]]) -> Distilled:
    """The gradient of several priors at once: sum_k weight_k times that of prior k, each with its own clip.

    Times and levels are the first prior's.
    """
    if not parts or not all(math.isfinite(weight) for weight, _ in parts):
        raise PlanError("weights: expected a finite weight for each of one prior or more")
    _, first = parts[0]
    total = sum((each.gradient.to(torch.float64) * weight for weight, each in parts), torch.zeros(()).double())
    squares = by_tiles(lambda tile: ((tile * tile).sum(dim=1),), total.flatten(1))[0]
    return replace(
        first,
        gradient=total.to(first.gradient.dtype),
        loss=sum((each.loss * weight for weight, each in parts), torch.zeros(()).double()),
        norm=squares.sqrt(),
        nonfinite=sum(each.nonfinite for _, each in parts),
        network_rows=sum(each.network_rows for _, each in parts),
        reward_rows=sum(each.reward_rows for _, each in parts),
        setup_rows=sum(each.setup_rows for _, each in parts),
        setup_reward_rows=sum(each.setup_reward_rows for _, each in parts),
        choices=tuple(dict.fromkeys(each for _, part in parts for each in part.choices)),
        warnings=tuple(dict.fromkeys(each for _, part in parts for each in part.warnings)),
    )
