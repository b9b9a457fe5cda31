"""An emulator of CO2 transport: a map from one state of the air to the next, given winds, that keeps the mass.

The network does not give the next state but how much of each cell goes to each of its four neighbours in a step, in
0 to 24 percent. So concentrations stay positive, mass only moves, and 1,000 steps cannot blow up; mass is lost only
to the rounding of float32, and the card's `conserve` puts that back in float64 after every step.

Winds are synthetic and free of divergence, on a periodic channel of 16 x 32 cells. The truth is the flux form with van
Leer's limiter at a quarter of the step; the baseline is one upwind step, which smears. Inputs are centred by the mean.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from exporters.dynamics import export_dynamics
from exporters.gallery.fitting import fitted
from exporters.gallery.recipe import Figure, Recipe, at_least, at_most
from exporters.gallery.solving import Model
from protos.card import Card, Condition
from protos.dynamics import Conserve, Dynamics, Gives, Roles, Solving

ROWS, COLUMNS, WIDTH = 16, 32, 24
MOST = 0.24
"""Of a cell, what may go through one of its faces in a step."""
STEPS = 800
AREA = torch.ones(ROWS, COLUMNS, dtype=torch.float64)
"""Cells of a channel are alike; a sphere's would be the cosine of the latitude."""


def around(m: Float[Tensor, "b c r k"]) -> Float[Tensor, "b c r2 k2"]:
    """One cell more on each side: periodic to east and west, the border's again to north and south."""
    m = torch.cat([m[..., -1:], m, m[..., :1]], dim=-1)
    return torch.cat([m[..., :1, :], m, m[..., -1:, :]], dim=-2)


class Periodic(nn.Module):
    """A 3 x 3 convolution on the channel."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(around(x))


class Emulator(nn.Module):
    """`(m [B, 16, 32], u [B, 16, 32] and v [B, 15, 32] through faces to east and south, in cells a step) -> next`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(Periodic(3, WIDTH), nn.SiLU(), Periodic(WIDTH, WIDTH), nn.SiLU(), Periodic(WIDTH, 4))

    def forward(
        self, m: Float[Tensor, "b r k"], u: Float[Tensor, "b r k"], v: Float[Tensor, "b r1 k"]
    ) -> Float[Tensor, "b r k"]:
        south = torch.cat([v, torch.zeros_like(v[:, :1])], dim=1)
        north = torch.cat([torch.zeros_like(v[:, :1]), v], dim=1)
        west = torch.cat([u[..., -1:], u[..., :-1]], dim=-1)
        wind = torch.stack([torch.relu(u), torch.relu(-west), torch.relu(south), torch.relu(-north)], dim=1)
        centred = m - m.mean(dim=(1, 2), keepdim=True)
        seen = torch.stack([centred, (u + west) / 2, (south + north) / 2], dim=1)
        # the upwind share, times what the network makes of it: nothing goes through a face without wind
        east_, west_, south_, north_ = (wind * torch.exp(torch.tanh(self.net(seen)))).clamp(max=MOST).unbind(1)
        east, west, down, up = (share * m for share in (east_, west_, south_, north_))
        came = torch.cat([east[..., -1:], east[..., :-1]], -1) + torch.cat([west[..., 1:], west[..., :1]], -1)
        none = torch.zeros_like(m[:, :1])
        came = came + torch.cat([none, down[:, :-1]], 1) + torch.cat([up[:, 1:], none], 1)
        return m - east - west - down - up + came


def winds(n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n r k"], Float[Tensor, "n r1 k"]]:
    """Through faces, from smooth stream functions at corners, so that as much goes into a cell as out; at most 0.2."""
    corner_x = torch.arange(COLUMNS) * 2 * torch.pi / COLUMNS
    corner_y = torch.arange(ROWS + 1) * torch.pi / ROWS
    stream = torch.zeros(n, ROWS + 1, COLUMNS)
    for k in range(1, 4):
        phase, size = 6.3 * torch.rand(n, 1, 1, generator=generator), torch.randn(n, 1, 1, generator=generator) / k
        wave = torch.sin(k * corner_x[None, None] + phase) * torch.sin(corner_y[None, :, None])
        stream += size * wave
    stream += torch.randn(n, 1, 1, generator=generator) * torch.cos(corner_y[None, :, None])
    u = stream[:, 1:] - stream[:, :-1]
    u = torch.cat([u[..., 1:], u[..., :1]], dim=-1)  # of the face to the east
    v = stream[:, 1:-1] - torch.cat([stream[:, 1:-1, 1:], stream[:, 1:-1, :1]], dim=-1)
    scale = 0.2 / torch.maximum(u.abs().amax((1, 2)), v.abs().amax((1, 2)))[:, None, None]
    return u * scale, v * scale


def air(n: int, generator: torch.Generator) -> Float[Tensor, "n r k"]:
    """Some sources on a background of 1."""
    y, x = torch.arange(ROWS)[None, :, None], torch.arange(COLUMNS)[None, None]
    m = torch.ones(n, ROWS, COLUMNS)
    for _ in range(4):
        cy, cx, size = (torch.rand(n, 1, 1, generator=generator) * most for most in (ROWS, COLUMNS, 2.0))
        apart = torch.remainder(x - cx + COLUMNS / 2, COLUMNS) - COLUMNS / 2
        m += size * torch.exp(-((y - cy) ** 2 + apart**2) / 8)
    return m


def transported(m: Tensor, u: Tensor, v: Tensor, parts: int = 4) -> Float[Tensor, "n r k"]:
    """A step of the truth: van Leer's flux form, direction by direction, in so many parts."""
    for _ in range(parts):
        m = m - _outflow(m, u / parts, dim=-1)
        wall = torch.zeros_like(m[:, :1])
        m = m - _outflow(m, torch.cat([v / parts, wall], dim=1), dim=-2)
    return m


def _outflow(m: Tensor, c: Tensor, dim: int) -> Tensor:
    """What leaves cells along one direction, c being the wind through each cell's far face."""
    ahead, behind = torch.roll(m, -1, dim), torch.roll(m, 1, dim)
    a, b = m - behind, ahead - m
    slope = torch.where(a * b > 0, 2 * a * b / torch.where(a + b == 0, 1.0, a + b), 0.0)
    flux = torch.relu(c) * (m + (1 - c) / 2 * slope) - torch.relu(-c) * (
        ahead - (1 + c) / 2 * torch.roll(slope, -1, dim)
    )
    return flux - torch.roll(flux, 1, dim)


def upwind(m: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The baseline: one step of the flux form with no slopes, which is the emulator with a network of 0."""
    network = Emulator()
    for each in network.parameters():
        nn.init.zeros_(each)
    with torch.no_grad():
        made: Tensor = network(m, u, v)
    return made


def trained(steps: int) -> Emulator:
    """By the mean square of four steps' errors in a row, on 64 trajectories of the truth."""
    torch.manual_seed(0)
    first = torch.Generator().manual_seed(4)
    states, (u, v) = [air(64, first)], winds(64, first)
    for _ in range(40):
        states.append(transported(states[-1], u, v))
    data = torch.stack(states, dim=1)

    def loss(network: Emulator, generator: torch.Generator) -> Tensor:
        row = torch.randint(len(data), (12,), generator=generator)
        time = torch.randint(data.shape[1] - 4, (12,), generator=generator)
        emulated, total = data[row, time], torch.zeros(())
        for ahead in range(1, 5):
            emulated = network(emulated, u[row], v[row])
            total = total + ((emulated - data[row, time + ahead]) ** 2).mean()
        return total

    return fitted(Emulator(), loss, steps=steps, peak=3e-3, name="co2")


CARD = Card(
    name="co2",
    dynamics=Dynamics(
        kind="map", state=(ROWS, COLUMNS), inputs=Roles(y="m"), outputs=Gives(next="next"),
        conserve=Conserve(weights="area.npy"), solver=Solving(name="map", dt=1.0, max_steps=100_000),
    ),
    conditions={
        "u": Condition(dtype="float32", shape=(ROWS, COLUMNS)),
        "v": Condition(dtype="float32", shape=(ROWS - 1, COLUMNS)),
    },
)  # fmt: skip


def build(repository: Path, effort: float) -> None:
    generator = torch.Generator().manual_seed(1)
    m, (u, v) = air(4, generator), winds(4, generator)
    export_dynamics(trained(round(effort * STEPS)), repository / CARD.name, CARD, examples={"m": m, "u": u, "v": v})
    np.save(repository / CARD.name / "1" / "area.npy", AREA.numpy())


def check(repository: Path) -> list[Figure]:
    """Fifty steps against the truth beside upwind's; a thousand for mass, sign and bounds."""
    model, generator = Model(repository, CARD.name), torch.Generator().manual_seed(2)
    m0, (u, v) = air(8, generator), winds(8, generator)
    truth, base = m0.double(), m0
    for _ in range(50):
        truth, base = transported(truth, u.double(), v.double()), upwind(base, u, v)
    solved = model.solve(m0, [0.0, 50.0], conserve=AREA, u=u, v=v).y[:, -1]
    off = lambda m: float((m.double() - truth).norm() / (truth - truth.mean((1, 2), keepdim=True)).norm())  # noqa: E731
    long = model.solve(m0[:2], [0.0, 1000.0], conserve=AREA, u=u[:2], v=v[:2]).y[:, -1]
    loose = model.solve(m0[:2], [0.0, 1000.0], u=u[:2], v=v[:2]).y[:, -1]
    mass = m0[:2].double().sum((1, 2))
    return [
        at_most("error of 50 steps over that of upwind steps", off(solved) / off(base), 0.7),
        at_most("change of mass over 1,000 steps, relative", ((long.sum((1, 2)) - mass) / mass).abs().max(), 1e-13),
        at_least("the same without `conserve`", ((loose.sum((1, 2)) - mass) / mass).abs().max(), 1e-10),
        at_least("least concentration after 1,000 steps", long.min(), 0),
        at_most("greatest after 1,000 steps over the greatest before", long.max() / m0[:2].max(), 1),
    ]


RECIPE = Recipe(
    name="co2",
    paper="Emulators of CO2 transport with flux form, centred inputs and a mass fixer",
    replaced="reanalysed winds on the sphere by synthetic ones in a channel; the transformer by three convolutions",
    models=(CARD.name,),
    build=build,
    check=check,
    trained=True,
)
