"""What is to be solved: first states, times, tolerances, and what to look for on the way."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from steering.dynamics.asking import Program
from steering.dynamics.control import Control
from steering.dynamics.solution import Solution
from steering.errors import PlanError, choose
from steering.plans.plan import Option

Kind = Literal["ode", "sde", "cde", "map", "fixed_point"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Law = Literal["additive", "diagonal", "scalar", "general"]
LAWS: tuple[Law, ...] = get_args(Law)
Form = Literal["plain", "langevin", "linear", "geometric"]
FORMS: tuple[Form, ...] = get_args(Form)
Calculus = Literal["ito", "stratonovich"]
CALCULI: tuple[Calculus, ...] = get_args(Calculus)

FINEST_RTOL = {torch.float32: 1e-6, torch.float64: 1e-13}
"""The smallest rtol a field of this type can keep. Below, a step's error is the field's rounding, whose estimate no
smaller step makes smaller: steps shrink without bound (592 rows became 11,442)."""
FINEST_STEP = 1e-300
USUAL_EVENTS = 32
"""Events that are kept of a trajectory that not all end."""
MOST_NUMBERS = 2**22
"""In the Jacobians of a problem: 32 MiB."""


@dataclass(frozen=True)
class Event:
    """A sign change to be found: of one coordinate less `level`, or of an output of the event network.

    Attributes:
        coordinate: of the flattened state; None: of the event network.
        output: which output of the event network.
        level: what the coordinate or output crosses.
        direction: 1 only rising with the trajectory, -1 only falling, 0 both. Along a trajectory that runs backward in
            time, too: "rising" is seen by who travels along it.
        terminal: ends the trajectory.
    """

    coordinate: int | None = None
    output: int = 0
    level: float = 0.0
    direction: int = 0
    terminal: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """n trajectories, each with its own times and tolerances; made by `pose`, which checks it.

    Attributes:
        t_eval: times, of a row all rising or all falling (equal neighbours are allowed); y0 is at the first.
        dt0: first step of adaptive solvers, above 0; None: the solver's own choice.
        dt: longest step of solvers with fixed steps, above 0; None: one step from each time to the next.
        max_steps: steps a trajectory may take, kept or not.
        max_events: events of a trajectory that are kept.
        linear: the field's stiff linear part, a matrix of the flattened state.
        step_graph: whole steps are asked for, of the model's step graph, where the solver is the one that it makes.
        options: the solver's, complete.
        dtype: of the field's graph.
        seed, indices: noise is a function of these, so that a trajectory is the same alone and in company.
        noise, form, calculus: of sdes, see `steering.dynamics.sde`.
        control: of cdes the path that drives them, of maps what each step is given.
        conserve: of maps, weights of the sum over a state's numbers that is to stay what it was.
        show: announce states that are final as `Ask("saved")`.
        warnings: what was done otherwise than asked.
    """

    kind: Kind
    y0: Float64[Tensor, "n *state"]
    t_eval: Float64[Tensor, "n T"]
    rtol: Float64[Tensor, " n"]
    atol: Float64[Tensor, " n"]
    dt0: Float64[Tensor, " n"] | None = None
    dt: Float64[Tensor, " n"] | None = None
    max_steps: int = 10_000
    events: tuple[Event, ...] = ()
    max_events: int = 1
    linear: Float64[Tensor, "d d"] | None = None
    step_graph: bool = False
    options: Mapping[str, float] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64
    seed: int = 0
    indices: Int64[Tensor, " n"]
    noise: Law = "diagonal"
    form: Form = "plain"
    calculus: Calculus = "ito"
    control: Control | None = None
    conserve: Float64[Tensor, " *state"] | None = None
    show: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return self.y0.shape[0]

    @property
    def state(self) -> tuple[int, ...]:
        return tuple(self.y0.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Solver:
    """A row of the table of solvers.

    Attributes:
        kinds: of problems it solves.
        order: of the error at a time in the step; of sdes the strong order.
        weak_order: of sdes, of the error of expectations.
        adaptive: chooses its steps by rtol and atol; otherwise by dt.
        rows: of the field, that a step takes where steps are by dt, at the most.
        events: finds them.
        matrices: keeps d x d numbers for each trajectory, d those of its state.
        memory: keeps so many for each number of a state.
        linear: takes a matrix, the stiff linear part of the field.
        forward: only where time rises.
        about: one line: what it is for, and its paper.
        options: numbers it can be given by name.
        program: from a problem to the generator that solves it.
    """

    name: str
    kinds: tuple[Kind, ...]
    order: float
    weak_order: float | None = None
    adaptive: bool
    rows: int = 0
    events: bool = False
    matrices: bool = False
    memory: int = 0
    linear: bool = False
    forward: bool = False
    about: str
    options: Mapping[str, Option] = field(default_factory=dict)
    program: Callable[[Problem], Program[Solution]]


def pose(
    solver: Solver,
    y0: Tensor,
    t_eval: Tensor | Sequence[float],
    *,
    kind: Kind = "ode",
    rtol: float | Tensor = 1e-5,
    atol: float | Tensor = 1e-6,
    dt0: float | Tensor | None = None,
    dt: float | Tensor | None = None,
    max_steps: int = 10_000,
    events: Sequence[Event] = (),
    max_events: int | None = None,
    options: Mapping[str, float] | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    indices: Sequence[int] | Tensor | None = None,
    noise: str = "diagonal",
    form: str = "plain",
    calculus: str = "ito",
    control: Control | None = None,
    conserve: Tensor | None = None,
    linear: Tensor | None = None,
    show: bool = False,
) -> Problem:
    """Check everything and put it into float64.

    Args:
        y0: [n, *state]. Trajectories whose first state is not finite have that status, and are no error.
        t_eval: [T] for all trajectories or [n, T].
        rtol, atol: for all or [n]. An rtol that is finer than the field's type can keep is raised, with a warning.
        dt0, dt: likewise, above 0 also where time falls.
        max_events: None: 1 if all events are terminal, else 32.
        options: by the solver's names; those left out have the solver's defaults.
        indices: [n], whole numbers below 2^32; None: 0..n-1.
        noise, form, calculus: names in `LAWS`, `FORMS`, `CALCULI`.

    Raises:
        PlanError: a shape, range or name that is not as expected.
    """
    if kind not in solver.kinds:
        raise PlanError(f"solver {solver.name!r}: expected a problem of kind {' or '.join(solver.kinds)}, got {kind}")
    if y0.ndim < 1 or not len(y0):
        raise PlanError(f"y0: expected shape [n, *state] with n >= 1, got {list(y0.shape)}")
    n = len(y0)
    size = math.prod(y0.shape[1:])
    if solver.matrices and n * size * size > MOST_NUMBERS:
        raise PlanError(
            f"solver {solver.name!r}: expected at most {MOST_NUMBERS} numbers in the matrices of all trajectories, "
            f"got {n} of {size} x {size}"
        )
    if n * size * solver.memory > MOST_NUMBERS:
        raise PlanError(
            f"solver {solver.name!r}: expected at most {MOST_NUMBERS // solver.memory} numbers in the states of all "
            f"trajectories, which have {solver.memory} of memory each, got {n} of {size}"
        )
    if solver.linear != (linear is not None):
        wanted, got = ("one", "none") if solver.linear else ("none", "one")
        raise PlanError(f"linear: expected {wanted} for solver {solver.name!r}, got {got}")
    if linear is not None and (linear.shape != (size, size) or not bool(linear.isfinite().all())):
        raise PlanError(f"linear: expected finite numbers [{size}, {size}], got {list(linear.shape)}")
    times = _times(torch.as_tensor(t_eval, dtype=torch.float64), n)
    if solver.forward and bool((times[:, -1] < times[:, 0]).any()):
        raise PlanError(f"t_eval: expected rising times for solver {solver.name!r}, got falling ones")
    if control is not None and control.n != n:
        raise PlanError(f"control: expected {n} rows, got {control.n}")
    fine, rough = _each("rtol", rtol, n, 0.0, 1.0), _each("atol", atol, n, 0.0, math.inf)
    if solver.adaptive and bool((fine + rough == 0).any()):
        raise PlanError("rtol, atol: expected one of them above 0, got 0 for both")
    raised = fine.clamp(min=FINEST_RTOL.get(dtype, max(FINEST_RTOL.values())))
    warnings: tuple[str, ...] = ()
    if solver.adaptive and not torch.equal(raised, fine):
        least, kept = float(fine.min()), float(raised.min())
        warnings = (
            f"rtol {least:g} is finer than a {str(dtype).removeprefix('torch.')} field gives: {kept:g} was used",
        )
    if not max_steps >= 1:
        raise PlanError(f"max_steps: expected at least 1, got {max_steps}")
    if events and not solver.events:
        raise PlanError(f"events: expected a solver that finds them, got {solver.name!r}")
    for event in events:
        _check(event, size)
    kept_events = max_events or (1 if all(event.terminal for event in events) else USUAL_EVENTS)
    if not 1 <= kept_events <= 10_000:
        raise PlanError(f"max_events: expected 1..10000, got {kept_events}")
    numbers = torch.arange(n) if indices is None else torch.as_tensor(indices, dtype=torch.int64)
    if numbers.shape != (n,):
        raise PlanError(f"indices: expected shape [{n}], got {list(numbers.shape)}")
    return Problem(
        kind=kind,
        y0=y0.to(torch.float64).contiguous(),
        t_eval=times,
        rtol=raised if solver.adaptive else fine,
        atol=rough,
        dt0=None if dt0 is None else _each("dt0", dt0, n, FINEST_STEP, math.inf),
        dt=None if dt is None else _each("dt", dt, n, FINEST_STEP, math.inf),
        max_steps=max_steps,
        events=tuple(events),
        max_events=kept_events,
        options=_options(solver, options or {}),
        dtype=dtype,
        seed=seed,
        indices=numbers,
        noise=_named("noise", noise, LAWS),
        form=_named("form", form, FORMS),
        calculus=_named("calculus", calculus, CALCULI),
        control=control,
        conserve=None if conserve is None else _weights(conserve, tuple(y0.shape[1:])),
        linear=None if linear is None else linear.to(torch.float64).contiguous(),
        show=show,
        warnings=warnings,
    )


Name = TypeVar("Name", bound=str)


def _named(what: str, name: str, known: tuple[Name, ...]) -> Name:
    for each in known:
        if each == name:
            return each
    raise PlanError(choose(what, name, known))


def _times(t: Tensor, n: int) -> Float64[Tensor, "n T"]:
    if t.ndim == 1:
        t = t.expand(n, -1)
    if t.ndim != 2 or t.shape[0] != n or not t.shape[1]:
        raise PlanError(f"t_eval: expected shape [T] or [{n}, T] with T >= 1, got {list(t.shape)}")
    if not bool(t.isfinite().all()):
        raise PlanError("t_eval: expected finite times, got NaN or infinity")
    steps = t.diff(dim=1)
    turning = ((steps > 0).any(dim=1) & (steps < 0).any(dim=1)).nonzero()
    if len(turning):
        raise PlanError(
            f"t_eval: expected times that only rise or only fall, got some of both in row {int(turning[0])}"
        )
    return t.contiguous()


def _each(name: str, value: float | Tensor, n: int, low: float, high: float) -> Float64[Tensor, " n"]:
    """A number for each trajectory, in low..high and finite."""
    values = torch.as_tensor(value, dtype=torch.float64)
    if values.ndim > 1 or (values.ndim == 1 and len(values) not in (1, n)):
        raise PlanError(f"{name}: expected a number or shape [{n}], got {list(values.shape)}")
    bad = ~(values.isfinite() & (values >= low) & (values <= high))
    if bool(bad.any()):
        bounds = f"in {low:g}..{high:g}" if math.isfinite(high) else f"of at least {low:g}"
        raise PlanError(f"{name}: expected finite numbers {bounds}, got {float(values.flatten()[bad.flatten()][0]):g}")
    return values.expand(n).contiguous()


def _weights(weights: Tensor, state: tuple[int, ...]) -> Float64[Tensor, " *state"]:
    """What is conserved, of the shape of a state."""
    if weights.ndim > len(state) or any(
        a not in (1, b) for a, b in zip(weights.shape[::-1], state[::-1], strict=False)
    ):
        raise PlanError(f"conserve: expected weights that broadcast to {list(state)}, got {list(weights.shape)}")
    whole = weights.to(torch.float64).expand(state)
    if not bool(whole.isfinite().all() & (whole >= 0).all() & (whole > 0).any()):
        raise PlanError("conserve: expected finite weights of at least 0, some above, got others")
    return whole


def _check(event: Event, size: int) -> None:
    if event.coordinate is not None and not 0 <= event.coordinate < size:
        raise PlanError(f"events: expected a coordinate in 0..{size - 1}, got {event.coordinate}")
    if event.direction not in (-1, 0, 1):
        raise PlanError(f"events: expected a direction of -1, 0 or 1, got {event.direction}")
    if not math.isfinite(event.level) or event.output < 0:
        raise PlanError("events: expected a finite level and an output of at least 0")


def _options(solver: Solver, given: Mapping[str, float]) -> Mapping[str, float]:
    """All of the solver's options: those given, in their range, and its defaults."""
    for name, value in given.items():
        if name not in solver.options:
            raise PlanError(f"solver {solver.name!r}: {choose('option', name, solver.options)}")
        option = solver.options[name]
        if not option.low <= value <= option.high or (option.whole and value != int(value)):
            what = "a whole number" if option.whole else "a number"
            raise PlanError(f"{name}: expected {what} in {option.low:g}..{option.high:g}, got {value:g}")
    return {name: float(given.get(name, option.default)) for name, option in solver.options.items()}
