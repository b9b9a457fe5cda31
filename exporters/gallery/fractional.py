"""Relaxation with memory: a fractional differential equation, D^alpha y = -rate y in Caputo's sense.

The field is the usual one, y' = -rate y; the fractional derivative is an option of the solver, which keeps the memory
as a sum of exponentials. The answer is Mittag-Leffler's function, y(t) = y(0) E_alpha(-rate t^alpha): a stretched
exponential first, a power of t at last.
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


class Relaxation(nn.Module):
    """`(y [B, 1], rate [B]) -> -rate y`, float64."""

    def forward(self, y: Float[Tensor, "b 1"], rate: Float[Tensor, " b"]) -> Float[Tensor, "b 1"]:
        return -rate[:, None] * y


CARD = Card(
    name="fractional-relaxation",
    dynamics=Dynamics(
        kind="ode", state=(1,), inputs=Roles(y="y"), outputs=Gives(drift="dy"),
        solver=Solving(name="fractional", dt=1 / 64, options={"alpha": 0.6}),
    ),
    conditions=parameters("rate"),
)  # fmt: skip


def build(repository: Path, effort: float) -> None:
    export_dynamics(Relaxation(), repository / CARD.name, CARD, dtype=torch.float64)


def mittag_leffler(alpha: float, x: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """E_alpha(-x) for 0 < alpha < 1 and x > 0, by its integral over relaxation rates (Gorenflo, Mainardi 1997):

    E = sin(alpha pi) / (alpha pi) int exp(-(x v)^(1 / alpha)) / (v^2 + 2 v cos(alpha pi) + 1) dv,

    with v = e^w, by the trapezoidal rule, which is exact to rounding for such a function of all w.
    """
    w = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    v = torch.exp(w)
    decay = torch.exp(-((x[:, None] * v) ** (1 / alpha)))
    weight = v / (v * v + 2 * v * math.cos(alpha * math.pi) + 1)
    return math.sin(alpha * math.pi) / (alpha * math.pi) * (decay * weight).sum(1) * (w[1] - w[0])


def check(repository: Path) -> list[Figure]:
    """Three alphas against Mittag-Leffler's function, and the order of the steps."""
    model, times = Model(repository, CARD.name), torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    half = torch.exp(one) * torch.erfc(one)  # E_1/2(-1)
    figures = [
        at_most("Mittag-Leffler's integral at alpha = 1/2, relative", abs(mittag_leffler(0.5, one) / half - 1), 1e-12)
    ]
    for alpha in (0.3, 0.6, 0.9):
        exact = mittag_leffler(alpha, times[1:] ** alpha)
        errors = []
        for dt in (1 / 32, 1 / 128):
            y = model.solve(one[None], times, dt=dt, alpha=alpha, rate=one).y[0, :, 0]
            errors.append(float((y[-1] - exact[-1]).abs()))
        figures.append(at_most(f"alpha {alpha}: steps of 1/128 at t = 2", errors[-1], 1e-4))
        figures.append(at_least(f"alpha {alpha}: order", math.log(errors[0] / errors[1]) / math.log(4), 1.3))
    return figures


RECIPE = Recipe(
    name="fractional",
    paper="Fractional differential equations by sums of exponentials",
    replaced="nothing; the order alpha is the request's",
    models=(CARD.name,),
    build=build,
    check=check,
)
