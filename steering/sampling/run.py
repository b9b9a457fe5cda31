"""The offline driver: runs a sampler against a network and a reward in this process."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, overload

import torch
from torch import Tensor

from steering.errors import SteeringError
from steering.numerics.noise import Noise
from steering.plans.plan import Plan
from steering.sampling.guidance import Interval
from steering.sampling.rows import Result, Rows, answered
from steering.sampling.sampler import Noised, Problem, Report, Start, Steering, sample

Network = Callable[..., Tensor]
TILE = 16
GROUP_ELEMENTS = 2**25
COTANGENT = "cotangent of the output"
"""Its key among the conditions, whose names are identifiers and so differ from it."""


@overload
def run(
    plan: Plan, network: Network, shape: tuple[int, ...], seed: int = ..., steer: Steering | None = ...,
    condition: Mapping[str, Tensor] | None = ..., guidance: float = ..., x_init: Start | None = ...,
    dtype: torch.dtype = ..., report: Literal[False] = ..., *, null: Mapping[str, Tensor] | None = ...,
    keep: Collection[str] = ..., guidance_interval: Interval | None = ..., guidance_rescale: float = ...,
    tile: int | None = ..., mean: Tensor | None = ..., start_mean: Tensor | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def run(
    plan: Plan, network: Network, shape: tuple[int, ...], seed: int = ..., steer: Steering | None = ...,
    condition: Mapping[str, Tensor] | None = ..., guidance: float = ..., x_init: Start | None = ...,
    dtype: torch.dtype = ..., *, report: Literal[True], null: Mapping[str, Tensor] | None = ...,
    keep: Collection[str] = ..., guidance_interval: Interval | None = ..., guidance_rescale: float = ...,
    tile: int | None = ..., mean: Tensor | None = ..., start_mean: Tensor | None = ...,
) -> tuple[Tensor, Report]: ...  # fmt: skip
def run(
    plan: Plan,
    network: Network,
    shape: tuple[int, ...],
    seed: int = 0,
    steer: Steering | None = None,
    condition: Mapping[str, Tensor] | None = None,
    guidance: float = 1.0,
    x_init: Start | None = None,
    dtype: torch.dtype = torch.float32,
    report: bool = False,
    *,
    null: Mapping[str, Tensor] | None = None,
    keep: Collection[str] = (),
    guidance_interval: Interval | None = None,
    guidance_rescale: float = 0.0,
    tile: int | None = TILE,
    mean: Tensor | None = None,
    start_mean: Tensor | None = None,
) -> Tensor | tuple[Tensor, Report]:
    """Draw shape[0] samples of shape shape[1:] with `network(x, t, **condition)`.

    Args:
        network: raw outputs [B, *event] for rows x [B, *event] at path times t [B].
        steer: a `Doob`, a `Project`, or None.
        condition: tensors [n, ...] or [1, ...] by name.
        guidance: classifier-free guidance scale; other than 1 needs `null`, the null condition's tensors [1, ...] or
            [n, ...] by name (a negative prompt), and `keep`, the names of conditions that the null rows have too.
        guidance_interval: log-SNRs between which guidance acts, such as `units.interval(0.3, 5, "rho", path)`; no null
            rows are asked elsewhere. None: everywhere.
        guidance_rescale: phi in 0..1 of Lin et al. 2023 (arXiv:2305.08891), against over-exposure.
        x_init: state at the plan's first node, [n, *event], already scaled; or `Noised(data)`, for a plan of less
            `strength` than 1.
        report: also return a `Report`.
        tile: rows per call of the network, the last call filled up: rows 0..k of a larger run then equal the smaller
            run bit for bit. None: all rows in one call, faster for small networks, without that guarantee.
        mean: what a mean-reverting process reverts to, [n, *event] or [1, *event]; none otherwise.
        start_mean: the mean of the data [*event], such as a bank's: samples then begin at alpha mean, not at 0, with
            the noise of the first node. What leaving it out costs, `Problem` says.

    Raises:
        SteeringError: a reward raised, or returned a wrong shape, NaN or +inf.
        NetworkError: the network returned a wrong shape or NaN, or outputs so large that samples are no numbers.
        ValueError: arguments out of range.
    """
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape: expected (samples, *event), all of them at least 1, got {tuple(shape)}")
    n, event = shape[0], tuple(shape[1:])
    given = x_init.data if isinstance(x_init, Noised) else x_init
    if given is not None and tuple(given.shape) != tuple(shape):
        raise ValueError(f"x_init: expected shape {list(shape)}, got {list(given.shape)}")
    conditions, nulls = conditions_of(n, condition, null, keep, guidance)
    means = None if mean is None else expanded("mean", torch.as_tensor(mean, dtype=dtype), n)
    if means is not None and tuple(means.shape) != tuple(shape):
        raise ValueError(f"mean: expected shape {list(shape)} or {[1, *event]}, got {list(means.shape)}")
    _check_guidance(guidance_interval, guidance_rescale)
    # samples are independent: groups bound the memory of the particles and keep every sample's place in its tile
    group = n
    if steer is not None:
        elements = steer.held * math.prod(event)
        unit = math.lcm(TILE, steer.together)
        group = max(unit, GROUP_ELEMENTS // elements // unit * unit)
    whole = Problem(
        plan=plan,
        event=event,
        dtype=dtype,
        condition=conditions,
        guidance=guidance,
        null=nulls,
        guidance_interval=guidance_interval,
        guidance_rescale=guidance_rescale,
        model=network,
        mean=means,
        start_mean=None if start_mean is None else torch.as_tensor(start_mean, dtype=dtype),
    )
    scoring = Scoring.of(steer)
    parts = []
    for first in range(0, n, group):
        rows = slice(first, min(first + group, n))
        generator = sample(
            whole.rows(rows), Noise(seed, range(rows.start, rows.stop)), steer, None if x_init is None else x_init[rows]
        )
        parts.append(answered(generator, lambda request: answer(request, network, tile, scoring)))
    x = torch.cat([part for part, _ in parts])
    return (x, merged([r for _, r in parts])) if report else x


def solve(generator: Generator[Rows, Tensor, Result], network: Network, tile: int | None = TILE) -> Result:
    """The result of any generator of network rows (`likelihood`, `diagnostics`, ...), answered by `network`."""
    return answered(generator, lambda request: answer(request, network, tile))


def conditions_of(
    n: int,
    condition: Mapping[str, Tensor] | None,
    null: Mapping[str, Tensor] | None,
    keep: Collection[str],
    guidance: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Conditions and null conditions of n samples, as a `Problem` has them; `ValueError` where they do not fit."""
    conditions = {k: expanded(k, torch.as_tensor(c), n) for k, c in (condition or {}).items()}
    nulls = _nulls(null or {}, conditions, n)
    if guidance != 1 and not conditions:
        raise ValueError(f"guidance: expected 1.0 without conditions, got {guidance}")
    if unknown := sorted(set(keep) - set(conditions)):
        raise ValueError(f"keep: expected some of {sorted(conditions)}, got {unknown[0]!r}")
    dropped = sorted(set(conditions) - set(keep))
    if guidance != 1 and sorted(nulls) != dropped:
        raise ValueError(f"guidance {guidance}: expected null tensors for {dropped}, got {sorted(nulls)}")
    if guidance != 1 and not dropped:
        raise ValueError(f"guidance {guidance}: expected a condition that is dropped, got keep {sorted(keep)}")
    return conditions, nulls


def expanded(name: str, condition: Tensor, n: int) -> Tensor:
    """A condition with one row per sample."""
    if condition.ndim == 0 or len(condition) not in (1, n):
        raise ValueError(f"condition {name!r}: expected shape [{n}, ...] or [1, ...], got {list(condition.shape)}")
    return condition.expand(n, *condition.shape[1:])


def _nulls(null: Mapping[str, Tensor], conditions: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    """Null tensors of one row or a row per sample; a number stands for itself everywhere."""
    nulls = {name: torch.as_tensor(tensor) for name, tensor in null.items()}
    for name, tensor in nulls.items():
        if not tensor.ndim and name in conditions:
            nulls[name] = tensor.expand(1, *conditions[name].shape[1:])
        expanded(f"null {name}", nulls[name], n)
    return nulls


def _check_guidance(interval: Interval | None, rescale: float) -> None:
    if interval is not None and not interval[0] <= interval[1]:
        raise ValueError(f"guidance_interval: expected two log-SNRs, the lower first, got {interval}")
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance_rescale: expected a number in 0..1, got {rescale}")


def merged(reports: list[Report]) -> Report:
    """One report for groups of samples that ran one after another."""
    first = reports[0]
    rewards = [r.rewards for r in reports if r.rewards is not None]
    tallies = _added([r.tallies for r in reports])
    counted = [f"{count} of {of} {what}" for what, (count, of) in tallies.items() if count]
    return Report(
        network_rows=sum(r.network_rows for r in reports),
        reward_rows=sum(r.reward_rows for r in reports),
        gradient_rows=sum(r.gradient_rows for r in reports),
        reward_gradient_rows=sum(r.reward_gradient_rows for r in reports),
        setup_rows=sum(r.setup_rows for r in reports),
        setup_reward_rows=sum(r.setup_reward_rows for r in reports),
        ess=torch.cat([r.ess for r in reports], dim=-1),
        methods=sum((r.methods for r in reports), Counter[str]()),
        no_hit=sum(r.no_hit for r in reports),
        rewards=torch.cat(rewards) if rewards else None,
        # a bank's is the same for all groups, populations have one each
        log_z=first.log_z if first.population_ess is None else _joined([r.log_z for r in reports]),
        population_ess=_joined([r.population_ess for r in reports]),
        ancestry=_joined([r.ancestry for r in reports]),
        choices=list(dict.fromkeys(c for r in reports for c in r.choices)),
        warnings=[*dict.fromkeys(w for r in reports for w in r.warnings), *counted],
        tallies=tallies,
    )


def _added(parts: list[dict[str, tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    """Tallies of all groups."""
    whole: dict[str, tuple[int, int]] = {}
    for what, (count, of) in (each for part in parts for each in part.items()):
        counted, seen = whole.get(what, (0, 0))
        whole[what] = counted + count, seen + of
    return whole


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """Groups side by side."""
    there = [part for part in parts if part is not None]
    return torch.cat(there, dim=-1) if there else None


@dataclass(frozen=True)
class Scoring:
    """What answers reward rows: a reward, its name in errors, and the candidates of a sample it is asked at once."""

    reward: Callable[[Tensor], Tensor]
    name: str
    held: int = 1

    @classmethod
    def of(cls, steer: Steering | None) -> "Scoring | None":
        """Of a steering method that has a reward."""
        return None if steer is None or steer.reward is None else cls(steer.reward, steer.name, steer.held)


@torch.no_grad()
def answer(request: Rows, network: Network, tile: int | None, scoring: Scoring | None = None) -> Tensor:
    """The reply to rows of any kind, by a network and a reward in this process."""
    if request.matrix is not None:
        return request.matrix.times(request.x)
    if request.kind in ("estimate", "state"):  # nobody watches here
        return request.x
    if request.kind in ("network", "pullback"):
        tensors = {"x": request.x, "t": request.t.to(request.x.dtype), **request.condition}
        if request.cotangent is None:
            return _tiled(lambda x, t, **c: network(x, t, **c), tensors, tile)
        return _tiled(partial(_pullback, network), {**tensors, COTANGENT: request.cotangent}, tile)
    assert scoring is not None
    reward, per_call = scoring.reward, None if tile is None else tile * scoring.held
    if request.kind == "reward_gradient":
        reward = partial(_with_gradient, reward, scoring.name)
    try:
        return _tiled(lambda x: reward(x), {"x": request.x}, per_call)
    except SteeringError:
        raise
    except Exception as error:
        raise SteeringError(f"reward {scoring.name!r} raised {type(error).__name__}: {error}") from error


@torch.enable_grad()
def _pullback(network: Network, /, x: Tensor, t: Tensor, **tensors: Tensor) -> Tensor:
    """J^T v [B, *event], J the Jacobian in x of the network's output."""
    cotangent = tensors.pop(COTANGENT)
    x = x.detach().requires_grad_()
    output = network(x, t, **tensors)
    if not isinstance(output, Tensor) or output.shape != x.shape:
        raise SteeringError(f"network: expected a tensor of shape {list(x.shape)} to differentiate, got another")
    return _differentiated("network", output, x, cotangent)


@torch.enable_grad()
def _with_gradient(reward: Callable[[Tensor], Tensor], name: str, x: Tensor) -> Tensor:
    """Rewards and their gradients [B, 1 + d]; a wrong reply of the reward itself is judged where it is used."""
    x = x.detach().requires_grad_()
    scores = reward(x)
    if not isinstance(scores, Tensor) or scores.shape != (len(x),):
        return scores
    gradient = _differentiated(f"reward {name!r}", scores, x, torch.ones_like(scores))
    return torch.cat([scores.detach().to(x.dtype)[:, None], gradient.flatten(1)], dim=1)


def _differentiated(what: str, output: Tensor, x: Tensor, cotangent: Tensor) -> Tensor:
    """The cotangent pulled back to x; `SteeringError` where the output does not depend on x differentiably."""
    if output.requires_grad:
        (gradient,) = torch.autograd.grad(output, x, cotangent.to(output.dtype), allow_unused=True)
        if gradient is not None:
            return gradient
    raise SteeringError(f"{what}: expected a differentiable function of x for a gradient method, got none")


def _tiled(function: Callable[..., Tensor], tensors: Mapping[str, Tensor], tile: int | None) -> Tensor:
    """Evaluate tensors [rows, ...] in calls of exactly `tile` rows, the last filled up with copies of its last row."""
    if tile is None:
        return function(**tensors)
    rows = len(tensors["x"])
    outputs = []
    for first in range(0, rows, tile):
        index = torch.arange(first, first + tile).clamp(max=rows - 1)
        output = function(**{name: tensor[index] for name, tensor in tensors.items()})
        if not isinstance(output, Tensor) or output.shape[:1] != (tile,):
            return output  # a wrong reply is reported where it is used
        outputs.append(output)
    return torch.cat(outputs)[:rows]
