"""A mixture of Gaussians and its posterior at any noise level, with its fit to samples."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from steering.numerics.noise import Noise
from steering.numerics.tiles import by_tiles, product
from steering.plans.plan import Node

ITERATIONS = 30
MOST = 16
"""Most components of a fit."""
POINTS_PER_DIMENSION = 4
"""Fewest samples per dimension for one component."""
SMALLEST = 1e-6
"""Least variance of a component, as a share of the samples' own."""


@dataclass(frozen=True, eq=False)
class Components:
    """sum_k exp(log_weights_k) N(means_k, basis_k diag(variances_k) basis_k^T)."""

    log_weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    basis: Float[Tensor, "k d d"]
    variances: Float[Tensor, "k d"]

    def to(self, dtype: torch.dtype) -> "Components":
        return Components(*(each.to(dtype) for each in (self.log_weights, self.means, self.basis, self.variances)))

    @cached_property
    def _flat(self) -> Float[Tensor, "d kd"]:
        return self.basis.permute(1, 0, 2).flatten(1).contiguous()

    @cached_property
    def _mean_coordinates(self) -> Float[Tensor, "k d"]:
        return torch.einsum("kd,kde->ke", self.means, self.basis)

    def posterior(
        self, x: Float[Tensor, "n d"], at: Node
    ) -> tuple[Float[Tensor, "n k d"], Float[Tensor, "n k"], Float[Tensor, "n d"]]:
        """Of x_0 given x_t: the states in each component's axes, about its mean, the components' log-probabilities up
        to a constant of each row, and the mean."""

        def one_tile(tile: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y = product(tile, self._flat).reshape(len(tile), *self.means.shape) - at.alpha * self._mean_coordinates
            logits = self.log_weights + self.evidence(y, at)
            share = torch.softmax(logits, dim=1)
            inner = share[:, :, None] * y * self.gain(at)
            return y, logits, product(share, self.means) + product(inner.flatten(1), self._flat.T)

        y, logits, mean = by_tiles(one_tile, x)
        return y, logits, mean

    def evidence(self, y: Float[Tensor, "... k d"], at: Node) -> Float[Tensor, "... k"]:
        """log N(x; alpha m_k, alpha^2 S_k + sigma^2 I), up to a constant, from x - alpha m_k in the axes of S_k."""
        marginal = self.marginal(at)
        return -0.5 * (y * y / marginal + torch.log(marginal)).sum(dim=-1)

    def marginal(self, at: Node) -> Float[Tensor, "k d"]:
        """alpha^2 S_k + sigma^2, along the axes of S_k."""
        return at.alpha**2 * self.variances + at.sigma**2

    def gain(self, at: Node) -> Float[Tensor, "k d"]:
        """What the posterior mean makes of x - alpha m_k, along the axes of S_k."""
        return at.alpha * self.variances / self.marginal(at)

    def spread(self, at: Node) -> Float[Tensor, "k d"]:
        """Variances of x_0 given x_t and the component, along the axes of S_k."""
        return self.variances * at.sigma**2 / self.marginal(at)

    def from_axes(self, chosen: Int64[Tensor, "n p"], y: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
        """Vectors given in the axes of their components."""
        out = torch.empty_like(y)
        for k, basis in enumerate(self.basis):
            rows = chosen == k
            if bool(rows.any()):
                out[rows] = product(y[rows], basis.T)
        return out

    def responsibilities(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """How likely each sample is of each component."""
        data = Node(0.0, 1.0, 0.0, math.inf)

        def one_tile(tile: Tensor) -> tuple[Tensor]:
            y = product(tile, self._flat).reshape(len(tile), *self.means.shape) - self._mean_coordinates
            return (torch.softmax(self.log_weights + self.evidence(y, data), dim=1),)

        (shares,) = by_tiles(one_tile, x)
        return shares

    @classmethod
    def fit(cls, samples: Float[Tensor, "n d"], seed: int) -> "Components":
        """To samples, by expectation-maximisation from k-means++ seeds; covariances are shrunk toward round ones."""
        x = samples.to(torch.float64)
        n, d = x.shape
        k = max(1, min(MOST, n // (POINTS_PER_DIMENSION * d)))
        floor = SMALLEST * float(x.var(dim=0).mean()) + 1e-12
        nearest = torch.cdist(x, _centres(x, k, seed)).argmin(dim=1)
        shares = torch.nn.functional.one_hot(nearest, k).to(x.dtype)
        fitted = cls._maximised(x, shares, floor)
        for _ in range(ITERATIONS):
            fitted = cls._maximised(x, fitted.responsibilities(x), floor)
        return fitted

    @classmethod
    def _maximised(cls, x: Float[Tensor, "n d"], shares: Float[Tensor, "n k"], floor: float) -> "Components":
        n, d = x.shape
        counts = shares.sum(dim=0).clamp(min=1e-9)
        means = (shares.T @ x) / counts[:, None]
        covariances = []
        for k, mean in enumerate(means):
            centred = x - mean
            covariance = centred.T @ (centred * shares[:, k, None]) / counts[k]
            round_ = torch.eye(d, dtype=x.dtype) * covariance.diagonal().mean()
            shrink = d / (d + 2 * float(counts[k]))
            covariances.append((1 - shrink) * covariance + shrink * round_)
        values, vectors = torch.linalg.eigh(torch.stack(covariances))
        return cls(torch.log(counts / n), means, vectors, values.clamp(min=floor))


def _centres(x: Float[Tensor, "n d"], k: int, seed: int) -> Float[Tensor, "k d"]:
    """k-means++ (Arthur & Vassilvitskii 2007), and a few rounds of k-means."""
    uniform = Noise(seed, [0]).uniform(0, 0, k)[0]
    centres = x[int(uniform[0] * len(x))][None]
    for u in uniform[1:]:
        distance = torch.cdist(x, centres).square().min(dim=1).values.cumsum(dim=0)
        chosen = int(torch.searchsorted(distance, u * distance[-1]).clamp(max=len(x) - 1))
        centres = torch.cat([centres, x[chosen : chosen + 1]])
    for _ in range(10):
        nearest = torch.nn.functional.one_hot(torch.cdist(x, centres).argmin(dim=1), k).to(x.dtype)
        counts = nearest.sum(dim=0)[:, None]
        centres = torch.where(counts > 0, (nearest.T @ x) / counts.clamp(min=1), centres)
    return centres
