"""Plans: a fixed-step solver, compiled in float64 before sampling into small matrices over registers.

Registers r_0 .. r_k hold tensors shaped like the state; r_0 is the state itself. Each stage evaluates the network at
(r_0, t), turns its output into the denoised estimate D, and sets r <- A r + b D + C z. Plans are data: they can be
printed, compared, cached, tested for order, and one interpreter (`Stage.advance`) runs them all.

A solver whose steps depend on what it finds (adaptive steps, Langevin moves) is no table: its plan has no stages and
names the generator that draws with it.

Where nothing of the data is left at the first node (alpha 0) or no noise at the last (sigma 0), the log-SNR is
infinite, and the step there is that of a constant D,

    x_t = alpha_t D + sigma_t / sigma_s (x_s - alpha_s D),

unless the solver has finite coefficients of its own. From an alpha of 0 it is exact up to what little is left of the
data at the next node, and at a sigma of 0 it leaves D, without noise: the last step of most libraries. A plan on a path
with sigma(t_min) > 0 may end so too (`end="denoise"`): its steps then lead to t_min, or near it, and the last makes D.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from steering.errors import PlanError, choose
from steering.paths import Path
from steering.paths.base import NOTHING
from steering.plans import amplification, grids, predictions
from steering.plans.limits import Limit
from steering.plans.program import Program

Matrix = tuple[tuple[float, ...], ...]
Direct = Callable[..., Generator[Any, Any, Tensor]]
"""A sampler written directly: `draw(problem, noise, x)` from the first state x [n, *event]; see `steering.sampler`."""

End = Literal["denoise", "t_min"]
"""What a plan leaves: D, without noise, or the state at t_min with the noise that belongs there."""

MAX_STEPS = 1000
MAX_ETA = 100.0
MAX_ROWS = 24 * MAX_STEPS
"""Most network rows of a table, per sample: bounds what a plan takes to compile and to keep."""
FALLBACKS = ("logsnr", "karras", "angle", "uniform", "shifted(3)")
"""Grids to take instead where a solver's own is no good on a path in so few steps."""
TAME = (0.45, 1.65)
"""A solver's own grid is kept if it gives N(m, 1) a standard deviation within this: in few steps, methods of order 1
shrink, and those of higher orders explode."""
TAME_ON_WIDE, WIDE = (0.45, 1.3), 12.0
"""The same on paths of so many log-SNRs, such as flows, for which grids made for diffusion are spread too thin."""
TAME_IN_TIME = (0.8, 1.3)
"""The same for grids in time, which know nothing of noise levels: "uniform" from EDM's 80 has no node near data."""
FAINT = 0.7
"""The least standard deviation that a grid in time may give to the second Gaussian."""
BETTER, TAMER = 0.6, 2 / 3
"""Another grid is taken if its errors on two Gaussians are at most the first share of the own one's; where that
explodes, if its error on N(m, 1) is at most the second, and both errors together no larger."""
NARROW = 0.09
"""The variance of a second Gaussian that grids are compared on: on one alone, errors of opposite signs may cancel."""
FAIR = (0.5, 1.5)
"""The standard deviations that a plan may give to N(m, 1) without a warning."""
SILENT = ("eps", "score")
"""Predictions that say nothing of the data where alpha is 0."""


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
        bounded: its coefficients are finite where alpha is 0, and may be where sigma is: it works in t or an angle.
        generates: D is taken for a sample, not a mean, and the last step leaves it: for consistency models.
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
    bounded: bool = False
    generates: bool = False

    @property
    def takes_eta(self) -> bool:
        return self.eta is not None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A compiled solver. A table's stages are its network evaluations, in order; other plans have a `direct` sampler.

    Attributes:
        path: what the states follow; `trained` is the path the network was trained on, the same unless rescheduled.
        nodes: from the first state to the last; in reverse, from data to noise. The last has sigma 0 where D is left.
        uses_noise: whether any noise is drawn on the way.
        limit: bounds of the denoised estimate, None for none.
        end: "denoise" where D is left.
        opening, closing: of a direct sampler, stages before and after it: from an alpha of 0, and to D.
        within: nodes that a direct sampler works between.
        amplification: the standard deviation that the plan gives to data N(m, 1) over the right one, from its numbers
            alone; None where they do not say: direct samplers, consistency models.
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
    end: End = "t_min"
    opening: tuple[Stage, ...] = field(default=(), repr=False)
    closing: tuple[Stage, ...] = field(default=(), repr=False)
    within: tuple[Node, ...] = field(default=(), repr=False)
    generates: bool = False

    @property
    def steps(self) -> int:
        return len(self.nodes) - 1

    @property
    def rows(self) -> int:
        """Network evaluations per sample (before classifier-free guidance, which doubles them).

        An estimate where the plan is no table: what is used depends on the samples.
        """
        return len(self.stages) or self.expected_rows + len(self.opening) + len(self.closing)

    @property
    def most_rows(self) -> int:
        """What `rows` cannot exceed: adaptive solvers have a budget."""
        budget = int(dict(self.options).get("budget", 0))
        return max(self.rows, budget + len(self.opening) + len(self.closing))

    @cached_property
    def amplification(self) -> float | None:
        if self.direct is not None or self.generates:
            return None
        return _amplification([stage.update for stage in self.stages], self.nodes, 1.0)

    @property
    def warning(self) -> str:
        """Says so where the plan's spread on Gaussian data is not `FAIR`; empty if it is."""
        ratio = self.amplification
        if ratio is None or FAIR[0] <= ratio <= FAIR[1]:
            return ""
        return (
            f"{self.solver} in {self.steps} step{'s' * (self.steps > 1)} on grid {self.grid} would give Gaussian data "
            f"of standard deviation 1 one of {ratio:.2g}: take more steps, another solver or another grid"
        )

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
    """Nodes of a path at times [k]; an alpha or sigma that shows in no float32 state is 0, its log-SNR infinite."""
    columns = (times, path.alpha(times), path.sigma(times), path.log_snr(times))
    return tuple(_node(*row) for row in torch.stack(columns, dim=1).tolist())


def _node(t: float, alpha: float, sigma: float, log_snr: float) -> Node:
    if alpha <= NOTHING * sigma:
        return Node(t, 0.0, sigma, -math.inf)
    return Node(t, alpha, 0.0, math.inf) if sigma <= NOTHING * alpha else Node(t, alpha, sigma, log_snr)


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
    end: End | None = None,
    **options: float,
) -> Plan:
    """Compile; raises `PlanError` with what was expected and what came."""
    if solver not in solvers:
        raise PlanError(choose("solver", solver, solvers))
    entry = solvers[solver]
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise PlanError(f"steps: expected an integer in 1..{MAX_STEPS}, got {steps!r}")
    if end is not None and end not in get_args(End):
        raise PlanError(choose("end", end, get_args(End)))
    if reverse and end == "denoise":
        raise PlanError("end: expected 't_min' for a plan in reverse, which ends in noise, got 'denoise'")
    eta = _eta(solvers, entry, eta)
    chosen = _options(solvers, entry, options)
    noisy = entry.uses_noise or eta > 0
    if program is not None:
        if solver != "searched":
            raise PlanError(f"program: expected solver 'searched' beside it, got {solver!r}")
        if steps != program.steps:
            raise PlanError(f"steps: expected {program.steps}, those of the searched program, got {steps}")
    rows = entry.rows(steps, chosen) if entry.rows else steps * entry.rows_per_step
    if entry.updates and rows > MAX_ROWS:
        raise PlanError(f"solver {solver!r}: expected at most {MAX_ROWS} network rows per sample, got {rows}")
    if grid is None and program is None:
        grid = _default_grid(entry, path, steps, eta, chosen, end)
    if reverse and (noisy or entry.direct or program):
        raise _irreversible(solvers, solver)
    nodes = _nodes(entry, grid, path, steps, reverse, end, program)
    updates: tuple[Update, ...] = ()
    opening, within, closing = _around(nodes)
    if entry.updates:
        updates, opening, closing = _through(entry, Course(path, nodes, eta, chosen, program)), (), ()
    elif len(within) < 2:  # nothing is left for it to do
        updates, opening, closing = (*opening, *closing), (), ()
    noisy = noisy or any(any(map(any, update.C)) for update in updates)
    if reverse and noisy:  # by an option
        raise _irreversible(solvers, solver)
    trained = path if trained is None else trained
    asked = (*updates, *opening, *closing)
    _check_updates(solver, prediction, asked)
    at = torch.tensor([update.at.t for update in asked], dtype=torch.float64)
    rules = predictions.rules(path, at, prediction, preconditioning, sigma_data, trained, limit)
    _check_rules(prediction, rules)
    pairs = enumerate(zip(asked, rules, strict=True))
    stages = tuple(Stage(index=i, update=update, denoise=denoise) for i, (update, denoise) in pairs)
    table = len(updates)
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
        nodes=nodes,
        stages=stages[:table],
        direct=None if updates else entry.direct,
        expected_rows=rows,
        limit=limit,
        end="denoise" if nodes[-1].sigma == 0 else "t_min",
        opening=stages[table : table + len(opening)],
        closing=stages[table + len(opening) :],
        within=() if updates else within,
        generates=entry.generates,
    )


def _default_grid(
    entry: Solver, path: Path, steps: int, eta: float, options: Mapping[str, float], end: End | None
) -> str:
    """The solver's own grid; where that would far miss the spread of Gaussian data on this path, the best of others.

    Judged from noise to data whichever way the plan goes, so that both ways have the same nodes.
    """
    if entry.updates is None or entry.generates:
        return entry.default_grid

    def off(grid: str) -> tuple[float, float]:
        """Logarithms of a grid's amplification of N(m, 1) and N(m, NARROW)."""
        assert entry.updates is not None
        nodes = _nodes(entry, grid, path, steps, False, end, None)
        updates = _through(entry, Course(path, nodes, eta, options))
        ratios = [_amplification(updates, nodes, variance) for variance in (1.0, NARROW)]
        wide, narrow = (math.log(max(ratio, sys.float_info.min)) for ratio in ratios)
        return wide, narrow

    mine = entry.default_grid
    in_time = grids.parse(mine)[0].in_time
    first, last = path.levels
    low, high = map(math.log, TAME_IN_TIME if in_time else TAME_ON_WIDE if last - first > WIDE else TAME)
    wide, narrow = off(mine)
    if low <= wide <= high and (not in_time or math.log(FAINT) <= narrow <= math.log(TAME[1])):
        return mine
    found = {mine: (wide, narrow)}
    for grid in FALLBACKS:
        with contextlib.suppress(PlanError):  # not on this path
            found[grid] = off(grid)
    errors = {grid: abs(wide) + abs(narrow) for grid, (wide, narrow) in found.items()}
    best = min(errors, key=lambda grid: errors[grid])
    tamer = wide > high and abs(found[best][0]) <= TAMER * wide
    return best if tamer or errors[best] <= BETTER * errors[mine] else mine


def _amplification(updates: Sequence[Update], nodes: Sequence[Node], variance: float) -> float:
    """The standard deviation that the updates give to data N(m, variance), over the right one."""
    first, last = (math.hypot(node.alpha * variance**0.5, node.sigma) for node in (nodes[0], nodes[-1]))
    return amplification.deviation(updates, first, variance) / last


def _nodes(
    entry: Solver,
    grid: str | Sequence[float] | None,
    path: Path,
    steps: int,
    reverse: bool,
    end: End | None,
    program: Program | None,
) -> tuple[Node, ...]:
    """The nodes of a plan, with one of sigma 0 at the end if it leaves D."""
    if reverse:
        if isinstance(grid, str):  # data without noise are taken for states of the least noise there is
            path = path.between(path.finite.t_min, path.t_max)
        times = grids.nodes(grid if grid is not None else (), path, steps)
        nodes = nodes_at(path, times.flip(0))
        if nodes[0].sigma == 0:
            raise PlanError(f"reverse: expected a grid from data with noise, got sigma 0 at t={nodes[0].t:g}")
        return nodes
    clean = Node(path.t_min, 1.0, 0.0, math.inf)
    if isinstance(grid, str):
        first, last = (nodes_at(path, torch.tensor([t], dtype=torch.float64)) for t in (path.t_max, path.t_min))
        if entry.direct:  # it comes from one finite end to the other by itself
            inner = nodes_at(path, grids.nodes(grid, path.finite, steps))
            inner = (*first, *inner) if path.begins_in_noise else inner
            return (*inner, *last) if path.ends_in_data else (*inner, clean) if end == "denoise" else inner
        if path.ends_in_data:
            return (*nodes_at(path, grids.evaluated(grid, path, steps)), *last)
        if end != "denoise":
            return nodes_at(path, grids.nodes(grid, path, steps))
        # a consistency model's D belongs to the whole way to t_min, which needs no node
        asked = grids.nodes(grid, path, steps)[:-1] if entry.generates else grids.evaluated(grid, path, steps)
        return (*nodes_at(path, asked), clean)
    if grid is None and program is not None:
        grid = program.times(path)
        grid = grid[:-1] if end == "denoise" and not path.ends_in_data else grid
    assert grid is not None
    if end != "denoise" or len(grid) == steps + 1:
        nodes = nodes_at(path, grids.nodes(grid, path, steps))
        if end != "denoise" or nodes[-1].sigma == 0:
            return nodes
    return (*nodes_at(path, grids.explicit(grid, path, steps, f"{steps} steps, the last to D,")), clean)


def constant_step(s: Node, t: Node) -> Update:
    """The step from s to t that is exact where D is constant, and finite where alpha is 0, or sigma at t."""
    kept = t.sigma / s.sigma
    return Update(at=s, to=t, A=((kept,),), b=(t.alpha - kept * s.alpha,))


def _through(entry: Solver, course: Course) -> tuple[Update, ...]:
    """A table's updates, the steps at infinite log-SNRs included."""
    assert entry.updates is not None
    nodes = course.nodes
    begins, ends = nodes[0].alpha == 0, math.isinf(nodes[-1].log_snr)
    if not (begins or ends):
        return tuple(entry.updates(course))
    if len(nodes) == 2:
        return (constant_step(*nodes),)
    if entry.bounded and nodes[-1].sigma == 0 and (own := _own(entry, course)):
        return own
    low, high = int(begins and not entry.bounded), len(nodes) - int(ends)
    inner = nodes[low:high]
    updates = [constant_step(nodes[0], nodes[1])] if low else []
    if len(inner) > 1:
        updates += entry.updates(replace(course, nodes=inner, program=_part(course.program, low, len(inner) - 1)))
    if ends:
        updates.append(constant_step(nodes[-2], nodes[-1]))
    return tuple(updates)


def _own(entry: Solver, course: Course) -> tuple[Update, ...]:
    """The solver's own steps to a sigma of 0, if they are finite and leave no noise there; else none.

    A method in t takes all the noise away where sigma is a straight line of t, as flows have it, and only there.
    """
    assert entry.updates is not None
    try:
        updates = tuple(entry.updates(course))
    except (ArithmeticError, ValueError):
        return ()
    if any(update.at.sigma == 0 for update in updates) or not all(map(_finite, updates)):
        return ()
    return updates if amplification.deviation(updates, course.nodes[0].sigma, variance=0.0) <= 1e-6 else ()


def _part(program: Program | None, first: int, count: int) -> Program | None:
    """The program of some of its steps."""
    if program is None or count == program.steps:
        return program
    fractions = tuple(i / count for i in range(count + 1))  # times are nodes by now
    return Program(fractions, program.choices[first : first + count])


def _around(nodes: tuple[Node, ...]) -> tuple[tuple[Update, ...], tuple[Node, ...], tuple[Update, ...]]:
    """What a direct sampler has between: the step from an alpha of 0, the nodes with a log-SNR, the step to D."""
    within = tuple(node for node in nodes if math.isfinite(node.log_snr))
    if len(within) == len(nodes):
        return (), within, ()
    if not within:
        return (constant_step(nodes[0], nodes[-1]),), (), ()
    opening = (constant_step(nodes[0], within[0]),) if nodes[0].alpha == 0 else ()
    closing = (constant_step(within[-1], nodes[-1]),) if nodes[-1].sigma == 0 else ()
    return opening, within, closing


def _finite(update: Update) -> bool:
    return all(map(math.isfinite, (*(each for row in (*update.A, *update.C) for each in row), *update.b)))


def _check_updates(solver: str, prediction: str, updates: Sequence[Update]) -> None:
    """Refuse what no network can be asked, and coefficients that are no numbers."""
    for update in updates:
        at, to = update.at, update.to
        if at.alpha == 0 and prediction in SILENT:
            raise PlanError(
                f"prediction {prediction!r}: expected alpha above 0 where the network is asked, got 0 at t={at.t:g}: "
                "where nothing of the data is left, it takes a prediction x0, v or velocity to tell D"
            )
        if at.sigma == 0 or not _finite(update):
            raise PlanError(
                f"solver {solver!r}: expected finite coefficients, got others in the step from t={at.t:g} to {to.t:g}, "
                f"where alpha is {at.alpha:g} and {to.alpha:g} and sigma {at.sigma:g} and {to.sigma:g}"
            )


def _check_rules(prediction: str, rules: Sequence[predictions.Denoise]) -> None:
    for rule in rules:
        if not all(map(math.isfinite, (rule.t, rule.scale, rule.state, rule.output))):
            raise PlanError(
                f"prediction {prediction!r}: expected finite weights of the state and the output in D, got "
                f"{rule.state} and {rule.output} at the network's time {rule.t}"
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
