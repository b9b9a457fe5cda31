"""The two times of a view that a distillation gradient looks at, and their noise levels on a model's path."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import PlanError
from steering.paths import Path, whole_times

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
    """Path times [B] with the path's scales there: x_t = alpha x_0 + sigma eps, rho = sigma / alpha."""

    t: Float64[Tensor, " b"]
    alpha: Float64[Tensor, " b"]
    rho: Float64[Tensor, " b"]

    @classmethod
    def of(cls, path: Path, t: Float64[Tensor, " b"]) -> "Levels":
        """Of times at which the network can be asked, see `known`."""
        alpha = path.alpha(t)
        return cls(t, alpha, path.sigma(t) / alpha)

    def __getitem__(self, rows: Tensor | slice) -> "Levels":
        return Levels(self.t[rows], self.alpha[rows], self.rho[rows])

    def repeated(self, times: int) -> "Levels":
        """`times` copies, one block after another."""
        return Levels(*(each.repeat(times) for each in (self.t, self.alpha, self.rho)))


def known(path: Path, t: Float64[Tensor, " b"], name: str) -> Float64[Tensor, " b"]:
    """Times as the network of a path knows them: the nearest whole ones where it takes no others.

    Raises:
        PlanError: a time outside of the path, or one without a finite noise level above 0.
    """
    span = path.finite
    slack = SLACK * max(1.0, abs(span.t_max))
    off = ~((t >= span.t_min - slack) & (t <= span.t_max + slack))
    if bool(off.any()):
        view = int(off.nonzero()[0])
        raise PlanError(
            f"{name}: expected a time in {span.t_min:.6g}..{span.t_max:.6g}, where the model is known, "
            f"got {float(t[view]):.9g} in view {view}"
        )
    return whole_times(span, t.clamp(span.t_min, span.t_max))


def levels(path: Path, times: Times, views: int, two: bool) -> tuple[Levels, Levels]:
    """The levels of t1 and t2 for so many views.

    Args:
        two: the mode compares t1 with t2, which must then be below it.

    Raises:
        PlanError: times that do not fit the views or the path, or t2 not below t1.
    """
    if times.t2 is None and two:
        raise PlanError("t2: expected a time below t1 for a mode that compares two, got none")
    t1 = known(path, _each("t1", times.t1, views), "t1")
    t2 = t1 if times.t2 is None else known(path, _each("t2", times.t2, views), "t2")
    above = t2 >= t1 if two else t2 > t1
    if bool(above.any()):
        view = int(above.nonzero()[0])
        why = ", once both are moved to whole times that the network knows" if path.whole else ""
        raise PlanError(
            f"t2: expected a time below t1{why}, got t1={float(t1[view]):.9g} and t2={float(t2[view]):.9g} "
            f"in view {view}"
        )
    first, second = Levels.of(path, t1), Levels.of(path, t2)
    for level, name in ((first, "t1"), (second, "t2")):
        if not bool(((level.rho > 0) & level.rho.isfinite()).all()):
            view = int((~((level.rho > 0) & level.rho.isfinite())).nonzero()[0])
            raise PlanError(
                f"{name}: expected a time with a finite noise level above 0, got {float(level.t[view]):.6g} in view "
                f"{view}"
            )
    return first, second


def _each(name: str, t: object, views: int) -> Float64[Tensor, " b"]:
    """A time for each view."""
    given = torch.as_tensor(t, dtype=torch.float64)
    if given.ndim > 1 or (given.ndim and len(given) not in (1, views)):
        raise PlanError(f"{name}: expected a time, or one for each of {views} views, got shape {list(given.shape)}")
    if not all(map(math.isfinite, given.reshape(-1).tolist())):
        raise PlanError(f"{name}: expected finite times, got NaN or infinity")
    return given.reshape(-1).expand(views).contiguous()
