"""Random mixtures and black-box rewards on them, each with its exact tilted law: what steering is judged on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.problems.mixtures import GaussianMixture, Quadratic
from steering.problems.projected import Projected
from steering.problems.strength import at_nats
from steering.targets.target import Target

COMPONENTS = 5
Law = Quadratic | Projected


@dataclass(frozen=True, eq=False)
class Case:
    """A model, a reward, and the law that steering aims at.

    Attributes:
        target: what a steering method is told. An event comes as a projection and a threshold, which unlike an
            indicator tells how near a miss was.
        law: the same, exactly.
    """

    model: GaussianMixture
    target: Target
    law: Law


def case(dimension: int, reward: str, seed: int, nats: float = 2.0) -> Case:
    """The same model for all rewards of a seed.

    Args:
        reward: one of `REWARDS`.
        nats: KL divergence of the tilted law from the model, whatever the reward; an event's is -log probability.
    """
    model = mixture(dimension, seed)
    g = torch.Generator().manual_seed(seed * 1000 + sorted(REWARDS).index(reward))
    law = REWARDS[reward](model, g)
    if reward.startswith("half"):
        assert isinstance(law, Projected)
        return Case(model, event(law), law)
    law = at_nats(law, nats)
    return Case(model, Target(law.reward), law)


def event(law: Projected) -> Target:
    """A half-space, by how far along its direction a sample is."""

    def projection(x: Tensor) -> Tensor:
        return law.project(x)[:, 0]

    return Target(projection, threshold=law.threshold)


def mixture(dimension: int, seed: int) -> GaussianMixture:
    """Five components with means of length 2 (d/2)^(1/4), so that what sets modes apart stays above what is random in
    distances within one, which grows with the dimension."""
    return GaussianMixture.random(dimension, COMPONENTS, seed, spread=2.0 * (dimension / 2) ** 0.25)


def unit(x: Float64[Tensor, "*n d"]) -> Float64[Tensor, "*n d"]:
    return x / x.norm(dim=-1, keepdim=True)


def direction(m: GaussianMixture, g: torch.Generator) -> Float64[Tensor, " d"]:
    """A unit vector that tells modes apart: half of it in the means' span, half anywhere."""
    k, d = m.means.shape
    between = torch.randn(k, generator=g, dtype=torch.float64) @ (m.means - m.weights @ m.means)
    return unit(unit(between) + unit(torch.randn(d, generator=g, dtype=torch.float64)))


def plane(m: GaussianMixture, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Two orthonormal directions [2, d], and the mean and standard deviation of each projection [2]."""
    p = torch.linalg.qr(torch.stack([direction(m, g), direction(m, g)], dim=1)).Q.T.contiguous()
    centres = m.means @ p.T
    mean = m.weights @ centres
    spread = (p @ m.covariances @ p.T).diagonal(dim1=1, dim2=2) + (centres - mean) ** 2
    return p, mean, (m.weights @ spread).sqrt()


def linear(m: GaussianMixture, g: torch.Generator) -> Law:
    return Quadratic(m, direction(m, g))


def quadratic(m: GaussianMixture, g: torch.Generator) -> Law:
    """-|x - centre|^2, centred between two modes."""
    first, second = torch.randperm(len(m.means), generator=g)[:2].tolist()
    return Quadratic.about(m, 0.7 * m.means[first] + 0.3 * m.means[second], 1.0)


def ring(m: GaussianMixture, g: torch.Generator) -> Law:
    """-| |s - centre| - radius |: a kinked ridge on a circle.

    Off centre: on a ring about the model's middle the tilted law is hardly another than the model's.
    """
    p, mean, deviation = plane(m, g)
    centre = mean + 1.5 * deviation * unit(torch.randn(2, generator=g, dtype=torch.float64))
    radius = 0.7 * float(deviation.norm())
    return Projected(m, p, lambda s: -((s - centre).norm(dim=-1) - radius).abs())


def staircase(m: GaussianMixture, g: torch.Generator) -> Law:
    """Steps of half a standard deviation, flat beyond four standard deviations."""
    p, mean, deviation = plane(m, g)
    start, width = float(mean[0]), float(deviation[0]) / 2
    jumps = start + width * torch.arange(-8, 9, dtype=torch.float64)
    return Projected(m, p[:1], lambda s: ((s[..., 0] - start) / width).floor().clamp(-9, 8), jumps)


def product(m: GaussianMixture, g: torch.Generator) -> Law:
    """The product of two clamped ramps: large in two opposite corners of a plane."""
    p, mean, deviation = plane(m, g)
    return Projected(m, p, lambda s: ((s - mean) / deviation).clamp(-1.5, 1.5).prod(dim=-1))


def half_space(probability: float) -> Callable[[GaussianMixture, torch.Generator], Law]:
    return lambda m, g: Projected.rarest(m, direction(m, g), probability)


REWARDS: Mapping[str, Callable[[GaussianMixture, torch.Generator], Law]] = {
    "linear": linear,
    "quadratic": quadratic,
    "half 1e-1": half_space(1e-1),
    "half 1e-2": half_space(1e-2),
    "half 1e-3": half_space(1e-3),
    "half 1e-4": half_space(1e-4),
    "ring": ring,
    "staircase": staircase,
    "product": product,
}
