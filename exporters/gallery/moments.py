"""The three stable forms where their laws are known: what a served neural SDE of each form is measured against.

ornstein-uhlenbeck  dz = rate (mean - z) dt + spread dW      E z = mean + (z0 - mean) e^-rt, variance s^2 (1 - e^-2rt)
/ 2r linear-noise        dz = -rate z dt + volatility z dW        E z = z0 e^-rt, E z^2 = z0^2 e^((v^2 - 2 rate) t)
geometric-brownian  dz/z = growth dt + volatility dW         log |z| = log |z0| + (g - v^2 / 2) t + v W(t)
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from exporters.dynamics import export_dynamics
from exporters.gallery.recipe import Figure, Recipe, at_least, at_most
from exporters.gallery.solving import Model, parameters
from protos.card import Card
from protos.dynamics import Dynamics, Gives, Roles, Solving

PATHS = 4000


class Ornstein(nn.Module):
    def forward(self, z: Float[Tensor, "b 1"], rate: Tensor, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        return rate[:, None] * (mean[:, None] - z), spread[:, None] + 0 * z


class Linear(nn.Module):
    def forward(self, z: Float[Tensor, "b 1"], rate: Tensor, volatility: Tensor) -> tuple[Tensor, Tensor]:
        return -rate[:, None] * z, volatility[:, None] + 0 * z


class Geometric(nn.Module):
    def forward(self, z: Float[Tensor, "b 1"], growth: Tensor, volatility: Tensor) -> tuple[Tensor, Tensor]:
        return growth[:, None] + 0 * z, volatility[:, None] + 0 * z


def _card(name: str, form: str, *names: str) -> Card:
    return Card(
        name=name,
        dynamics=Dynamics(
            kind="sde", state=(1,), inputs=Roles(y="z"), outputs=Gives(drift="drift", diffusion="sigma"),
            noise="additive" if form == "langevin" else "diagonal", form=form, calculus="ito",  # type: ignore[arg-type]
            solver=Solving(name="euler_maruyama", dt=1 / 32),
        ),
        conditions=parameters(*names),
    )  # fmt: skip


OU = _card("ornstein-uhlenbeck", "langevin", "rate", "mean", "spread")
LINEAR = _card("linear-noise", "linear", "rate", "volatility")
GBM = _card("geometric-brownian", "geometric", "growth", "volatility")


def build(repository: Path, effort: float) -> None:
    networks: tuple[tuple[nn.Module, Card], ...] = ((Ornstein(), OU), (Linear(), LINEAR), (Geometric(), GBM))
    for network, card in networks:
        generator = torch.Generator().manual_seed(0)
        examples = {"z": torch.randn(4, 1, generator=generator, dtype=torch.float64)}
        examples |= {name: torch.rand(4, generator=generator, dtype=torch.float64) for name in card.conditions}
        export_dynamics(network, repository / card.name, card, examples=examples, dtype=torch.float64)


def _ends(model: Model, paths: int, dt: float, z0: float, **numbers: float) -> Float[Tensor, " n"]:
    condition = {name: torch.tensor([value], dtype=torch.float64) for name, value in numbers.items()}
    start = torch.full((paths, 1), z0, dtype=torch.float64)
    return model.solve(start, [0.0, 1.0], dt=dt, seed=1, **condition).y[:, -1, 0]


def check(repository: Path) -> list[Figure]:
    """Moments in standard errors of 4,000 paths; what is exact path by path; signs under strong noise."""
    ou, linear, gbm = (Model(repository, card.name) for card in (OU, LINEAR, GBM))
    end = _ends(ou, PATHS, 1 / 64, 2.0, rate=1.0, mean=-1.0, spread=0.5)
    mean, variance = -1 + 3 * math.exp(-1), 0.25 * (1 - math.exp(-2)) / 2
    fine = _ends(ou, 200, 1 / 512, 2.0, rate=1.0, mean=-1.0, spread=0.5)
    errors = [
        float((_ends(ou, 200, dt, 2.0, rate=1.0, mean=-1.0, spread=0.5) - fine).abs().mean()) for dt in (1 / 16, 1 / 32)
    ]
    lin = _ends(linear, PATHS, 1 / 64, 1.0, rate=1.0, volatility=0.5)
    square, root = math.exp(0.25 - 2), math.sqrt(PATHS)
    coarse, exact = (_ends(gbm, 500, dt, -1.0, growth=0.3, volatility=0.8) for dt in (1 / 4, 1 / 64))
    logs = _ends(gbm, PATHS, 1 / 4, -1.0, growth=0.3, volatility=0.8).abs().log()
    wild = _ends(gbm, PATHS, 1 / 4, -1.0, growth=0.3, volatility=6.0)
    return [
        at_most("Ornstein-Uhlenbeck: mean, standard errors", abs(end.mean() - mean) / math.sqrt(variance / PATHS), 4),
        at_most("its variance, standard errors", abs(end.var() / variance - 1) / math.sqrt(2 / PATHS), 4),
        at_most("its strong order, less 1", abs(math.log2(errors[0] / errors[1]) - 1), 0.2),
        at_most("linear noise: mean, standard errors", abs(lin.mean() - math.exp(-1)) / lin.std() * root, 4),
        at_most("its mean square, standard errors",
                abs((lin**2).mean() - square) / (lin**2).std() * root, 4),
        at_most("geometric: steps of 1/4 against 1/64 on one path", (coarse / exact - 1).abs().max(), 1e-12),
        at_most("mean of log |z|, standard errors", abs(logs.mean() - (0.3 - 0.32)) / 0.8 * math.sqrt(PATHS), 4),
        at_least("share of signs kept at volatility 6, steps of 1/4", (wild < 0).double().mean(), 1),
    ]  # fmt: skip


RECIPE = Recipe(
    name="moments",
    paper="the three forms of stable neural SDEs, where their laws are known in closed form",
    replaced="networks by formulas",
    models=(OU.name, LINEAR.name, GBM.name),
    build=build,
    check=check,
)
