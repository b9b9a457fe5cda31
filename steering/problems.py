"""Problems with closed forms: Gaussian mixtures, their exact denoisers, posteriors and tilted laws."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.paths import Path
from steering.predictions import PREDICTIONS


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """sum_k pi_k N(m_k, S_k) in d dimensions, float64."""

    weights: Float64[Tensor, " k"]
    means: Float64[Tensor, "k d"]
    covariances: Float64[Tensor, "k d d"]

    @classmethod
    def random(cls, dimension: int, components: int, seed: int, spread: float = 2.0) -> "GaussianMixture":
        """Unequal weights, means of length about `spread`, full covariances with standard deviations in 0.2..0.6."""
        g = torch.Generator().manual_seed(seed)
        normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
        means = normal(components, dimension)
        means = means * spread / means.norm(dim=1, keepdim=True)
        basis = torch.linalg.qr(normal(components, dimension, dimension)).Q
        scales = 0.2 + 0.4 * torch.rand(components, dimension, generator=g, dtype=torch.float64)
        covariances = basis @ torch.diag_embed(scales**2) @ basis.transpose(1, 2)
        return cls(torch.softmax(0.5 * normal(components), 0), means, covariances)

    def sample(self, n: int, seed: int) -> Float64[Tensor, "n d"]:
        g = torch.Generator().manual_seed(seed)
        component = torch.multinomial(self.weights, n, replacement=True, generator=g)
        x = torch.randn(n, self.means.shape[1], generator=g, dtype=torch.float64)
        for k, root in enumerate(torch.linalg.cholesky(self.covariances)):
            chosen = component == k
            x[chosen] = self.means[k] + x[chosen] @ root.T
        return x

    def denoised(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | alpha x_0 + sigma eps = x] for rows x [B, d] with scales [B]; in float64, returned in x's dtype."""
        state = x.to(torch.float64)
        values, vectors = torch.linalg.eigh(self.covariances)
        a, s = (c.to(torch.float64).reshape(-1, 1, 1) for c in (alpha, sigma))
        offset = torch.einsum("kde,bkd->bke", vectors, state[:, None] - a * self.means)
        variance = a**2 * values + s**2
        log = torch.log(self.weights) - 0.5 * (offset**2 / variance + torch.log(variance)).sum(dim=2)
        means = self.means + torch.einsum("kde,bke->bkd", vectors, a * values / variance * offset)
        return (torch.softmax(log, dim=1)[:, :, None] * means).sum(dim=1).to(x.dtype)

    def network(self, path: Path, prediction: str = "x0") -> Callable[[Tensor, Tensor], Tensor]:
        """The exact network of this law on a path: `(x [B, d], t [B]) -> raw output [B, d]` in any parameterisation."""

        def output(x: Tensor, t: Tensor) -> Tensor:
            t = t.to(torch.float64)
            denoised = self.denoised(x, path.alpha(t), path.sigma(t))
            state, out = (c[:, None] for c in PREDICTIONS[prediction](path, t))
            return ((denoised.to(torch.float64) - state * x.to(torch.float64)) / out).to(x.dtype)

        return output

    def tilted(self, direction: Float64[Tensor, " d"], beta: float = 1.0) -> "GaussianMixture":
        """The law p(x) exp(<direction, x> / beta): the same covariances, shifted means, new weights."""
        a = direction / beta
        shift = self.covariances @ a
        log = torch.log(self.weights) + self.means @ a + 0.5 * shift @ a
        return GaussianMixture(torch.softmax(log, 0), self.means + shift, self.covariances)

    def conditioned(
        self, direction: Float64[Tensor, " d"], threshold: float, n: int, seed: int
    ) -> Float64[Tensor, "n d"]:
        """Exact samples given <direction, x> >= threshold, by rejection."""
        kept: list[Tensor] = []
        while sum(map(len, kept)) < n:
            x = self.sample(16 * n, seed + len(kept))
            kept.append(x[x @ direction >= threshold])
        return torch.cat(kept)[:n]


def energy_distance(x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"]) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| between two samples (Szekely & Rizzo 2013), unbiased; 0 for equal laws."""
    x, y = x.to(torch.float64), y.to(torch.float64)
    within = sum(float(torch.cdist(z, z).sum()) / (len(z) * (len(z) - 1)) for z in (x, y))
    return 2 * float(torch.cdist(x, y).mean()) - within
