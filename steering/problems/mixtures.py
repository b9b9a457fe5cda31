"""Gaussian mixtures: their exact denoisers, posteriors, and tilts by linear and quadratic rewards."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steering.paths import Path
from steering.plans.predictions import PREDICTIONS


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """sum_k pi_k N(m_k, S_k) in d dimensions, float64."""

    weights: Float64[Tensor, " k"]
    means: Float64[Tensor, "k d"]
    covariances: Float64[Tensor, "k d d"]

    @classmethod
    def random(cls, dimension: int, components: int, seed: int, spread: float = 2.0) -> "GaussianMixture":
        """Unequal weights, means of length `spread`, full covariances with standard deviations in 0.2..0.6.

        Two means are about 1.4 spread apart, along a line on which a component's standard deviation is 0.4 whatever
        the dimension: the modes stay apart, though a random line shows less of them the more dimensions there are.
        """
        g = torch.Generator().manual_seed(seed)
        normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
        means = normal(components, dimension)
        means = means * spread / means.norm(dim=1, keepdim=True)
        basis = torch.linalg.qr(normal(components, dimension, dimension)).Q
        scales = 0.2 + 0.4 * torch.rand(components, dimension, generator=g, dtype=torch.float64)
        covariances = basis @ torch.diag_embed(scales**2) @ basis.transpose(1, 2)
        return cls(torch.softmax(0.5 * normal(components), 0), means, covariances)

    @cached_property
    def eigen(self) -> tuple[Float64[Tensor, "k d"], Float64[Tensor, "k d d"]]:
        """Eigenvalues and, in columns, eigenvectors of the covariances."""
        values, vectors = torch.linalg.eigh(self.covariances)
        return values, vectors

    @cached_property
    def _bases(self) -> tuple[Float64[Tensor, "d kd"], Float64[Tensor, "k d"]]:
        """All eigenvectors side by side, and each mean in its own component's."""
        vectors = self.eigen[1]
        beside = vectors.permute(1, 0, 2).flatten(1).contiguous()
        return beside, torch.einsum("kde,kd->ke", vectors, self.means)

    def sample(self, n: int, seed: int) -> Float64[Tensor, "n d"]:
        g = torch.Generator().manual_seed(seed)
        component = torch.multinomial(self.weights, n, replacement=True, generator=g)
        x = torch.randn(n, self.means.shape[1], generator=g, dtype=torch.float64)
        for k, root in enumerate(torch.linalg.cholesky(self.covariances)):
            chosen = component == k
            x[chosen] = self.means[k] + x[chosen] @ root.T
        return x

    def given(self, x: Float[Tensor, "b d"], alpha: Tensor, sigma: Tensor) -> "Posterior":
        """The law of x_0 given alpha x_0 + sigma eps = x, scales [B], for every row."""
        values = self.eigen[0]
        beside, means = self._bases
        a, s = (c.to(torch.float64).reshape(-1, 1, 1) for c in (alpha, sigma))
        offset = (x.to(torch.float64) @ beside).reshape(len(x), *values.shape) - a * means
        variance = a**2 * values + s**2
        log = torch.log(self.weights) - 0.5 * (offset**2 / variance + torch.log(variance)).sum(dim=2)
        return Posterior(self, log, a * values / variance * offset, s**2 * values / variance)

    def denoised(self, x: Float[Tensor, "b d"], alpha: Tensor, sigma: Tensor) -> Float[Tensor, "b d"]:
        """E[x_0 | alpha x_0 + sigma eps = x] for rows x [B, d] with scales [B]; in float64, returned in x's dtype."""
        return self.given(x, alpha, sigma).mean.to(x.dtype)

    def log_density(
        self, x: Float[Tensor, "b d"], alpha: float | Tensor = 1.0, sigma: float | Tensor = 0.0
    ) -> Float64[Tensor, " b"]:
        """log p of rows x; with scales [B] or numbers, of alpha x_0 + sigma eps."""
        scales = (torch.as_tensor(c, dtype=torch.float64).expand(len(x)) for c in (alpha, sigma))
        log = torch.logsumexp(self.given(x, *scales).log_weights, dim=1)
        return log - 0.5 * x.shape[1] * math.log(2 * math.pi)

    def network(self, path: Path, prediction: str = "x0") -> Callable[[Tensor, Tensor], Tensor]:
        """The exact network of this law on a path: `(x [B, d], t [B]) -> raw output [B, d]` in any parameterisation."""

        def output(x: Tensor, t: Tensor) -> Tensor:
            t = t.to(torch.float64)
            denoised = self.denoised(x, path.alpha(t), path.sigma(t))
            state, out = (c[:, None] for c in PREDICTIONS[prediction](path, t))
            return ((denoised.to(torch.float64) - state * x.to(torch.float64)) / out).to(x.dtype)

        return output

    def tilted(
        self, direction: Float64[Tensor, " d"], beta: float = 1.0, curvature: Float64[Tensor, "d d"] | None = None
    ) -> "GaussianMixture":
        """The law p(x) exp((<direction, x> - x' curvature x / 2) / beta), another mixture; see `Quadratic`."""
        return Quadratic(self, direction / beta, None if curvature is None else curvature / beta).law


@dataclass(frozen=True, eq=False)
class Posterior:
    """sum_k q_k N(m_k, C_k) for each row: x_0 given a noised state of a mixture.

    Attributes:
        log_weights: log q_k + log p(x) - d/2 log 2 pi.
        shift: m_k minus the prior's mean, in the basis of component k.
        values: eigenvalues of C_k, in the same basis.
    """

    prior: GaussianMixture
    log_weights: Float64[Tensor, "b k"]
    shift: Float64[Tensor, "b k d"]
    values: Float64[Tensor, "#b k d"]

    @property
    def mean(self) -> Float64[Tensor, "b d"]:
        return self.mixed(torch.softmax(self.log_weights, dim=1), self.shift)

    def mixed(self, weights: Float64[Tensor, "b k"], shift: Float64[Tensor, "b k d"]) -> Float64[Tensor, "b d"]:
        """sum_k weights_k (prior mean_k + shift_k), shifts in each component's basis."""
        beside, _ = self.prior._bases
        return weights @ self.prior.means + (weights[:, :, None] * shift).flatten(1) @ beside.T


@dataclass(frozen=True, eq=False)
class Quadratic:
    """p(x) exp(r(x)) for r(x) = <direction, x> - x' curvature x / 2: another mixture, by completing squares.

    Attributes:
        curvature: symmetric, such that every S_k^-1 + curvature is positive definite; None is zero.
    """

    prior: GaussianMixture
    direction: Float64[Tensor, " d"]
    curvature: Float64[Tensor, "d d"] | None = None

    @classmethod
    def about(cls, prior: GaussianMixture, centre: Float64[Tensor, " d"], scale: float) -> "Quadratic":
        """The reward -scale/2 |x - centre|^2, up to a constant."""
        return cls(prior, scale * centre, scale * torch.eye(len(centre), dtype=torch.float64))

    def reward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        linear = (x * self.direction.to(x.dtype)).sum(dim=-1)
        if self.curvature is None:
            return linear
        return linear - 0.5 * ((x @ self.curvature.to(x.dtype)) * x).sum(dim=-1)

    def scaled(self, strength: float) -> "Quadratic":
        """The same with `strength` times the reward."""
        curvature = None if self.curvature is None else strength * self.curvature
        return Quadratic(self.prior, strength * self.direction, curvature)

    @cached_property
    def _solution(self) -> tuple[GaussianMixture, Tensor]:
        """The tilted law, and log E[w] of each component.

        Per component, with A = 1 + S B: covariance A^-1 S, mean A^-1 (m + S a), log E[w] = -log |A| / 2 +
        (a' (mean + m) - m' B mean) / 2.
        """
        p, a = self.prior, self.direction
        d = len(a)
        b = torch.zeros(d, d, dtype=torch.float64) if self.curvature is None else self.curvature
        scale = torch.eye(d, dtype=torch.float64) + p.covariances @ b
        covariances = torch.linalg.solve(scale, p.covariances)
        means = torch.linalg.solve(scale, (p.means + p.covariances @ a)[:, :, None])[:, :, 0]
        log_z = 0.5 * ((means + p.means) @ a - ((p.means @ b) * means).sum(dim=1)) - 0.5 * torch.logdet(scale)
        weights = torch.softmax(torch.log(p.weights) + log_z, dim=0)
        return GaussianMixture(weights, means, (covariances + covariances.transpose(1, 2)) / 2), log_z

    @property
    def law(self) -> GaussianMixture:
        return self._solution[0]

    @property
    def log_z(self) -> float:
        """log E[exp r]."""
        return float(torch.logsumexp(torch.log(self.prior.weights) + self._solution[1], dim=0))

    def nats(self, strength: float = 1.0) -> float:
        """KL divergence from the model of the law tilted by `strength` times the reward: how strong that is."""
        tilt = self.scaled(strength)
        q = tilt.law
        reward = q.means @ tilt.direction
        if tilt.curvature is not None:
            second = q.covariances + q.means[:, :, None] * q.means[:, None]
            reward = reward - 0.5 * (second * tilt.curvature).sum(dim=(1, 2))
        return float(q.weights @ reward) - tilt.log_z

    def sample(self, n: int, seed: int) -> Float64[Tensor, "n d"]:
        return self.law.sample(n, seed)

    def log_h(self, x: Float[Tensor, "b d"], alpha: Tensor, sigma: Tensor) -> Float64[Tensor, " b"]:
        """log E[exp r(x_0) | alpha x_0 + sigma eps = x] = log Z + log q_t(x) - log p_t(x)."""
        return self.log_z + self.law.log_density(x, alpha, sigma) - self.prior.log_density(x, alpha, sigma)

    def denoised(self, x: Float[Tensor, "b d"], alpha: Tensor, sigma: Tensor) -> Float[Tensor, "b d"]:
        """D_h: E[x_0 | alpha x_0 + sigma eps = x] under the tilted law."""
        return self.law.denoised(x, alpha, sigma)
