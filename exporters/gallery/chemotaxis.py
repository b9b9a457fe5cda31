"""Cells that follow a signal, and what becomes of them as the signal grows fast: the limit from a parabolic to an
elliptic equation (Keller and Segel's system).

    n_t = n_xx - (chi n c_x)_x,    eps c_t = c_xx - c + n    on [0, 1], no flux through the ends

As eps falls to 0 the signal follows the cells at once, c = (1 - d_xx)^-1 n, and the error is of order eps after a first
layer. About n = c = 1 the mode cos(pi x) has amplitudes that follow a 2 x 2 matrix, exactly, also on the grid.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from exporters.dynamics import export_dynamics
from exporters.gallery.recipe import Figure, Recipe, at_least, at_most
from exporters.gallery.solving import Model, parameters
from protos.card import Card
from protos.dynamics import Dynamics, Gives, Roles, Solving

CELLS = 16


def spread(c: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """c_xx with mirrored ends."""
    padded = torch.cat([c[:, :1], c, c[:, -1:]], dim=1)
    return (padded[:, 2:] - 2 * c + padded[:, :-2]) * CELLS**2


def drifting(n: Float[Tensor, "b n"], c: Float[Tensor, "b n"], chi: Float[Tensor, " b"]) -> Float[Tensor, "b n"]:
    """n_t: fluxes between neighbours, so that the number of cells is kept."""
    flux = (n[:, 1:] - n[:, :-1] - chi[:, None] * ((n[:, 1:] + n[:, :-1]) / 2) * (c[:, 1:] - c[:, :-1])) * CELLS
    none = torch.zeros_like(n[:, :1])
    return (torch.cat([flux, none], dim=1) - torch.cat([none, flux], dim=1)) * CELLS


class Followed(nn.Module):
    """`(y [B, 2, 16] of cells n and signal c, chi [B], eps [B]) -> dy/dt`, for eps > 0."""

    def forward(self, y: Float[Tensor, "b 2 n"], chi: Float[Tensor, " b"], eps: Float[Tensor, " b"]) -> Tensor:
        n, c = y[:, 0], y[:, 1]
        return torch.stack([drifting(n, c, chi), (spread(c) - c + n) / eps[:, None]], dim=1)


class Limit(nn.Module):
    """`(n [B, 16], chi [B]) -> dn/dt` with c = (1 - d_xx)^-1 n."""

    inverse: Tensor

    def __init__(self) -> None:
        super().__init__()
        eye = torch.eye(CELLS, dtype=torch.float64)
        self.register_buffer("inverse", torch.linalg.inv(eye - spread(eye)).contiguous())

    def forward(self, n: Float[Tensor, "b n"], chi: Float[Tensor, " b"]) -> Float[Tensor, "b n"]:
        return drifting(n, (n[:, None, :] * self.inverse).sum(-1), chi)


FOLLOWED = Card(
    name="chemotaxis",
    dynamics=Dynamics(
        kind="ode", state=(2, CELLS), inputs=Roles(y="y"), outputs=Gives(drift="dy"),
        solver=Solving(name="tsit5", rtol=1e-6, max_steps=100_000),
    ),
    conditions=parameters("chi", "eps"),
)  # fmt: skip
LIMIT = Card(
    name="chemotaxis-limit",
    dynamics=Dynamics(
        kind="ode", state=(CELLS,), inputs=Roles(y="n"), outputs=Gives(drift="dn"),
        solver=Solving(name="tsit5", rtol=1e-6, max_steps=100_000),
    ),
    conditions=parameters("chi"),
)  # fmt: skip


def build(repository: Path, effort: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(4, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    examples = {"y": draw(2, CELLS), "chi": draw(), "eps": draw() + 0.5}
    export_dynamics(Followed(), repository / FOLLOWED.name, FOLLOWED, examples=examples, dtype=torch.float64)
    examples = {"n": draw(CELLS), "chi": draw()}
    export_dynamics(Limit(), repository / LIMIT.name, LIMIT, examples=examples, dtype=torch.float64)


def wave() -> Float64[Tensor, " n"]:
    """cos(pi x) in the middles of cells: an eigenvector of `spread`."""
    return torch.cos(math.pi * (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS)


def check(repository: Path) -> list[Figure]:
    """The limit of small eps, its order, the number of cells, and the decay of a small wave."""
    followed, limit = Model(repository, FOLLOWED.name), Model(repository, LIMIT.name)
    n0 = 1 + 0.5 * wave()
    eps = torch.tensor([0.16, 0.08, 0.04], dtype=torch.float64)
    chi = torch.full((3,), 4.0, dtype=torch.float64)
    start = torch.stack([n0, n0], dim=0).expand(3, -1, -1)  # a signal that is not the limit's
    times = [0.0, 0.5]
    slow = followed.solve(start, times, rtol=1e-6, atol=1e-8, chi=chi, eps=eps).y[:, -1, 0]
    fast = limit.solve(n0[None], times, rtol=1e-6, atol=1e-8, chi=chi[:1]).y[:, -1]
    error = (slow - fast).abs().amax(1)
    order = float((error[0] / error[-1]).log() / (eps[0] / eps[-1]).log())
    small = 1e-6
    calm = torch.ones(1, 2, CELLS, dtype=torch.float64) + small * torch.stack([wave(), 0 * wave()])
    one = torch.tensor([1.0], dtype=torch.float64)
    moved = followed.solve(calm, [0.0, 0.3], rtol=1e-10, atol=1e-15, chi=one, eps=one).y[0, -1] - 1
    size = 2 * CELLS**2 * (1 - math.cos(math.pi / CELLS))  # of -d_xx on the grid
    linear = torch.tensor([[-size, size], [1.0, -size - 1]], dtype=torch.float64)
    exact = torch.linalg.matrix_exp(0.3 * linear)[:, 0]
    found = (moved @ wave()) / (wave() @ wave()) / small
    return [
        at_most("cells at eps = 0.04 against the limit, relative", error[-1] / fast.abs().max(), 0.01),
        at_least("order of the error in eps", order, 0.85),
        at_most("the same, not above", order, 1.15),
        at_most("change of the number of cells", (slow.mean(1) - 1).abs().max(), 1e-12),
        at_most("decay of a small wave against its 2 x 2 matrix", (found - exact).abs().max(), 1e-5),
    ]


RECIPE = Recipe(
    name="chemotaxis",
    paper="Chemotaxis: limits from parabolic to elliptic signalling",
    replaced="one signal and one dimension",
    models=(FOLLOWED.name, LIMIT.name),
    build=build,
    check=check,
)
