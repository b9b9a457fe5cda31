"""Equilibrium models: a layer whose output is a fixed point of a network, z = f(z, x), found by homotopy (HomoODE),
Anderson's or Nesterov's iteration.

Here f(z, x) = A z + B x with a contraction A, so that the answer is (I - A)^-1 B x whatever finds it; and a
gradient step z - (Q z - x) / L of a quadratic, on which Nesterov's acceleration is known to fall as 2 L |z - z*|^2 /
k^2.
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

STATE, GIVEN, RADIUS = 24, 8, 0.9
"""Numbers of z and of x; the spectral radius of A."""
FLAT = 1e-3
"""The smallest curvature of the quadratic, whose largest is 1."""


class Linear(nn.Module):
    """`(z [B, d], x [B, k]) -> z A' + x B'`, float64; no matrix product, whose rows would depend on their batch."""

    a: Tensor
    b: Tensor

    def __init__(self, a: Float64[Tensor, "d d"], b: Float64[Tensor, "d k"]) -> None:
        super().__init__()
        self.register_buffer("a", a)
        self.register_buffer("b", b)

    def forward(self, z: Float[Tensor, "b d"], x: Float[Tensor, "b k"]) -> Float[Tensor, "b d"]:
        return (z[:, None] * self.a).sum(-1) + (x[:, None] * self.b).sum(-1)


def contraction() -> Linear:
    """A of spectral radius 0.9, neither symmetric nor normal."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(STATE, STATE, generator=generator, dtype=torch.float64)
    b = torch.randn(STATE, GIVEN, generator=generator, dtype=torch.float64)
    return Linear(RADIUS * a / torch.linalg.eigvals(a).abs().max(), b)


def descent() -> Linear:
    """I - Q and I, of Q with curvatures 1e-3 to 1."""
    generator = torch.Generator().manual_seed(1)
    axes, _ = torch.linalg.qr(torch.randn(STATE, STATE, generator=generator, dtype=torch.float64))
    eye = torch.eye(STATE, dtype=torch.float64)
    return Linear(eye - axes @ torch.diag(torch.logspace(-3, 0, STATE, dtype=torch.float64)) @ axes.T, eye)


def _card(name: str, given: int, solver: str) -> Card:
    return Card(
        name=name,
        dynamics=Dynamics(
            kind="fixed_point", state=(STATE,), inputs=Roles(y="z"), outputs=Gives(next="next"),
            solver=Solving(name=solver, rtol=1e-8),
        ),
        conditions={"x": Condition(dtype="float64", shape=(given,))},
    )  # fmt: skip


EQUILIBRIUM, QUADRATIC = _card("equilibrium", GIVEN, "anderson"), _card("quadratic", STATE, "nesterov")


def build(repository: Path, effort: float) -> None:
    for network, card in ((contraction(), EQUILIBRIUM), (descent(), QUADRATIC)):
        export_dynamics(network, repository / card.name, card, dtype=torch.float64)


def check(repository: Path) -> list[Figure]:
    """Fixed points by three ways against a linear system, and the rate of acceleration beside the plain iteration's."""
    model, slope = Model(repository, EQUILIBRIUM.name), Model(repository, QUADRATIC.name)
    network = contraction()
    x = torch.randn(6, GIVEN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = torch.linalg.solve(torch.eye(STATE, dtype=torch.float64) - network.a, (x @ network.b.T).T).T
    start, figures, rows = torch.zeros(6, STATE, dtype=torch.float64), [], {}
    for solver in ("anderson", "homotopy"):
        found = model.solve(start, [0.0, 1.0], solver=solver, rtol=1e-9, atol=1e-12, x=x)
        rows[solver] = float(found.evaluations.double().mean())
        error = (found.y[:, -1] - exact).abs().max() / exact.abs().max()
        figures.append(at_most(f"{solver}: fixed points against the linear system, relative", error, 1e-6))
    plain = model.solve(start, [0.0, 1.0], solver="anderson", rtol=1e-9, atol=1e-12, memory=1, x=x)
    figures.append(
        at_least(
            "rows of the plain iteration over Anderson's", plain.evaluations.double().mean() / rows["anderson"], 1.3
        )
    )
    target = torch.randn(1, STATE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    quadratic = torch.eye(STATE, dtype=torch.float64) - descent().a
    far, worst = target[0] @ target[0], 0.0
    for steps in (10, 20, 40, 80):
        at = slope.solve(
            start[:1], [0.0, 1.0], rtol=1e-15, atol=0.0, max_steps=steps, restart=0, x=target @ quadratic.T
        ).y_last[0]
        gap = (at - target[0]) @ quadratic @ (at - target[0]) / 2
        worst = max(worst, float(gap * steps**2 / (2 * far)))
    figures.append(at_most("Nesterov's gap over 2 L |z - z*|^2 / k^2, largest over k", worst, 1))
    return figures


RECIPE = Recipe(
    name="equilibrium",
    paper="HomoODE and equilibrium models; acceleration dynamics (Su, Boyd, Candes)",
    replaced="trained layers by a linear contraction and a quadratic, whose answers are known",
    models=(EQUILIBRIUM.name, QUADRATIC.name),
    build=build,
    check=check,
)
