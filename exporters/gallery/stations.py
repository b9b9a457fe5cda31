"""Air between stations as a graph differential equation: Hettige et al., "AirPhyNet" (ICLR 2024), equations of
diffusion and advection on the graph of stations.

    z' = -k L z + A(wind) z

L is the Laplacian of weights that fall with the distance, A carries along each edge as much as the wind blows that way;
both have columns of sum 0, so that what leaves one station comes to another. Stations are synthetic (12 random places);
the learned encoder and decoder of the paper are left out, so that all is exact: for a wind at rest in time
z(t) = exp(t (A - k L)) z(0).
"""

from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from exporters.dynamics import export_dynamics
from exporters.gallery.recipe import Figure, Recipe, at_least, at_most
from exporters.gallery.solving import Model
from protos.card import Card, Condition
from protos.dynamics import Dynamics, Gives, Roles, Solving

STATIONS = 12


def places() -> Float64[Tensor, "12 2"]:
    return torch.rand(STATIONS, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Air(nn.Module):
    """`(z [B, 12], wind [B, 2], diffusivity [B]) -> dz/dt [B, 12]`; float64."""

    nearness: Tensor
    along: Tensor

    def __init__(self) -> None:
        super().__init__()
        at = places()
        apart = at[None] - at[:, None]  # [from, to, 2]
        length = apart.norm(dim=-1).clamp_min(1e-9)
        nearness = torch.exp(-((length / 0.3) ** 2))
        nearness.fill_diagonal_(0)
        self.register_buffer("nearness", nearness)
        self.register_buffer("along", (apart / length[..., None] * nearness[..., None]).permute(2, 0, 1).contiguous())

    def forward(
        self, z: Float[Tensor, "b 12"], wind: Float[Tensor, "b 2"], diffusivity: Float[Tensor, " b"]
    ) -> Float[Tensor, "b 12"]:
        blown = torch.relu(wind[:, 0, None, None] * self.along[0] + wind[:, 1, None, None] * self.along[1])
        carried = (blown + diffusivity[:, None, None] * self.nearness) * z[:, :, None]  # [b, from, to]
        return carried.sum(1) - carried.sum(2)


CARD = Card(
    name="stations",
    dynamics=Dynamics(
        kind="ode", state=(STATIONS,), inputs=Roles(y="z"), outputs=Gives(drift="dz"),
        solver=Solving(name="tsit5", rtol=1e-6),
    ),
    conditions={"wind": Condition(dtype="float64", shape=(2,)), "diffusivity": Condition(dtype="float64")},
)  # fmt: skip


def build(repository: Path, effort: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(4, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    examples = {"z": draw(STATIONS), "wind": draw(2), "diffusivity": draw().abs()}
    export_dynamics(Air(), repository / CARD.name, CARD, examples=examples, dtype=torch.float64)


def matrix(wind: Float64[Tensor, " 2"], diffusivity: float) -> Float64[Tensor, "12 12"]:
    """A - k L, written down from the places alone."""
    at, found = places(), torch.zeros(STATIONS, STATIONS, dtype=torch.float64)
    for source in range(STATIONS):
        for target in range(STATIONS):
            if source != target:
                way = at[target] - at[source]
                near = torch.exp(-((way.norm() / 0.3) ** 2))
                rate = near * (torch.relu(wind @ way / way.norm()) + diffusivity)
                found[target, source] += rate
                found[source, source] -= rate
    return found


def check(repository: Path) -> list[Figure]:
    """A puff at each of three stations, in three winds, against the matrix exponential."""
    model, times = Model(repository, CARD.name), torch.linspace(0, 4, 5, dtype=torch.float64)
    wind = torch.tensor([[1.0, 0.0], [-0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)
    diffusivity = torch.tensor([0.1, 0.0, 0.5], dtype=torch.float64)
    z0 = torch.eye(STATIONS, dtype=torch.float64)[[0, 4, 7]]
    solved = model.solve(z0, times, rtol=1e-10, atol=1e-13, wind=wind, diffusivity=diffusivity).y
    exact = torch.stack(
        [
            torch.stack([torch.linalg.matrix_exp(t * matrix(wind[i], float(diffusivity[i]))) @ z0[i] for t in times])
            for i in range(3)
        ]
    )
    return [
        at_most("puffs against the matrix exponential", (solved - exact).abs().max(), 1e-9),
        at_most("change of what is in the air", (solved.sum(-1) - 1).abs().max(), 1e-12),
        at_least("least amount at a station", solved.min(), -1e-11),
    ]


RECIPE = Recipe(
    name="stations",
    paper="AirPhyNet: diffusion and advection on the graph of air-quality stations (Hettige et al. 2024)",
    replaced="measured stations by 12 random places; encoder and decoder left out, so that the answer is known",
    models=(CARD.name,),
    build=build,
    check=check,
)
