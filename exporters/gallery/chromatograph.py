"""A gas chromatograph: a pulse is carried along a column and held back by its walls; n cells, linear exchange.

    c_i' = (u n) (c_{i-1} - c_i) - k_a c_i + k_d q_i,    q_i' = k_a c_i - k_d q_i,    c_0 = 1 from t = 0 on

for a column of length 1. In Laplace space the last cell is (1/s) (1 + (s + s k_a / (s + k_d)) / (u n))^-n, exactly; so
a gas stays for (1 + k_a / k_d) / u in the mean. (Cells are the plates of Martin and Synge, whose number stands for
dispersion.)
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
from steering.dynamics import fit

CELLS = 64


class Column(nn.Module):
    """`(y [B, 2, 64] of gas c and wall q, speed [B], attach [B], detach [B]) -> dy/dt`."""

    def forward(
        self,
        y: Float[Tensor, "b 2 64"],
        speed: Float[Tensor, " b"],
        attach: Float[Tensor, " b"],
        detach: Float[Tensor, " b"],
    ) -> Float[Tensor, "b 2 64"]:
        gas, wall = y[:, 0], y[:, 1]
        before = torch.cat([torch.ones_like(gas[:, :1]), gas[:, :-1]], dim=1)
        caught = attach[:, None] * gas - detach[:, None] * wall
        return torch.stack([speed[:, None] * CELLS * (before - gas) - caught, caught], dim=1)


def breakthrough(
    times: Float64[Tensor, " t"], speed: float, attach: float, detach: float, cells: int = CELLS
) -> Float64[Tensor, " t"]:
    """The gas in the last cell, by the inverse transform on Bromwich's line as a Fourier series (Dubner, Abate 1968).

    The series has the period 2 T, T twice the last time; what it repeats is damped by exp(-2 a T) = 1e-16.
    """
    period = 2 * float(times.max())
    line = 18.4 / period
    angular = torch.arange(1, int(4 * cells * speed * period / math.pi), dtype=torch.float64) * math.pi / period

    def transform(s: Tensor) -> Tensor:
        return (1 + (s + s * attach / (s + detach)) / (speed * cells)) ** -cells / s

    first = transform(torch.complex(torch.tensor(line, dtype=torch.float64), torch.zeros((), dtype=torch.float64))).real
    others = transform(torch.complex(torch.full_like(angular, line), angular))
    phase = angular * times[:, None]
    total = first / 2 + (others.real * phase.cos() - others.imag * phase.sin()).sum(1)
    return torch.exp(line * times) / period * total


CARD = Card(
    name="chromatograph",
    dynamics=Dynamics(
        kind="ode", state=(2, CELLS), inputs=Roles(y="y"), outputs=Gives(drift="dy"),
        solver=Solving(name="tsit5", rtol=1e-6),
    ),
    conditions=parameters("speed", "attach", "detach"),
)  # fmt: skip


def build(repository: Path, effort: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(4, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    examples = {"y": draw(2, CELLS), "speed": draw(), "attach": draw(), "detach": draw()}
    export_dynamics(Column(), repository / CARD.name, CARD, examples=examples, dtype=torch.float64)


def check(repository: Path) -> list[Figure]:
    """The solved columns of four gases against the inverse transform."""
    model = Model(repository, CARD.name)
    times = torch.linspace(0, 4, 9, dtype=torch.float64)
    gases = {"speed": [1.0, 1.0, 0.5, 2.0], "attach": [0.0, 1.0, 1.0, 4.0], "detach": [1.0, 1.0, 4.0, 2.0]}
    rows = {name: torch.tensor(value, dtype=torch.float64) for name, value in gases.items()}
    solved = model.solve(torch.zeros(4, 2, CELLS, dtype=torch.float64), times, rtol=1e-9, atol=1e-12, **rows)
    exact = torch.stack([breakthrough(times[1:], *gas) for gas in zip(*gases.values(), strict=True)])
    late = torch.linspace(0, 20, 501, dtype=torch.float64)
    stays = torch.stack([20 - torch.trapezoid(_curve(late, *gas), late) for gas in zip(*gases.values(), strict=True)])
    end = solved.y[:, 1:, 0, -1]
    mean = (1 + rows["attach"] / rows["detach"]) / rows["speed"]
    return [
        at_most("gas at the end against the inverse of its transform", (end - exact).abs().max(), 1e-7),
        at_most("mean stay by that inverse against (1 + k_a / k_d) / u", (stays / mean - 1).abs().max(), 1e-5),
        at_most("least concentration", -solved.y.min(), 1e-10),
    ]  # fmt: skip


def judge(repository: Path) -> list[Figure]:
    """Both rates from the gas at the end of one column, as `tiltserve fit` finds them."""
    model, times = Model(repository, CARD.name), torch.linspace(0, 3, 16, dtype=torch.float64)
    number = lambda value: torch.tensor(value, dtype=torch.float64)  # noqa: E731
    true, start = {"attach": number(4.0), "detach": number(2.0)}, torch.zeros(1, 2, CELLS, dtype=torch.float64)
    speed = {"speed": number([2.0])}
    column = model.solve(start, times, rtol=1e-7, atol=1e-10, **speed, **{k: v[None] for k, v in true.items()}).y
    seen = torch.full_like(column, torch.nan)
    seen[:, 1:, 0, -1] = column[:, 1:, 0, -1]
    field = lambda y, t, **more: model.field(y, t, **more)["drift"]  # noqa: E731
    guess = {name: number(3.0) for name in true}
    fitted, found = fit(field, start, times, seen, guess, rtol=1e-7, atol=1e-10, condition=speed)
    off = max(float((found[name] / true[name] - 1).abs()) for name in true)
    return [at_most("both rates by `fit`, relative", off if fitted.converged else math.inf, 1e-4)]


def _curve(times: Float64[Tensor, " t"], speed: float, attach: float, detach: float) -> Float64[Tensor, " t"]:
    return torch.cat([torch.zeros(1, dtype=torch.float64), breakthrough(times[1:], speed, attach, detach)])


RECIPE = Recipe(
    name="chromatograph",
    paper="Gas chromatograph model with linear kinetics, solved in Laplace space",
    replaced="nothing; parameters are the request's",
    models=(CARD.name,),
    build=build,
    check=check,
    judge=judge,
)
