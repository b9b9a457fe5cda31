"""A diffusion couple: two blocks of unlike composition, pressed together, and what their profile tells of diffusion.

    c_t = (D(c) c_x)_x on [-1, 1], no flux through the ends, c = 0 on the left and 1 on the right at t = 0
    D(c) = base + slope c

The technique reads D from one profile at one time t, by Boltzmann and Matano's integral, or by den Broeder's, which
needs no plane of Matano. For slope 0 the profile is (1 + erf(x / sqrt(4 D t))) / 2.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from exporters.dynamics import export_dynamics
from exporters.gallery.recipe import Figure, Recipe, at_most
from exporters.gallery.solving import Model, parameters
from protos.card import Card
from protos.dynamics import Dynamics, Gives, Roles, Solving

CELLS = 160
WIDTH = 2 / CELLS


class Couple(nn.Module):
    """`(c [B, 160] of cells, base [B], slope [B]) -> dc/dt`: fluxes between neighbours, so that the sum is kept."""

    def forward(
        self, c: Float[Tensor, "b n"], base: Float[Tensor, " b"], slope: Float[Tensor, " b"]
    ) -> Float[Tensor, "b n"]:
        between = (c[:, 1:] + c[:, :-1]) / 2
        flux = (base[:, None] + slope[:, None] * between) * (c[:, 1:] - c[:, :-1]) * (CELLS // 2)
        none = torch.zeros_like(c[:, :1])
        return (torch.cat([flux, none], dim=1) - torch.cat([none, flux], dim=1)) * (CELLS // 2)


def places() -> Float64[Tensor, " n"]:
    """Middles of the cells."""
    return torch.linspace(-1 + WIDTH / 2, 1 - WIDTH / 2, CELLS, dtype=torch.float64)


def pressed_together(n: int) -> Float64[Tensor, "n 160"]:
    return (places() > 0).to(torch.float64).expand(n, -1).clone()


def matano(c: Float64[Tensor, " n"], t: float) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " m"]]:
    """Boltzmann and Matano: D(c) = -(1 / 2t) (dx/dc) int_0^c (x - x_M) dc, with x_M where as much has left as has come.

    Returns compositions between neighbouring cells, and D there.
    """
    x = places()
    plane = 1 - float(c.sum()) * WIDTH  # of a profile from 0 to 1 over [-1, 1]
    middle, step = (x[1:] + x[:-1]) / 2, c[1:] - c[:-1]
    parts = (middle - plane) * step
    integral = torch.cumsum(parts, 0) - parts / 2
    return (c[1:] + c[:-1]) / 2, -integral * WIDTH / step / (2 * t)


def den_broeder(c: Float64[Tensor, " n"], t: float) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " m"]]:
    """den Broeder: D(c) = (1 / 2t) (dx/dc) ((1 - c) int_-1^x c dx + c int_x^1 (1 - c) dx)."""
    before = torch.cumsum(c, 0)[:-1] * WIDTH
    after = (1 - c).flip(0).cumsum(0).flip(0)[1:] * WIDTH
    y = (c[1:] + c[:-1]) / 2
    return y, ((1 - y) * before + y * after) * WIDTH / (c[1:] - c[:-1]) / (2 * t)


CARD = Card(
    name="diffusion-couple",
    dynamics=Dynamics(
        kind="ode", state=(CELLS,), inputs=Roles(y="c"), outputs=Gives(drift="dc"),
        solver=Solving(name="tsit5", rtol=1e-6, max_steps=100_000),
    ),
    conditions=parameters("base", "slope"),
)  # fmt: skip


def build(repository: Path, effort: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(4, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    examples = {"c": draw(CELLS), "base": draw(), "slope": draw()}
    export_dynamics(Couple(), repository / CARD.name, CARD, examples=examples, dtype=torch.float64)


def check(repository: Path) -> list[Figure]:
    """Three couples at one time: what Matano's and den Broeder's integrals read of them between 10 and 90 percent."""
    model, time = Model(repository, CARD.name), 0.02
    base = torch.tensor([1.0, 0.5, 1.5], dtype=torch.float64)
    slope = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    solved = model.solve(pressed_together(3), [0.0, time], rtol=1e-8, atol=1e-11, base=base, slope=slope)
    profiles = solved.y[:, -1]
    exact = (1 + torch.erf(places() / math.sqrt(4 * time))) / 2
    worst = {"Matano": 0.0, "den Broeder": 0.0}
    for row, profile in enumerate(profiles):
        for name, method in (("Matano", matano), ("den Broeder", den_broeder)):
            y, found = method(profile, time)
            inside = (y > 0.1) & (y < 0.9)
            true = base[row] + slope[row] * y
            worst[name] = max(worst[name], float((found / true - 1).abs()[inside].max()))
    return [
        at_most("profile of constant D against erf", (profiles[0] - exact).abs().max(), 2e-4),
        at_most("D by Matano, relative", worst["Matano"], 0.01),
        at_most("D by den Broeder, relative", worst["den Broeder"], 0.01),
        at_most("change of the sum", (profiles.sum(1) - CELLS / 2).abs().max() / CELLS, 1e-12),
    ]


RECIPE = Recipe(
    name="couple",
    paper="Diffusion couple technique: interdiffusion coefficients from one profile",
    replaced="measured profiles by solved ones; molar volume is ideal",
    models=(CARD.name,),
    build=build,
    check=check,
)
