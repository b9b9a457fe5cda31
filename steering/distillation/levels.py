"""The two times of a view that a distillation gradient looks at, and their noise levels on a model's path."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import PlanError
from steering.paths import Path, whole_times
from steering.plans.plan import Plan
from steering.plans.predictions import Denoise

SLACK = 1e-9
"""Of a time that was computed to be an end of the path."""


@dataclass(frozen=True, eq=False)
class Times:
    """Path times t1 > t2 of each view, [B] each, or [1] for all alike; float64.

    Attributes:
        t2: the cleaner one; None for modes that look at t1 alone.
    """

    t1: Tensor
    t2: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Levels:
    """Path times [B] and the path's scales there, x_t = alpha x_0 + sigma eps and rho = sigma / alpha; and the rule
    that makes D of the network's output."""

    t: Float64[Tensor, " b"]
    alpha: Float64[Tensor, " b"]
    rho: Float64[Tensor, " b"]
    rule: Denoise

    @classmethod
    def of(cls, plan: Plan, t: Float64[Tensor, " b"]) -> "Levels":
        """Of times at which the network can be asked, see `known`."""
        alpha = plan.path.alpha(t)
        return cls(t, alpha, plan.path.sigma(t) / alpha, plan.denoise(t))

    def __getitem__(self, rows: Tensor | slice) -> "Levels":
        rule = self.rule
        t, scale, state, output = (torch.as_tensor(c)[rows] for c in (rule.t, rule.scale, rule.state, rule.output))
        return Levels(self.t[rows], self.alpha[rows], self.rho[rows], Denoise(t, scale, state, output, rule.limit))


@lru_cache(maxsize=256)
def span(path: Path) -> Path:
    """The path between times with finite noise levels above 0."""
    return path.finite


def known(path: Path, t: Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
    """Times as the network of a path knows them: the nearest whole ones where it takes no others."""
    within = span(path)
    return whole_times(within, t.clamp(within.t_min, within.t_max))


def levels(plan: Plan, times: Times, views: int, two: bool) -> tuple[Levels, Levels]:
    """The levels of t1 and t2 for so many views.

    Args:
        two: the mode compares t1 with t2, which must then be below it.

    Raises:
        PlanError: times that do not fit the views or lie outside of the path, or t2 not below t1.
    """
    if times.t2 is None:
        if two:
            raise PlanError("t2: expected a time below t1 for a mode that compares two, got none")
        level = Levels.of(plan, known(plan.path, _each("t1", times.t1, views, plan.path)))
        return level, level
    given = [_each(name, t, views, plan.path) for name, t in (("t1", times.t1), ("t2", times.t2))]
    both = known(plan.path, torch.cat(given))
    t1, t2 = both[:views], both[views:]
    above = t2 >= t1 if two else t2 > t1
    if bool(above.any()):
        view = int(above.nonzero()[0])
        why = ", once both are moved to whole times that the network knows" if plan.path.whole else ""
        raise PlanError(
            f"t2: expected a time below t1{why}, got t1={float(t1[view]):.9g} and t2={float(t2[view]):.9g} "
            f"in view {view}"
        )
    joined = Levels.of(plan, both)
    return joined[slice(0, views)], joined[slice(views, None)]


def _each(name: str, t: object, views: int, path: Path) -> Float64[Tensor, " b"]:
    """A time for each view, within the path."""
    given = torch.as_tensor(t, dtype=torch.float64)
    if given.ndim > 1 or (given.ndim and len(given) not in (1, views)):
        raise PlanError(f"{name}: expected a time, or one for each of {views} views, got shape {list(given.shape)}")
    if not bool(given.isfinite().all()):
        raise PlanError(f"{name}: expected finite times, got NaN or infinity")
    each, within = given.reshape(-1).expand(views), span(path)
    slack = SLACK * max(1.0, abs(within.t_max))
    off = (each < within.t_min - slack) | (each > within.t_max + slack)
    if bool(off.any()):
        view = int(off.nonzero()[0])
        raise PlanError(
            f"{name}: expected a time in {within.t_min:.6g}..{within.t_max:.6g}, where the model is known, "
            f"got {float(each[view]):.9g} in view {view}"
        )
    return each
