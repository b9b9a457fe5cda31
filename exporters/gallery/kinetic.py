"""A kinetic equation and its limit of diffusion, solved so that no step need resolve the collisions: two velocities
(Goldstein and Taylor's model), a stand-in for Boltzmann's equation of mixtures, whose asymptotic-preserving schemes it
shares the difficulty with.

    r_t + j_x = 0,    eps^2 j_t + r_x = -j    on a circle of length 1

r is the density and j the flux, both on staggered cells, so that the limit of small eps is the usual scheme of r_t =
r_xx. A wave cos(2 pi x) follows a 2 x 2 matrix, exactly, also on the grid. An implicit solver's error at a tolerance is
uniform in eps; an explicit one's steps are of order eps^2.
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


class TwoVelocities(nn.Module):
    """`(y [B, 2, 16] of density r and flux j, eps [B]) -> dy/dt`; float64."""

    def forward(self, y: Float[Tensor, "b 2 n"], eps: Float[Tensor, " b"]) -> Float[Tensor, "b 2 n"]:
        r, j = y[:, 0], y[:, 1]  # j[i] is between r[i] and r[i + 1]
        behind = torch.cat([j[:, -1:], j[:, :-1]], dim=1)
        ahead = torch.cat([r[:, 1:], r[:, :1]], dim=1)
        return torch.stack([(behind - j) * CELLS, -(j + (ahead - r) * CELLS) / (eps * eps)[:, None]], dim=1)


CARD = Card(
    name="two-velocities",
    dynamics=Dynamics(
        kind="ode", state=(2, CELLS), inputs=Roles(y="y"), outputs=Gives(drift="dy"),
        solver=Solving(name="esdirk4", rtol=1e-6, atol=1e-9),
    ),
    conditions=parameters("eps"),
)  # fmt: skip


def build(repository: Path, effort: float) -> None:
    generator = torch.Generator().manual_seed(0)
    examples = {
        "y": torch.randn(4, 2, CELLS, generator=generator, dtype=torch.float64),
        "eps": torch.rand(4, generator=generator, dtype=torch.float64) + 0.5,
    }
    export_dynamics(TwoVelocities(), repository / CARD.name, CARD, examples=examples, dtype=torch.float64)


def waves() -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"], float]:
    """cos(2 pi x) in cells, sin(2 pi x) between them, and the wave number of their differences."""
    x = torch.arange(CELLS, dtype=torch.float64) / CELLS
    number = 2 * CELLS * math.sin(math.pi / CELLS)
    return torch.cos(2 * math.pi * x), torch.sin(2 * math.pi * (x + 0.5 / CELLS)), number


def check(repository: Path) -> list[Figure]:
    """A wave for eps from 1 to 1e-4 against its matrix, and against the limit; rows that it took."""
    model, (cosine, sine, k) = Model(repository, CARD.name), waves()
    eps = torch.tensor([1.0, 0.1, 1e-2, 1e-3, 1e-4], dtype=torch.float64)
    time, ones = 0.05, torch.ones(1, dtype=torch.float64)
    y0 = torch.stack([1 + 0.5 * cosine, 0.5 * k * sine]).expand(5, -1, -1)  # the flux is the limit's
    found = model.solve(y0, [0.0, time], eps=eps)
    end = found.y[:, -1]
    exact = []
    for each in eps.tolist():
        matrix = torch.tensor([[0.0, -k], [k / each**2, -1 / each**2]], dtype=torch.float64)
        a, b = torch.linalg.matrix_exp(time * matrix) @ torch.tensor([0.5, 0.5 * k], dtype=torch.float64)
        exact.append(torch.stack([1 + a * cosine, b * sine]))
    error = (end - torch.stack(exact)).abs().amax((1, 2))
    limit = 1 + 0.5 * math.exp(-k * k * time) * cosine
    explicit = model.solve(
        y0[2:3], [0.0, time], solver="tsit5", rtol=1e-6, atol=1e-9, max_steps=10**6, eps=eps[2] * ones
    )
    return [
        at_most("error at rtol 1e-6, largest over eps = 1 ... 1e-4", error.max(), 1e-5),
        at_most("density at eps = 1e-4 against r_t = r_xx", (end[-1, 0] - limit).abs().max(), 1e-5),
        at_most("change of the number of particles", (end[:, 0].mean(1) - 1).abs().max(), 1e-10),
        at_most("rows at eps = 1e-4 over rows at eps = 1", found.evaluations[-1] / found.evaluations[0], 5),
        at_least(
            "rows of tsit5 over those of esdirk4 at eps = 1e-2", explicit.evaluations[0] / found.evaluations[2], 3
        ),
    ]


RECIPE = Recipe(
    name="kinetic",
    paper="Asymptotic-preserving schemes of kinetic equations",
    replaced="Boltzmann's operator of mixtures by two velocities that relax; an IMEX scheme by an implicit solver",
    models=(CARD.name,),
    build=build,
    check=check,
)
