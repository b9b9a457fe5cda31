"""Plans: a fixed-step solver, compiled in float64 before sampling into small matrices over registers.

Registers r_0 .. r_k hold tensors shaped like the state; r_0 is the state itself. Each stage evaluates the network at
(r_0, t), turns its output into the denoised estimate D, and sets r <- A r + b D + C z. Plans are data: they can be
printed, compared, cached, tested for order, and one interpreter (`Stage.advance`) runs them all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steering import grids, predictions
from steering.errors import PlanError, choose
from steering.paths import Path

Matrix = tuple[tuple[float, ...], ...]
MAX_STEPS = 1000
MAX_ETA = 100.0


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
class Update:
    """r <- A r + b D + C z after an evaluation at `at`; `to` is the node where the new r_0 lives."""

    at: Node
    to: Node
    A: Matrix
    b: tuple[float, ...]
    C: Matrix = ()


@dataclass(frozen=True)
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
        """The registers after this stage, by separate multiplications and additions.

        Nothing here is fused or reduced, so each element has the same bits in any batch.
        """
        update = self.update
        after = []
        for i, (row, weight) in enumerate(zip(update.A, update.b, strict=True)):
            terms = [*zip(row, registers, strict=False), (weight, denoised)]
            if update.C:
                terms += zip(update.C[i], noises, strict=True)
            scaled = [tensor if c == 1.0 else tensor * c for c, tensor in terms if c != 0.0]
            total = scaled[0]
            for term in scaled[1:]:
                total = total + term
            after.append(total)
        return after


@dataclass(frozen=True)
class Solver:
    """A row of the solver table. `updates` compiles nodes (and eta) into the stages' matrices."""

    name: str
    order: int
    rows_per_step: int
    reference: str
    default_grid: str
    updates: Callable[[Sequence[Node], float], Iterator[Update]]
    takes_eta: bool = False
    uses_noise: bool = False


@dataclass(frozen=True)
class Plan:
    """A compiled solver: `rows` network evaluations per sample, in order."""

    solver: str
    path: Path
    prediction: str
    preconditioning: str
    sigma_data: float
    grid: str
    eta: float
    order: int
    nodes: tuple[Node, ...]
    stages: tuple[Stage, ...] = field(repr=False)

    @property
    def steps(self) -> int:
        return len(self.nodes) - 1

    @property
    def rows(self) -> int:
        """Network evaluations per sample (before classifier-free guidance, which doubles them)."""
        return len(self.stages)

    @property
    def uses_noise(self) -> bool:
        return any(stage.draws for stage in self.stages)

    def __str__(self) -> str:
        head = (
            f"{self.solver}: {self.steps} steps, {self.rows} rows, order {self.order}, eta {self.eta}, grid {self.grid}"
        )
        rows = [f"  t={s.t:.6g}  A={s.update.A}  b={s.update.b}  C={s.update.C}" for s in self.stages]
        return "\n".join([head, *rows])


def compile_plan(
    solvers: Mapping[str, Solver],
    solver: str,
    *,
    path: Path,
    steps: int,
    prediction: str,
    grid: str | Sequence[float] | None = None,
    eta: float = 0.0,
    preconditioning: str = "none",
    sigma_data: float = 0.5,
) -> Plan:
    """Compile; raises `PlanError` with what was expected and what came."""
    if solver not in solvers:
        raise PlanError(choose("solver", solver, solvers))
    entry = solvers[solver]
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise PlanError(f"steps: expected an integer in 1..{MAX_STEPS}, got {steps!r}")
    if not 0 <= eta <= MAX_ETA:
        raise PlanError(f"eta: expected a number in 0..{MAX_ETA:g}, got {eta!r}")
    if eta > 0 and not entry.takes_eta:
        able = ", ".join(sorted(name for name, other in solvers.items() if other.takes_eta))
        raise PlanError(
            f"eta: solver {solver!r} is deterministic and takes eta 0 only, got {eta!r}; with noise: {able}"
        )
    grid = entry.default_grid if grid is None else grid
    times = grids.nodes(grid, path, steps)
    columns = (times, path.alpha(times), path.sigma(times), path.log_snr(times))
    nodes = tuple(Node(*row) for row in torch.stack(columns, dim=1).tolist())
    stages = tuple(
        Stage(i, update, predictions.denoise(path, update.at.t, prediction, preconditioning, sigma_data))
        for i, update in enumerate(entry.updates(nodes, float(eta)))
    )
    order = entry.order if eta == 0 else 1
    label = grid if isinstance(grid, str) else "explicit"
    return Plan(solver, path, prediction, preconditioning, sigma_data, label, float(eta), order, nodes, stages)
