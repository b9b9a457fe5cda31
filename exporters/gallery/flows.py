"""Flows whose coherent structures are asked for: finite-time Lyapunov exponents (FTLE) of a saddle and a double gyre.

The saddle u = (x, -y) stretches by exp(t) everywhere: its FTLE is 1 at all times. The double gyre is that of Shadden,
Lekien, Marsden (Physica D 212, 2005): two vortices in [0, 2] x [0, 1] whose border sways. Its walls and, for sway 0,
the line x = 1 between the vortices are never crossed; where it sways, a ridge of FTLE hangs at the upper or lower wall.
"""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from exporters.dynamics import export_dynamics
from exporters.gallery.recipe import Figure, Recipe, at_most
from exporters.gallery.solving import Model, parameters
from protos.card import Card
from protos.dynamics import Dynamics, Gives, Roles, Solving


class Saddle(nn.Module):
    """`x [B, 2] -> (x, -y)`."""

    sign: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sign", torch.tensor([1.0, -1.0], dtype=torch.float64))

    def forward(self, x: Float[Tensor, "b 2"]) -> Float[Tensor, "b 2"]:
        return x * self.sign


class DoubleGyre(nn.Module):
    """`(x [B, 2], t [B], strength [B], sway [B], pulse [B]) -> u [B, 2]`, of the stream function
    strength sin(pi f) sin(pi y), f = sway sin(pulse t) x^2 + (1 - 2 sway sin(pulse t)) x."""

    pi: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pi", torch.tensor(math.pi, dtype=torch.float64))  # a number would be written as float32

    def forward(
        self, x: Float[Tensor, "b 2"], t: Float[Tensor, " b"], strength: Tensor, sway: Tensor, pulse: Tensor
    ) -> Float[Tensor, "b 2"]:
        a = sway * torch.sin(pulse * t)
        f = a * x[:, 0] * x[:, 0] + (1 - 2 * a) * x[:, 0]
        slope = 2 * a * x[:, 0] + (1 - 2 * a)
        u = -self.pi * strength * torch.sin(self.pi * f) * torch.cos(self.pi * x[:, 1])
        v = self.pi * strength * torch.cos(self.pi * f) * torch.sin(self.pi * x[:, 1]) * slope
        return torch.stack([u, v], dim=1)


SADDLE = Card(
    name="saddle",
    dynamics=Dynamics(kind="ode", state=(2,), inputs=Roles(y="x"), outputs=Gives(drift="u"), solver=Solving(rtol=1e-8)),
)
GYRE = Card(
    name="double-gyre",
    dynamics=Dynamics(
        kind="ode", state=(2,), inputs=Roles(y="x", t="t"), outputs=Gives(drift="u"),
        solver=Solving(name="tsit5", rtol=1e-8, atol=1e-10),
    ),
    conditions=parameters("strength", "sway", "pulse"),
)  # fmt: skip
USUAL = {"strength": 0.1, "sway": 0.1, "pulse": math.pi / 5}
"""Of Shadden's paper."""


def build(repository: Path, effort: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(4, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    export_dynamics(Saddle(), repository / SADDLE.name, SADDLE, examples={"x": draw(2)}, dtype=torch.float64)
    examples = {"x": draw(2), "t": draw(), "strength": draw(), "sway": draw(), "pulse": draw()}
    export_dynamics(DoubleGyre(), repository / GYRE.name, GYRE, examples=examples, dtype=torch.float64)


def gradients(model: Model, x: Float64[Tensor, "n 2"], times: list[float], **asked: Any) -> Float64[Tensor, "n 2 2"]:
    """Derivatives of where x comes to in x, by neighbours on each side."""
    apart = 1e-5
    shift = apart * torch.eye(2, dtype=torch.float64)
    around = torch.cat([x + shift[0], x - shift[0], x + shift[1], x - shift[1]])
    end = model.solve(around, times, **{"rtol": 1e-10, "atol": 1e-12, **asked}).y[:, -1].reshape(4, -1, 2)
    return torch.stack([end[0] - end[1], end[2] - end[3]], dim=-1) / (2 * apart)


def exponents(gradient: Float64[Tensor, "n 2 2"], time: float) -> Float64[Tensor, " n"]:
    """FTLE: the logarithm of the largest singular value, by unit of time."""
    return torch.linalg.svdvals(gradient)[:, 0].log() / time


def check(repository: Path) -> list[Figure]:
    """Exponents that are known, walls that are never crossed, areas that are kept, and a flow that is run back."""
    saddle, gyre = Model(repository, SADDLE.name), Model(repository, GYRE.name)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    usual = {name: torch.tensor([value], dtype=torch.float64) for name, value in USUAL.items()}
    still = usual | {"sway": torch.zeros(1, dtype=torch.float64)}
    wall = torch.tensor([[0.3, 0.0], [1.0, 0.4], [2.0, 0.7], [0.0, 0.2]], dtype=torch.float64)
    along = gyre.solve(wall, [0.0, 10.0], rtol=1e-10, atol=1e-12, **still).y[:, -1]
    crossed = torch.stack([along[0, 1], along[1, 0] - 1, along[2, 0] - 2, along[3, 0]]).abs().max()
    inside = torch.rand(20, 2, generator=generator, dtype=torch.float64) * torch.tensor([2.0, 1.0])
    there = gyre.solve(inside, [0.0, 10.0], rtol=1e-11, atol=1e-13, **usual).y[:, -1]
    back = gyre.solve(there, [10.0, 0.0], rtol=1e-11, atol=1e-13, **usual).y[:, -1]
    now = gradients(gyre, inside, [0.0, 10.0], **usual)
    mirrored = torch.stack([2 - inside[:, 0], inside[:, 1]], dim=1)
    later = gradients(gyre, mirrored, [5.0, 15.0], **usual)  # half a period of the sway on
    return [
        at_most("FTLE of the saddle less 1", (exponents(gradients(saddle, x, [0.0, 3.0]), 3) - 1).abs().max(), 1e-7),
        at_most("what crosses walls and the border of vortices at rest", crossed, 1e-9),
        at_most("area of the double gyre's flow over 10 less 1", (torch.linalg.det(now) - 1).abs().max(), 1e-3),
        at_most("its FTLE less that of the mirrored point half a period later",
                (exponents(now, 10) - exponents(later, 10)).abs().max(), 1e-5),
        at_most("the double gyre run for 10 and back, largest distance", (back - inside).abs().max(), 1e-6),
    ]  # fmt: skip


RECIPE = Recipe(
    name="flows",
    paper="Lagrangian coherent structures at turbulent interfaces, by finite-time Lyapunov exponents",
    replaced="measured velocity fields by two analytic ones",
    models=(SADDLE.name, GYRE.name),
    build=build,
    check=check,
)
