"""Model order reduction of a neural or classical field by POD and DEIM: Chaturantabut, Sorensen (SIAM J. Sci. Comput.
32, 2010), as neural differential equations with order reduction use it.

A field f(u) = L u + g(u), g acting on each number by itself, moves on few directions V, the first left singular vectors
of its snapshots. Then u = V z and

    z' = V' L V z + V' U (P' U)^-1 g(P' V z)

with U the same of snapshots of g, and P its m interpolation points: a row costs m numbers of g instead of n. The field
here is Fisher's equation on 128 cells, of any rate; a request brings u, the encoder makes z, the decoder u again.
"""

import time
from pathlib import Path

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from exporters.dynamics import Beside, export_dynamics
from exporters.gallery.recipe import Figure, Recipe, at_least, at_most
from exporters.gallery.solving import Model, parameters
from protos.card import Card
from protos.dynamics import Dynamics, Gives, Roles, Solving
from steering import dynamics

CELLS, RANK, POINTS = 128, 10, 12
DIFFUSIVITY = 0.01
TIMES = torch.linspace(0, 2, 41, dtype=torch.float64)


class Whole(nn.Module):
    """`(u [B, 128], rate [B]) -> D u_xx + rate u (1 - u)` on [0, 1] with mirrored ends, float64."""

    operator: Tensor

    def __init__(self) -> None:
        super().__init__()
        chain = torch.diag(torch.full((CELLS - 1,), 1.0, dtype=torch.float64), 1)
        chain = chain + chain.T
        self.register_buffer("operator", DIFFUSIVITY * CELLS**2 * (chain - torch.diag(chain.sum(0))))

    def forward(self, u: Float[Tensor, "b n"], rate: Float[Tensor, " b"]) -> Float[Tensor, "b n"]:
        return u @ self.operator.T + rate[:, None] * local(u)


def local(u: Tensor) -> Tensor:
    """What acts on each number by itself."""
    return u * (1 - u)


class Reduced(nn.Module):
    """`(z [B, 10], rate [B]) -> dz/dt`: `Whole` on its modes."""

    linear: Tensor
    seen: Tensor
    back: Tensor

    def __init__(self, whole: Whole, modes: Float64[Tensor, "n r"], forces: Float64[Tensor, "n m"]) -> None:
        super().__init__()
        points = interpolation_points(forces)
        self.register_buffer("linear", modes.T @ whole.operator @ modes)
        self.register_buffer("seen", modes[points].contiguous())
        self.register_buffer("back", torch.linalg.solve(forces[points].T, forces.T @ modes).T.contiguous())

    def forward(self, z: Float[Tensor, "b r"], rate: Float[Tensor, " b"]) -> Float[Tensor, "b r"]:
        return z @ self.linear.T + rate[:, None] * (local(z @ self.seen.T) @ self.back.T)


class Onto(nn.Module):
    """`x -> x @ matrix`."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


def modes_of(snapshots: Float64[Tensor, "n s"], rank: int) -> tuple[Float64[Tensor, "n r"], Float64[Tensor, " s"]]:
    """The first left singular vectors, and all singular values."""
    left, values, _ = torch.linalg.svd(snapshots, full_matrices=False)
    return left[:, :rank].contiguous(), values


def interpolation_points(basis: Float64[Tensor, "n m"]) -> Int64[Tensor, " m"]:
    """DEIM's greedy points: each where the basis so far misses the next vector most."""
    points = [int(basis[:, 0].abs().argmax())]
    for m in range(1, basis.shape[1]):
        known = torch.linalg.solve(basis[points, :m], basis[points, m])
        points.append(int((basis[:, m] - basis[:, :m] @ known).abs().argmax()))
    return torch.tensor(points)


def starts(n: int, seed: int) -> Float64[Tensor, "n 128"]:
    """Smooth bumps in 0..1 at random places."""
    generator = torch.Generator().manual_seed(seed)
    place, width = (torch.rand(n, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    x = (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS
    return 0.6 * torch.exp(-(((x - 0.3 - 0.4 * place) / (0.15 + 0.1 * width)) ** 2))


def trajectories(n: int, seed: int) -> tuple[Float64[Tensor, "n t 128"], Float64[Tensor, " n"]]:
    whole = Whole()
    rate = 1 + 2 * torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    field = lambda u, t, rate: whole(u, rate)  # noqa: E731
    solved = dynamics.solve(field, starts(n, seed), TIMES, rtol=1e-7, atol=1e-9, condition={"rate": rate})
    return solved.y, rate


WHOLE = Card(
    name="fisher",
    dynamics=Dynamics(
        kind="ode", state=(CELLS,), inputs=Roles(y="u"), outputs=Gives(drift="du"),
        solver=Solving(name="tsit5", rtol=1e-6),
    ),
    conditions=parameters("rate"),
)  # fmt: skip
REDUCED = Card(
    name="fisher-reduced",
    dynamics=Dynamics(
        kind="ode", state=(RANK,), inputs=Roles(y="z"), outputs=Gives(drift="dz"),
        solver=Solving(name="tsit5", rtol=1e-6),
    ),
    conditions=parameters("rate"),
)  # fmt: skip


def build(repository: Path, effort: float) -> None:
    u, rate = trajectories(16, seed=0)
    states = u.reshape(-1, CELLS).T
    modes, _ = modes_of(states, RANK)
    forces, _ = modes_of(local(states), POINTS)
    whole = Whole()
    examples = {"u": u[:4, 3], "rate": rate[:4]}
    export_dynamics(whole, repository / WHOLE.name, WHOLE, examples=examples, dtype=torch.float64)
    z = u[:4, 3] @ modes
    export_dynamics(
        Reduced(whole, modes, forces), repository / REDUCED.name, REDUCED,
        examples={"z": z, "rate": rate[:4]}, dtype=torch.float64,
        encoder=Beside(Onto(modes), {"u": u[:4, 3]}), decoder=Beside(Onto(modes.T), {"z": z}),
    )  # fmt: skip


def check(repository: Path) -> list[Figure]:
    """Trajectories that made the modes, and others, by both models."""
    whole, reduced = Model(repository, WHOLE.name), Model(repository, REDUCED.name)
    known, _ = trajectories(16, seed=0)
    states = known.reshape(-1, CELLS).T
    modes, values = modes_of(states, RANK)
    dropped = (values[RANK:] ** 2).sum()
    projected = ((states - modes @ (modes.T @ states)) ** 2).sum()
    new, rate = trajectories(8, seed=1)
    full = whole.solve(new[:, 0], TIMES, rtol=1e-7, atol=1e-9, rate=rate).y
    z = reduced.beside("encoder.onnx", u=new[:, 0])
    small = reduced.solve(z, TIMES, rtol=1e-7, atol=1e-9, rate=rate).y
    back = reduced.beside("decoder.onnx", z=small.reshape(-1, RANK)).reshape(full.shape)
    best = (full - (full @ modes) @ modes.T).norm() / full.norm()
    return [
        at_most("what snapshots lose on the modes, less the dropped singular values squared, relative",
                abs(projected / dropped - 1), 1e-6),
        at_most("error of the reduced model on new trajectories, relative", (back - full).norm() / full.norm(), 5e-3),
        at_most("the same over the best that the modes can do", (back - full).norm() / full.norm() / best, 5),
    ]  # fmt: skip


def judge(repository: Path) -> list[Figure]:
    """How much faster a call of 32 rows is."""
    seconds = []
    for name, state in ((WHOLE.name, CELLS), (REDUCED.name, RANK)):
        model = Model(repository, name)
        y, t, rate = torch.rand(32, state, dtype=torch.float64), torch.zeros(32), torch.ones(32, dtype=torch.float64)
        took = []
        for _ in range(300):
            start = time.perf_counter()
            model.field(y, t, rate=rate)
            took.append(time.perf_counter() - start)
        seconds.append(sorted(took)[len(took) // 2])
    return [at_least("a call of 32 rows: whole over reduced, seconds", seconds[0] / seconds[1], 1.0)]


RECIPE = Recipe(
    name="reduction",
    paper="Neural ODE with model order reduction: POD and DEIM",
    replaced="a trained network by Fisher's equation on 128 cells",
    models=(WHOLE.name, REDUCED.name),
    build=build,
    check=check,
    judge=judge,
)
