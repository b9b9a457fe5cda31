"""Trajectories of particles in turbulence by diffusion: Li, Biferale, Bonaccorso, Scarpolini, Buzzicotti, "Synthetic
Lagrangian turbulence by generative diffusion models" (Nature Machine Intelligence 6, 2024).

Theirs are three velocities at 2,000 times, from a direct numerical simulation; here are 128 times, and synthetic data:
a multifractal random walk with a smallest and a largest time scale. Increments are Gaussian times exp(w), w a Gaussian
process whose covariance falls with the logarithm of the lag, one for all three velocities, so that small lags have a
flatness far above 3 and large ones have 3, as turbulence does.
"""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

import steering
from exporters.export import export_model
from exporters.gallery.drawing import network, samples
from exporters.gallery.fitting import fitted
from exporters.gallery.recipe import Figure, Recipe, at_least, at_most
from exporters.gallery.waves import UNet1d
from exporters.network import path_of
from protos.card import Card

LENGTH, LARGEST, SMALLEST = 128, 48, 2.0
"""Times of a trajectory; the largest and the smallest scale in such times."""
INTERMITTENCY = 0.06
"""Variance of w by e-folding of scales."""
WARM = 64
"""Times before the first one that is kept."""
LAGS = (1, 2, 4, 8, 16, 32, 64)
STEPS = 4000


def _cholesky() -> Float[Tensor, "t t"]:
    lag = torch.arange(LENGTH + WARM, dtype=torch.float64)
    apart = (lag[:, None] - lag).abs()
    covariance = INTERMITTENCY * torch.log(LARGEST / (apart + 1)).clamp_min(0)
    return torch.linalg.cholesky(covariance + 1e-9 * torch.eye(len(lag), dtype=torch.float64)).contiguous()


def trajectories(n: int, generator: torch.Generator) -> Float[Tensor, "n 3 128"]:
    """Velocities in units of about their standard deviation."""
    length = LENGTH + WARM
    w = torch.randn(n, length, generator=generator, dtype=torch.float64) @ _cholesky().T
    noise = torch.randn(n, 3, length, generator=generator, dtype=torch.float64)
    kicks = torch.exp(w - INTERMITTENCY * torch.log(torch.tensor(float(LARGEST))))[:, None] * noise
    slow, fast = 1 - 1 / LARGEST, 1 - 1 / SMALLEST
    velocity, acceleration, kept = torch.zeros(n, 3, dtype=torch.float64), torch.zeros(n, 3, dtype=torch.float64), []
    for time in range(length):
        acceleration = fast * acceleration + kicks[..., time]
        velocity = slow * velocity + acceleration
        kept.append(velocity)
    return (torch.stack(kept[WARM:], dim=-1) / 9.7).float()


def structure(u: Float[Tensor, "n 3 l"], order: int) -> Float[Tensor, " lags"]:
    """S_p(lag) = E |u(t + lag) - u(t)|^p of one velocity, over all three."""
    x = u.to(torch.float64)
    return torch.stack([((x[..., lag:] - x[..., :-lag]).abs() ** order).mean() for lag in LAGS])


def flatness(u: Float[Tensor, "n 3 l"]) -> Float[Tensor, " lags"]:
    """S_4 / S_2^2: 3 of Gaussian increments."""
    return structure(u, 4) / structure(u, 2) ** 2


class Noise(nn.Module):
    """`(x [B, 3, 128], step [B]) -> eps`; steps 0 to 799."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet1d(3)

    def forward(self, x: Float[Tensor, "b 3 128"], step: Float[Tensor, " b"]) -> Tensor:
        return self.net(x, (step + 1) / 800)


CARD = Card(
    name="turbulence",
    path={"kind": "vp_betas", "schedule": "linear", "steps": 800, "beta_start": 1.25e-4, "beta_end": 0.025},
    prediction="eps",
    event_shape=(3, LENGTH),
    inputs={"x": "x", "t": "step", "time": "N*t-1"},  # type: ignore[arg-type] # pydantic reads it
    output="eps",
)


def trained(path: steering.Path, steps: int) -> Noise:
    """By |eps - e|^2 at uniform steps."""
    torch.manual_seed(0)
    data = trajectories(20_000, torch.Generator().manual_seed(1))

    def loss(network: Noise, generator: torch.Generator) -> Tensor:
        x0 = data[torch.randint(len(data), (32,), generator=generator)]
        step = torch.randint(800, (len(x0),), generator=generator)
        t = (step + 1).double() / 800
        e = torch.randn(x0.shape, generator=generator)
        x = path.alpha(t)[:, None, None].float() * x0 + path.sigma(t)[:, None, None].float() * e
        return F.mse_loss(network(x, step.float()), e)

    return fitted(Noise(), loss, steps=steps, peak=2e-3, name="turbulence")


def build(repository: Path, effort: float) -> None:
    x = trajectories(16, torch.Generator().manual_seed(2))
    export_model(
        trained(path_of(CARD), round(effort * STEPS)), repository / "turbulence", CARD,
        examples={"x": x, "step": torch.linspace(0, 799, 16)}, outputs=["eps"],
    )  # fmt: skip


def check(repository: Path) -> list[Figure]:
    """Structure functions and flatness of 384 samples beside those of fresh trajectories."""
    net = network(repository, "turbulence")
    drawn = samples(net, 384, solver="dpmpp_2m", steps=40)
    true = trajectories(8000, torch.Generator().manual_seed(3))
    off = lambda order: (structure(drawn, order) / structure(true, order)).log().abs().max()  # noqa: E731
    flat, exact = flatness(drawn), flatness(true)
    return [
        at_most("S_2 of samples / trajectories, largest |log| over lags", off(2), 0.35),
        at_most("S_4 of samples / trajectories, largest |log| over lags", off(4), 0.9),
        at_most("flatness of samples / trajectories, largest |log| over lags", (flat / exact).log().abs().max(), 0.5),
        at_least("flatness at lag 1 (Gaussian: 3)", flat[0], 5),
        at_most("flatness at lag 64", flat[-1], 6),
    ]


RECIPE = Recipe(
    name="turbulence",
    paper="Synthetic Lagrangian turbulence by generative diffusion models (Li et al. 2024)",
    replaced="2,000 times by 128; the direct numerical simulation by a synthetic multifractal random walk",
    models=("turbulence",),
    build=build,
    check=check,
    trained=True,
)
