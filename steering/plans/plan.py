"""Plans: a fixed-step solver, compiled in float64 before sampling into small matrices over registers.

Registers r_0 .. r_k hold tensors shaped like the state; r_0 is the state itself. Each stage evaluates the network at
(r_0, t), turns its output into the denoised estimate D, and sets r <- A r + b D + C z. Plans are data: they can be
printed, compared, cached, tested for order, and one interpreter (`Stage.advance`) runs them all.

A solver whose steps depend on what it finds (adaptive steps, Langevin moves) is no table: its plan has no stages and
names the generator that draws with it.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from steering.errors import PlanError, choose
from steering.paths import Path
from steering.plans import grids, predictions
from steering.plans.limits import Limit
from steering.plans.program import Program

Matrix = tuple[tuple[float, ...], ...]
Direct = Callable[..., Generator[Any, Any, Tensor]]
"""A sampler written directly: `draw(problem, noise, x)` from the first state x [n, *event]; see `steering.sampler`."""

MAX_STEPS = 1000
MAX_ETA = 100.0
MAX_ROWS = 24 * MAX_STEPS
"""Most network rows of a table, per sample: bounds what a plan takes to compile and to keep."""


@dataclass(frozen=True)
class Node:
    """One time of a plan with the path's scalars there: rho = sigma / alpha, log_snr = -log rho."""

    t: float
    alpha: float
    sigma: float
    log_snr: float

    @property
    def rho(self) -> float:
        return self.sigma / self.alpha


@dataclass(frozen=True)
class Course:
    """What a solver compiles: the nodes of its plan, the amount of noise, its options, and the path for other times."""

    path: Path
    nodes: tuple[Node, ...]
    eta: float = 0.0
    options: Mapping[str, float] = field(default_factory=dict)
    program: Program | None = None

    def intervals(self) -> Iterator[tuple[Node, Node]]:
        """(s, t) for every step from s to t."""
        return pairwise(self.nodes)

    def at(self, times: Sequence[float] | Tensor) -> tuple[Node, ...]:
        """Nodes at other path times."""
        return nodes_at(self.path, torch.as_tensor(times, dtype=torch.float64))

    def at_log_snr(self, log_snrs: Sequence[float] | Tensor) -> tuple[Node, ...]:
        """Nodes at other log signal-to-noise ratios, as far as the path's range goes."""
        wanted = torch.as_tensor(log_snrs, dtype=torch.float64)
        times = self.path.time_of_log_snr(wanted).clamp(self.path.t_min, self.path.t_max)
        return nodes_at(self.path, times)

    def inside(self, fraction: float) -> tuple[Node, ...]:
        """In every interval, the node at this fraction of its log-SNR (0 at s, 1 at t)."""
        ends = torch.tensor([node.log_snr for node in self.nodes], dtype=torch.float64)
        return self.at_log_snr(ends[:-1] + fraction * ends.diff())


@dataclass(frozen=True, kw_only=True)
class Update:
    """r <- A r + b D + C z after an evaluation at `at`; `to` is the node where the new r_0 lives."""

    at: Node
    to: Node
    A: Matrix
    b: tuple[float, ...]
    C: Matrix = ()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network evaluation of a plan and the update that follows it."""

    index: int
    update: Update
    denoise: predictions.Denoise

    @property
    def t(self) -> float:
        return self.update.at.t

    @property
    def draws(self) -> int:
        """Noise tensors z this stage consumes."""
        return len(self.update.C[0]) if self.update.C else 0

    def advance(self, registers: Sequence[Tensor], denoised: Tensor, noises: Sequence[Tensor] = ()) -> list[Tensor]:
        """The registers after this stage: one multiplication, then multiply-adds in place.

        Elementwise, each rounded alike wherever an element lies, so a row has the same bits in any batch; and each
        register is read once, which on large states is nine times as fast as separate products and sums.
        """
        update = self.update
        after = []
        for i, (row, weight) in enumerate(zip(update.A, update.b, strict=True)):
            terms = [*zip(row, registers, strict=False), (weight, denoised)]
            if update.C:
                terms += zip(update.C[i], noises, strict=True)
            (c, first), *rest = [(c, tensor) for c, tensor in terms if c != 0.0]
            total = first if c == 1.0 and not rest else first * c
            for c, tensor in rest:
                total.add_(tensor, alpha=c)
            after.append(total)
        return after


@dataclass(frozen=True)
class Option:
    """A number a solver can be given by name, besides `eta`: its default and its range, both ends included.

    With `whole` it has no fraction.
    """

    meaning: str
    default: float
    low: float = 0.0
    high: float = float("inf")
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Solver:
    """A row of the solver table.

    Attributes:
        order: global order of the error in the step; with noise, the weak order.
        rows_per_step: network evaluations per step (one less on the last step of some).
        updates: compiles a course into the stages' matrices; None for solvers that are no table.
        direct: draws instead, for solvers that are no table.
        rows: its network evaluations given steps and options, where they are not `rows_per_step` a step.
        eta: default noise level: None, the solver takes no eta; 0, it may be given one; above 0, it always draws noise.
        uses_noise: draws noise when nothing else is asked for.
        options: its further options.
        twin: the solver that errors recommend for what this one cannot do.
    """

    name: str
    order: int
    rows_per_step: int
    reference: str
    default_grid: str
    updates: Callable[[Course], Iterator[Update]] | None = None
    direct: Direct | None = None
    eta: float | None = None
    uses_noise: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    twin: str = ""
    rows: Callable[[int, Mapping[str, float]], int] | None = None

    @property
    def takes_eta(self) -> bool:
        return self.eta is not None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A compiled solver. A table's stages are its network evaluations, in order; other plans have a `direct` sampler.

    Attributes:
        path: what the states follow; `trained` is the path the network was trained on, the same unless rescheduled.
        nodes: from the first state to the last; in reverse, from data to noise.
        uses_noise: whether any noise is drawn on the way.
        limit: bounds of the denoised estimate, None for none.
    """

    solver: str
    path: Path
    trained: Path
    prediction: str
    preconditioning: str
    sigma_data: float
    grid: str
    eta: float
    options: tuple[tuple[str, float], ...]
    order: int
    reverse: bool
    uses_noise: bool
    nodes: tuple[Node, ...]
    stages: tuple[Stage, ...] = field(repr=False)
    direct: Direct | None = field(default=None, repr=False)
    expected_rows: int = 0
    limit: Limit | None = None

    @property
    def steps(self) -> int:
        return len(self.nodes) - 1

    @property
    def rows(self) -> int:
        """Network evaluations per sample (before classifier-free guidance, which doubles them).

        An estimate where the plan is no table: what is used depends on the samples.
        """
        return len(self.stages) or self.expected_rows

    @property
    def most_rows(self) -> int:
        """What `rows` cannot exceed: adaptive solvers have a budget."""
        return max(self.rows, int(dict(self.options).get("budget", 0)))

    def denoise(self, t: float | Tensor) -> predictions.Denoise:
        """The rule that makes D of a network output at path times t, a number or one per row [n]."""
        return predictions.denoise(
            self.path, t, self.prediction, self.preconditioning, self.sigma_data, self.trained, self.limit
        )

    def __str__(self) -> str:
        head = (
            f"{self.solver}: {self.steps} steps, {self.rows} rows, order {self.order}, eta {self.eta}, grid {self.grid}"
        )
        rows = [f"  t={s.t:.6g}  A={s.update.A}  b={s.update.b}  C={s.update.C}" for s in self.stages]
        return "\n".join([head, *rows])


def nodes_at(path: Path, times: Tensor) -> tuple[Node, ...]:
    """Nodes of a path at times [k]."""
    columns = (times, path.alpha(times), path.sigma(times), path.log_snr(times))
    return tuple(Node(*row) for row in torch.stack(columns, dim=1).tolist())


def compile_plan(
    solvers: Mapping[str, Solver],
    solver: str,
    *,
    path: Path,
    steps: int,
    prediction: str,
    grid: str | Sequence[float] | None = None,
    eta: float | None = None,
    preconditioning: str = "none",
    sigma_data: float = 0.5,
    trained: Path | None = None,
    reverse: bool = False,
    program: Program | None = None,
    limit: Limit | None = None,
    **options: float,
) -> Plan:
    """Compile; raises `PlanError` with what was expected and what came."""
    if solver not in solvers:
        raise PlanError(choose("solver", solver, solvers))
    entry = solvers[solver]
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise PlanError(f"steps: expected an integer in 1..{MAX_STEPS}, got {steps!r}")
    eta = _eta(solvers, entry, eta)
    chosen = _options(solvers, entry, options)
    noisy = entry.uses_noise or eta > 0
    if program is not None:
        if solver != "searched":
            raise PlanError(f"program: expected solver 'searched' beside it, got {solver!r}")
        if steps != program.steps:
            raise PlanError(f"steps: expected {program.steps}, those of the searched program, got {steps}")
        grid = program.times(path) if grid is None else grid
    rows = entry.rows(steps, chosen) if entry.rows else steps * entry.rows_per_step
    if entry.updates and rows > MAX_ROWS:
        raise PlanError(f"solver {solver!r}: expected at most {MAX_ROWS} network rows per sample, got {rows}")
    grid = entry.default_grid if grid is None else grid
    times = grids.nodes(grid, path, steps)
    course = Course(path, nodes_at(path, times.flip(0) if reverse else times), eta, chosen, program)
    if reverse and (noisy or entry.direct or program):
        raise _irreversible(solvers, solver)
    updates = tuple(entry.updates(course)) if entry.updates else ()
    noisy = noisy or any(any(map(any, update.C)) for update in updates)
    if reverse and noisy:  # by an option
        raise _irreversible(solvers, solver)
    trained = path if trained is None else trained
    at = torch.tensor([update.at.t for update in updates], dtype=torch.float64)
    rules = predictions.rules(path, at, prediction, preconditioning, sigma_data, trained, limit)
    pairs = enumerate(zip(updates, rules, strict=True))
    stages = tuple(Stage(index=i, update=update, denoise=denoise) for i, (update, denoise) in pairs)
    return Plan(
        solver=solver,
        path=path,
        trained=trained,
        prediction=prediction,
        preconditioning=preconditioning,
        sigma_data=sigma_data,
        grid=grid if isinstance(grid, str) else "explicit",
        eta=eta,
        options=tuple(sorted(chosen.items())),
        order=entry.order,
        reverse=reverse,
        uses_noise=noisy,
        nodes=course.nodes,
        stages=stages,
        direct=entry.direct,
        expected_rows=rows,
        limit=limit,
    )


def deterministic(solvers: Mapping[str, Solver]) -> list[str]:
    """The tables that draw no noise unless asked to, which run both ways; not the one that may need a program."""
    return [name for name, each in solvers.items() if each.updates and not each.uses_noise and name != "searched"]


def _irreversible(solvers: Mapping[str, Solver], solver: str) -> PlanError:
    able = ", ".join(name for name in sorted(deterministic(solvers)) if name != solver)
    return PlanError(
        f"solver {solver!r} cannot run in reverse, from data to noise, as asked for; "
        f"with eta 0 and no churn these can: {able}"
    )


def _eta(solvers: Mapping[str, Solver], entry: Solver, eta: float | None) -> float:
    """The noise level to use; a solver that always has noise has no eta 0, and one without has no other."""
    if eta is None:
        return entry.eta or 0.0
    if not 0 <= eta <= MAX_ETA:
        raise PlanError(f"eta: expected a number in 0..{MAX_ETA:g}, got {eta!r}")
    if eta > 0 and not entry.takes_eta:
        able = ", ".join(sorted(name for name, other in solvers.items() if other.takes_eta))
        raise PlanError(f"eta: solver {entry.name!r} takes eta 0 only, got {eta!r}; with eta above 0: {able}")
    if eta == 0 and entry.takes_eta and entry.uses_noise:
        instead = f"; without noise: {entry.twin}" if entry.twin else ""
        raise PlanError(f"eta: solver {entry.name!r} is stochastic, expected a number > 0, got {eta!r}{instead}")
    return float(eta)


def _options(solvers: Mapping[str, Solver], entry: Solver, options: Mapping[str, float]) -> dict[str, float]:
    """The solver's options with their defaults filled in."""
    for name, value in options.items():
        if name not in entry.options:
            able = ", ".join(sorted(other.name for other in solvers.values() if name in other.options))
            if not able:
                raise PlanError(choose("option", name, {key for other in solvers.values() for key in other.options}))
            raise PlanError(f"{name}: solver {entry.name!r} has no such option; solvers that have: {able}")
        option = entry.options[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not option.low <= value <= option.high or (option.whole and value % 1):
            kind = "a whole number" if option.whole else "a number"
            raise PlanError(f"{name}: expected {kind} in {option.low:g}..{option.high:g}, got {value!r}")
    return {name: float(options.get(name, option.default)) for name, option in entry.options.items()}
