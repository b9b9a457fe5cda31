"""Stochastic acceleration of particles by turbulence (Fermi's second process) with losses and escape, on a finite
range.

Momenta p diffuse with D = p^2 and lose loss p^2 a unit of time; with x = log p and n = p N, N the density in p,

    n_t = F_x - escape n + injected delta(x - x_0),    F = n_x - 3 n + loss p n,    F = 0 at both ends

Without escape particles pile up at p = 3 / loss: n = p^3 exp(-loss p). Without losses n is two powers of p on each side
of where particles come in, with exponents (3 +- sqrt(9 + 4 escape)) / 2. Fluxes between cells are Chang and Cooper's
(1970), so that particles are kept and no density falls below 0, however strong losses are.
"""

from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from exporters.dynamics import export_dynamics
from exporters.gallery.recipe import Figure, Recipe, at_least, at_most
from exporters.gallery.solving import Model, parameters
from protos.card import Card
from protos.dynamics import Dynamics, Gives, Roles, Solving

CELLS, LOW, HIGH = 60, -3.0, 3.0
WIDTH = (HIGH - LOW) / CELLS
SOURCE = 19
"""The cell where particles come in: its upper border is x = -1."""


def middles() -> Float64[Tensor, " n"]:
    return LOW + WIDTH * (torch.arange(CELLS, dtype=torch.float64) + 0.5)


def bernoulli(w: Tensor) -> Tensor:
    """w / (e^w - 1)."""
    near = w.abs() < 1e-4
    safe = torch.where(near, torch.ones_like(w), w)
    return torch.where(near, 1 - w / 2, safe / (torch.exp(safe) - 1))


class Acceleration(nn.Module):
    """`(n [B, 60], loss [B], escape [B], injected [B]) -> dn/dt`, float64."""

    momenta: Tensor
    width: Tensor
    source: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("momenta", torch.exp((middles()[1:] + middles()[:-1]) / 2))
        self.register_buffer("width", torch.tensor(WIDTH, dtype=torch.float64))
        source = torch.zeros(CELLS, dtype=torch.float64)
        source[SOURCE : SOURCE + 2] = 0.5 / WIDTH  # half on each side of the border
        self.register_buffer("source", source)

    def forward(self, n: Float[Tensor, "b n"], loss: Tensor, escape: Tensor, injected: Tensor) -> Float[Tensor, "b n"]:
        w = self.width * (loss[:, None] * self.momenta - 3)
        flux = (bernoulli(-w) * n[:, 1:] - bernoulli(w) * n[:, :-1]) / self.width
        none = torch.zeros_like(n[:, :1])
        moved = (torch.cat([flux, none], dim=1) - torch.cat([none, flux], dim=1)) / self.width
        return moved - escape[:, None] * n + injected[:, None] * self.source


CARD = Card(
    name="fermi",
    dynamics=Dynamics(
        kind="ode", state=(CELLS,), inputs=Roles(y="n"), outputs=Gives(drift="dn"),
        solver=Solving(name="esdirk4", rtol=1e-6, atol=1e-12),
    ),
    conditions=parameters("loss", "escape", "injected"),
)  # fmt: skip


def build(repository: Path, effort: float) -> None:
    export_dynamics(Acceleration(), repository / CARD.name, CARD, dtype=torch.float64)


def powers(x: Float64[Tensor, " n"], escape: float) -> Float64[Tensor, " n"]:
    """The steady state without losses, of one particle a unit of time that comes in at the upper border of `SOURCE`."""
    root = (9 + 4 * escape) ** 0.5
    up, down = (3 + root) / 2, (3 - root) / 2
    place = torch.tensor(LOW + WIDTH * (SOURCE + 1), dtype=torch.float64)

    def side(x: Tensor, end: float) -> tuple[Tensor, Tensor]:
        """A solution of no flux at an end, and its flux."""
        a, b = torch.exp(up * (x - end)), torch.exp(down * (x - end))
        return a / (up - 3) - b / (down - 3), a - b

    (left, left_flux), (right, right_flux) = side(place, LOW), side(place, HIGH)
    # n is continuous, and the flux falls by what comes in
    both = torch.stack([torch.stack([left, -right]), torch.stack([left_flux, -right_flux])])
    a, c = torch.linalg.solve(both, torch.tensor([0.0, 1.0], dtype=torch.float64))
    return torch.where(x < place, a * side(x, LOW)[0], c * side(x, HIGH)[0])


def check(repository: Path) -> list[Figure]:
    """Steady states with losses, with escape, and the number of particles on the way."""
    model, x = Model(repository, CARD.name), middles()
    rows = {
        "loss": torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64),
        "escape": torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64),
        "injected": torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64),
    }
    n0 = torch.full((3, CELLS), 1 / (CELLS * WIDTH), dtype=torch.float64)
    solved = model.solve(n0, [0.0, 1.0, 40.0], **rows).y
    end, number = solved[:, -1], solved.sum(-1) * WIDTH
    piled = torch.exp(3 * x - rows["loss"][:2, None] * torch.exp(x))
    piled = piled / piled.sum(1, keepdim=True) / WIDTH
    exact = powers(x, 1.0)
    inside = (x > LOW + 0.5) & (x < HIGH - 0.5)
    peak = x[end[0].argmax()]
    off = (end[:2] - piled).abs() / piled.amax(1)[:, None]
    return [
        at_most("pile-up against p^3 exp(-loss p), relative to its top", off.max(), 2e-3),
        at_most("where it lies, less log(3 / loss), in cells", abs(peak - torch.log(torch.tensor(3.0))) / WIDTH, 1),
        at_most("powers of p with escape, relative", (end[2] / exact - 1).abs()[inside].max(), 0.02),
        at_most("particles: change without escape", (number[:2, 1:] - 1).abs().max(), 1e-9),
        at_most("particles with escape, less injected / escape", abs(number[2, -1] - 1), 1e-6),
        at_least("least density", solved.min(), -1e-9),
    ]  # fmt: skip


RECIPE = Recipe(
    name="fermi",
    paper="Stochastic acceleration (second-order Fermi) with losses and escape on a finite range",
    replaced="nothing; parameters are the request's",
    models=(CARD.name,),
    build=build,
    check=check,
)
