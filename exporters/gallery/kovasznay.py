"""A physics-informed network of the stationary Navier-Stokes equations without data, whose boundary values are exact by
construction: velocity = A + B N with A from the boundary, B = 0 on it, N a network.

The flow is Kovasznay's (1948), behind a grid of rods, Re = 40, on [-0.5, 1] x [-0.5, 1.5]:

    u = 1 - e^{l x} cos 2 pi y,   v = (l / 2 pi) e^{l x} sin 2 pi y,   p = -e^{2 l x} / 2
    l = Re / 2 - sqrt(Re^2 / 4 + 4 pi^2)

The network sees the equations inside and the velocity on the boundary, nothing else; the pressure has no boundary
values and is right up to a number. The graph gives values and what is left of the equations, its derivatives as jets.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from exporters.export import export_model
from exporters.gallery.fitting import fitted
from exporters.gallery.jets import Jet, along, column, stacked
from exporters.gallery.recipe import Figure, Recipe, at_most
from exporters.network import open_session
from protos.card import Card

REYNOLDS = 40.0
FALL = REYNOLDS / 2 - math.sqrt(REYNOLDS**2 / 4 + 4 * math.pi**2)
LEFT, RIGHT, LOW, HIGH = -0.5, 1.0, -0.5, 1.5
STEPS = 2500


def flow(x: Jet, y: Jet) -> Jet:
    """Kovasznay's velocity (u, v) at jets of x and y, each [B, 1]."""
    e, wave = (x * FALL).exp(), y * (2 * math.pi)
    return stacked((e * wave.cos()) * -1.0, (e * wave.sin()) * (FALL / (2 * math.pi))) + _constant(x, 1.0, 0.0)


def _constant(like: Jet, *numbers: float) -> Jet:
    zero = 0 * like.value.repeat(1, len(numbers))
    return Jet(zero + torch.tensor(numbers), zero, zero)


class Pinn(nn.Module):
    """`at [B, 2] -> (flow [B, 3] of u, v, p, residual [B, 3] of both momenta and the divergence)`."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, width)])
        self.last = nn.Linear(width, 3)

    def jet(self, at: Jet) -> Jet:
        x, y = column(at, 0), column(at, 1)
        hidden = stacked(x.plus(-0.25) * (1 / 0.75), y.plus(-0.5))
        for layer in self.layers:
            hidden = hidden.linear(layer).tanh()  # type: ignore[arg-type] # a list of linear layers
        out = hidden.linear(self.last)
        wall = (x.plus(-LEFT) * (x * -1.0).plus(RIGHT)) * (y.plus(-LOW) * (y * -1.0).plus(HIGH))
        velocity = stacked(column(out, 0), column(out, 1)) * stacked(wall, wall) + self.boundary(x, y)
        return stacked(velocity, column(out, 2))

    def boundary(self, x: Jet, y: Jet) -> Jet:
        """Coons' patch: takes the flow's values on all four sides."""
        a, b = x.plus(-LEFT) * (1 / (RIGHT - LEFT)), y.plus(-LOW) * (1 / (HIGH - LOW))
        a, b = stacked(a, a), stacked(b, b)
        other_a, other_b = (a * -1.0).plus(1.0), (b * -1.0).plus(1.0)
        at = lambda jet, number: Jet(0 * jet.value + number, 0 * jet.first, 0 * jet.second)  # noqa: E731
        left, right, low, high = at(x, LEFT), at(x, RIGHT), at(y, LOW), at(y, HIGH)
        sides = other_a * flow(left, y) + a * flow(right, y) + other_b * flow(x, low) + b * flow(x, high)
        corners = other_a * (other_b * flow(left, low) + b * flow(left, high))
        return sides - corners - a * (other_b * flow(right, low) + b * flow(right, high))

    def forward(self, at: Float[Tensor, "b 2"]) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b 3"]]:
        x, y = self.jet(along(at, 0)), self.jet(along(at, 1))
        velocity = x.value[:, :2]
        carried = velocity[:, :1] * x.first[:, :2] + velocity[:, 1:] * y.first[:, :2]
        pressed = torch.stack([x.first[:, 2], y.first[:, 2]], dim=1)
        momentum = carried + pressed - (x.second[:, :2] + y.second[:, :2]) / REYNOLDS
        divergence = x.first[:, 0] + y.first[:, 1]
        return x.value, torch.cat([momentum, divergence[:, None]], dim=1)


def anywhere(n: int, generator: torch.Generator) -> Float[Tensor, "n 2"]:
    unit = torch.rand(n, 2, generator=generator)
    return unit * torch.tensor([RIGHT - LEFT, HIGH - LOW]) + torch.tensor([LEFT, LOW])


def trained(steps: int) -> Pinn:
    """By the mean square of what is left of the equations at random points."""
    torch.manual_seed(0)

    def loss(network: Pinn, generator: torch.Generator) -> Tensor:
        _, residual = network(anywhere(128, generator))
        return (residual**2).mean()

    return fitted(Pinn(), loss, steps=steps, peak=5e-3, name="kovasznay")


CARD = Card(name="kovasznay")


def build(repository: Path, effort: float) -> None:
    examples = {"at": anywhere(16, torch.Generator().manual_seed(1))}
    network = trained(round(effort * STEPS))
    export_model(network, repository / CARD.name, CARD, examples=examples, outputs=["flow", "residual"], tolerance=2e-3)


def exact(at: Float64[Tensor, "n 2"]) -> Float64[Tensor, "n 3"]:
    e, wave = torch.exp(FALL * at[:, 0]), 2 * math.pi * at[:, 1]
    return torch.stack([1 - e * wave.cos(), FALL / (2 * math.pi) * e * wave.sin(), -(e**2) / 2], dim=1)


def check(repository: Path) -> list[Figure]:
    """Inside and on the boundary against Kovasznay's flow, and the graph's derivatives against differences."""
    session = open_session(repository / CARD.name / "1" / "model.onnx", threads=1)

    def ask(at: Tensor) -> list[Tensor]:
        return [torch.from_numpy(each).double() for each in session.run(None, {"at": at.float().numpy()})]

    generator = torch.Generator().manual_seed(2)
    inside = anywhere(2000, generator)
    want, (found, residual) = exact(inside.double()), ask(inside)
    side = torch.rand(200, generator=generator)
    x, y = LEFT + (RIGHT - LEFT) * side, LOW + (HIGH - LOW) * side
    edge = torch.cat(
        [torch.stack(pair, 1) for pair in ((x, 0 * x + LOW), (x, 0 * x + HIGH), (0 * y + LEFT, y), (0 * y + RIGHT, y))]
    )
    velocity = found[:, :2] - want[:, :2]
    pressure = (found[:, 2] - found[:, 2].mean()) - (want[:, 2] - want[:, 2].mean())
    apart, some = 1e-2, inside[:50]
    step = torch.tensor([[apart, 0.0], [0.0, apart]])
    slope = [(ask(some + each)[0] - ask(some - each)[0]) / (2 * apart) for each in step]
    off = (ask(edge)[0] - exact(edge.double()))[:, :2]
    offset = want[:, 2] - want[:, 2].mean()
    spread = slope[0][:, 0] + slope[1][:, 1] - residual[:50, 2]
    return [
        at_most("velocity inside, relative", velocity.norm() / want[:, :2].norm(), 0.01),
        at_most("pressure inside up to a number, relative", pressure.norm() / offset.norm(), 0.1),
        at_most("velocity on the boundary, largest error (float32)", off.abs().max(), 1e-5),
        at_most("divergence by jets less that by differences", spread.abs().max(), 0.05),
    ]


RECIPE = Recipe(
    name="kovasznay",
    paper="Data-free physics-informed networks for Navier-Stokes with hard boundary conditions",
    replaced="nothing",
    models=(CARD.name,),
    build=build,
    check=check,
    trained=True,
)
