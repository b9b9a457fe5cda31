"""The notebook's driver: solves with a field that is a function of this process."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.control import Control
from steering.dynamics.problem import Event, Kind, Problem, pose
from steering.dynamics.solution import Solution
from steering.dynamics.table import SOLVERS
from steering.errors import NetworkError, PlanError, choose
from steering.sampling.rows import answered

Field = Callable[..., Tensor | Mapping[str, Tensor]]
"""(y [m, *state], t [m], condition by name [m, ...]) to the drift [m, *state], or to tensors by role."""


def solve(
    field: Field,
    y0: Tensor,
    t_eval: Tensor | Sequence[float],
    *,
    solver: str = "tsit5",
    kind: Kind = "ode",
    rtol: float | Tensor = 1e-5,
    atol: float | Tensor = 1e-6,
    dt0: float | Tensor | None = None,
    dt: float | Tensor | None = None,
    max_steps: int = 10_000,
    events: Sequence[Event] = (),
    event: Field | None = None,
    max_events: int | None = None,
    condition: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    noise: str = "diagonal",
    form: str = "plain",
    calculus: str = "ito",
    control: Control | None = None,
    conserve: Tensor | None = None,
    linear: Tensor | None = None,
    **options: float,
) -> Solution:
    """Solve dy/dt = field(y, t, **condition) from y0 [n, *state] at the first of the times to the others.

        y = solve(lambda y, t: -y, torch.ones(1, 2), [0.0, 1.0]).y

    Args:
        field: called with rows of many trajectories, each at its own time, in `dtype`.
        t_eval, rtol, atol, dt0, dt, max_steps, max_events: see `steering.dynamics.pose`.
        solver: a name in `steering.dynamics.SOLVERS`.
        event: the network of events without a coordinate, (y, t, **condition) to [m] or [m, E].
        condition: further arguments of field and event, [n, ...] or, the same for all trajectories, [1, ...].
        seed, indices, noise, form, calculus: of sdes, see `steering.dynamics.sde`.
        control: the observations that drive a cde, whose field is called with their derivative as `dx`, too; or
            what a map is called with as `dx` at each step.
        conserve: see `steering.dynamics.maps`.
        linear: of "imex4", the matrix L [d, d] of dy/dt = field + L y, y flattened.
        options: the solver's own, see `steering.dynamics.SOLVERS[solver].options`.

    Raises:
        PlanError: something is not as expected. NetworkError: the field returned another shape.
    """
    if solver not in SOLVERS:
        raise PlanError(choose("solver", solver, SOLVERS))
    chosen = SOLVERS[solver]
    what = pose(
        chosen, y0, t_eval, kind=kind, rtol=rtol, atol=atol, dt0=dt0, dt=dt, max_steps=max_steps, events=events,
        max_events=max_events, options=options, dtype=dtype, seed=seed, indices=indices,
        noise=noise, form=form, calculus=calculus, control=control, linear=linear,
        conserve=conserve,
    )  # fmt: skip
    return answered(chosen.program(what), answering(what, field, event=event, condition=condition))


def answering(
    problem: Problem, field: Field, *, event: Field | None = None, condition: Mapping[str, Tensor] | None = None
) -> Callable[[Ask], Reply]:
    """What answers a program's rows with functions of this process."""
    given = {name: _rows(name, value, problem.n) for name, value in (condition or {}).items()}
    parts: dict[str, tuple[str, Field | None]] = {
        "field": (DEFAULT_ROLE[problem.kind], field),
        "event": ("event", event),
    }

    def answer(ask: Ask) -> Reply:
        if ask.part == "saved":
            return {}
        role, function = parts.get(ask.part, ("", None))
        if function is None:
            raise PlanError(f"rows of {ask.part!r}: expected a function that answers them, got none")
        named = {name: value[ask.index] for name, value in given.items()}
        extra = {role: value.to(problem.dtype) for role, value in ask.extra.items() if value.is_floating_point()}
        out = function(ask.y.to(problem.dtype), ask.t.to(problem.dtype), **extra, **named)
        reply = out if isinstance(out, Mapping) else {role: out}
        return {name: _checked(name, ask, value) for name, value in reply.items()}

    return answer


DEFAULT_ROLE: Mapping[Kind, str] = {
    "ode": "drift",
    "sde": "drift",
    "cde": "drift",
    "map": "next",
    "fixed_point": "next",
}
"""What a field that returns one tensor returns."""


def _rows(name: str, value: Tensor, n: int) -> Tensor:
    if value.ndim < 1 or value.shape[0] not in (1, n):
        raise PlanError(f"condition {name!r}: expected [{n}, ...] or [1, ...], got {list(value.shape)}")
    return value.expand(n, *value.shape[1:])


def _checked(role: str, ask: Ask, value: Tensor) -> Tensor:
    if role in ("drift", "next") and value.shape != ask.y.shape:
        raise NetworkError(f"{role}: expected {list(ask.y.shape)}, got {list(value.shape)}")
    if value.shape[:1] != ask.y.shape[:1]:
        raise NetworkError(f"{role}: expected [{len(ask)}, ...], got {list(value.shape)}")
    return value.detach().to(torch.float64)
