"""Plans: a fixed-step solver, compiled in float64 before sampling into small matrices over registers.

Registers r_0 .. r_k hold tensors shaped like the state; r_0 is the state itself. Each stage evaluates the network at
(r_0, t), turns its output into the denoised estimate D, and sets r <- A r + b D + C z. Plans are data: they can be
printed, compared, cached, tested for order, and one interpreter (`Stage.advance`) runs them all.

A solver whose steps depend on what it finds (adaptive steps, Langevin moves) is no table: its plan has no stages and
names the generator that draws with it.

Where a log-SNR is infinite at an end, see `steering.plans.ends`.
"""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from steering.paths import Path
from steering.paths.base import NOTHING
from steering.plans import amplification, predictions
from steering.plans.limits import Limit
from steering.plans.program import Program

Matrix = tuple[tuple[float, ...], ...]
Direct = Callable[..., Generator[Any, Any, Tensor]]
"""A sampler written directly: `draw(problem, noise, x)` from the first state x [n, *event]; see `steering.sampler`."""

End = Literal["denoise", "t_min"]
"""What a plan leaves: D, without noise, or the state at t_min with the noise that belongs there."""

FAIR = (0.5, 1.5)
"""The standard deviations that a plan may give to N(m, 1) without a warning."""


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
    """What a solver compiles: the nodes of its plan, the amount of noise, its options, and the path for other times.

    Attributes:
        after: steps that follow these, which the solver does not make.
    """

    path: Path
    nodes: tuple[Node, ...]
    eta: float = 0.0
    options: Mapping[str, float] = field(default_factory=dict)
    program: Program | None = None
    after: int = 0

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
    def landings(self) -> Mapping[int, int]:
        """By a table's stage, the number of the node whose state r_0 is after it. Stages between two nodes, and those
        that go on from there to the same one, such as the first of Heun's, have none."""
        last = {stage.update.to: stage.index for stage in self.stages}
        return {last[node]: number for number, node in enumerate(self.nodes) if number and node in last}

    @cached_property
    def amplification(self) -> float | None:
        if self.direct is not None or self.generates:
            return None
        return amplification.ratio([stage.update for stage in self.stages], self.nodes)

    @property
    def warning(self) -> str:
        """Says so where the plan's spread on Gaussian data is not `FAIR`; empty if it is."""
        ratio = self.amplification
        if ratio is None or FAIR[0] <= ratio <= FAIR[1]:
            return ""
        what = f"Gaussian data of standard deviation 1 one of {ratio:.2g}"
        if self.reverse:
            what = f"the noise of Gaussian data {ratio:.2g} times its right standard deviation"
        return (
            f"{self.solver} in {self.steps} step{'s' * (self.steps > 1)} on grid {self.grid} would give {what}: "
            "take more steps, another solver or another grid"
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
