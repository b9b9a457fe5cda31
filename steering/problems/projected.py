"""Mixtures tilted by a reward of one or two projections of x: ring, staircase, half-space, product, anything.

What a reward f(P x) does to N(m, S) it does to the law of s = P x, a Gaussian in one or two dimensions; x given s stays
the Gaussian it was. So a grid over s gives the tilted law, its normalising constant and Doob's h in any dimension.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steering.problems.mixtures import GaussianMixture

CELLS = {1: 6000, 2: 900}
REACH = {1: 12.0, 2: 9.0}
"""Cells per projection, and how many standard deviations of each component they cover."""
NODES = 161


@dataclass(frozen=True, eq=False)
class Projected:
    """p(x) exp(f(P x)) of a mixture p; f is taken to be constant on cells of a fine grid.

    That is exact where f is constant between `jumps`, and off by the square of a cell (0.003 at one projection, 0.02
    at two, for standard deviations of about 0.4) where it is smooth or has kinks.

    Attributes:
        projection: P [r, d], r 1 or 2, of full rank.
        score: f, [..., r] -> [...]; -inf is legal.
        jumps: where f is discontinuous, for one projection.
    """

    prior: GaussianMixture
    projection: Float64[Tensor, "r d"]
    score: Callable[[Tensor], Tensor]
    jumps: Float64[Tensor, " j"] | None = None

    @classmethod
    def half_space(cls, prior: GaussianMixture, direction: Float64[Tensor, " d"], threshold: float) -> "Projected":
        """The law given <direction, x> >= threshold."""
        at = torch.tensor([threshold], dtype=torch.float64)
        return cls(prior, direction[None], lambda s: torch.where(s[..., 0] >= threshold, 0.0, -torch.inf), at)

    @classmethod
    def rarest(cls, prior: GaussianMixture, direction: Float64[Tensor, " d"], probability: float) -> "Projected":
        """The law given the half-space {<direction, x> >= c} whose probability is the one given, in (0, 1)."""
        if not 0 < probability < 1:
            raise ValueError(f"probability: expected a number in (0, 1), got {probability!r}")
        law = cls(prior, direction[None], lambda s: s[..., 0])
        mean, deviation = law._means[:, 0], law._covariances[:, 0, 0].sqrt()
        low, high = float((mean - 40 * deviation).min()), float((mean + 40 * deviation).max())
        for _ in range(200):
            c = (low + high) / 2
            above = float(prior.weights @ torch.special.ndtr((mean - c) / deviation))
            low, high = (c, high) if above > probability else (low, c)
        return cls.half_space(prior, direction, low)

    @property
    def threshold(self) -> float:
        """Of a half-space: its c."""
        if self.jumps is None or len(self.jumps) != 1:
            raise ValueError("threshold: expected the law of a half-space, got another")
        return float(self.jumps[0])

    def project(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b r"]:
        return (x[:, None] * self.projection.to(x.dtype)).sum(dim=-1)

    def reward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        return self.score(self.project(x)).to(x.dtype)

    def scaled(self, strength: float) -> "Projected":
        """The same with `strength` times the reward."""
        score = self.score
        return Projected(self.prior, self.projection, lambda s: strength * score(s), self.jumps)

    @cached_property
    def _means(self) -> Float64[Tensor, "k r"]:
        return self.prior.means @ self.projection.T

    @cached_property
    def _covariances(self) -> Float64[Tensor, "k r r"]:
        return self.projection @ self.prior.covariances @ self.projection.T

    @cached_property
    def _edges(self) -> list[Float64[Tensor, " g"]]:
        """Edges of the cells along each projection, wide enough for the rewards that pull at a component's tail."""
        rank = len(self.projection)
        deviation = REACH[rank] * self._covariances.diagonal(dim1=1, dim2=2).sqrt()
        low, high = (self._means - deviation).min(dim=0).values, (self._means + deviation).max(dim=0).values
        edges = [
            torch.linspace(float(a), float(b), CELLS[rank] + 1, dtype=torch.float64)
            for a, b in zip(low, high, strict=True)
        ]
        if rank == 1 and self.jumps is not None:
            inside = self.jumps[(self.jumps > low) & (self.jumps < high)]
            edges = [torch.cat([edges[0], inside]).unique()]
        return edges

    @cached_property
    def _centres(self) -> Float64[Tensor, "c r"]:
        return torch.cartesian_prod(*((e[1:] + e[:-1]) / 2 for e in self._edges)).reshape(-1, len(self._edges))

    @cached_property
    def _values(self) -> Float64[Tensor, " c"]:
        return self.score(self._centres).to(torch.float64)

    @cached_property
    def _mass(self) -> Float64[Tensor, "k c"]:
        """Probability of each cell under each component of the model, times the component's weight."""
        if len(self._edges) == 1:
            standard = (self._edges[0] - self._means) / self._covariances[:, 0, :1].sqrt()
            return self.prior.weights[:, None] * _interval(standard)
        area = math.prod(float(e[1] - e[0]) for e in self._edges)
        root = torch.linalg.cholesky(self._covariances)
        offset = (self._centres - self._means[:, None]).transpose(1, 2)
        square = torch.linalg.solve_triangular(root, offset, upper=False).square().sum(dim=1)
        scale = area / (2 * math.pi * root.diagonal(dim1=1, dim2=2).prod(dim=1))
        return (self.prior.weights * scale)[:, None] * torch.exp(-0.5 * square)

    @cached_property
    def _tilted_mass(self) -> Float64[Tensor, "k c"]:
        """The same under the tilted law."""
        return self._mass * torch.exp(self._values - self.log_z)

    @cached_property
    def log_z(self) -> float:
        """log E[exp r]; of a half-space, the log of its probability."""
        return float(torch.logsumexp(torch.log(self._mass.sum(dim=0)) + self._values, dim=0))

    def nats(self, strength: float = 1.0) -> float:
        """KL divergence from the model of the law tilted by `strength` times the reward: how strong that is."""
        log = torch.log(self._mass.sum(dim=0)) + strength * self._values
        mean = torch.softmax(log, dim=0) @ (strength * self._values).nan_to_num(neginf=0.0)
        return float(mean - torch.logsumexp(log, dim=0))

    def sample(self, n: int, seed: int) -> Float64[Tensor, "n d"]:
        """A cell with its component, s within it, then x given s: z ~ N(m, S) moved by S P' (P S P')^-1 (s - P z)."""
        g = torch.Generator().manual_seed(seed)
        cells = self._mass.shape[1]
        cumulative = self._tilted_mass.flatten().cumsum(0)
        u = torch.rand(n, generator=g, dtype=torch.float64) * cumulative[-1]
        index = torch.searchsorted(cumulative, u, right=True).clamp(max=len(cumulative) - 1)
        component, cell = index // cells, index % cells
        lower, width = (
            torch.cartesian_prod(*parts).reshape(cells, -1)
            for parts in zip(*((e[:-1], e.diff()) for e in self._edges), strict=True)
        )
        s = lower[cell] + width[cell] * torch.rand(n, len(self._edges), generator=g, dtype=torch.float64)
        x = torch.randn(n, self.projection.shape[1], generator=g, dtype=torch.float64)
        roots = torch.linalg.cholesky(self.prior.covariances)
        gains = torch.linalg.solve(self._covariances, self.projection @ self.prior.covariances)
        for k in range(len(self.prior.weights)):
            chosen = component == k
            z = self.prior.means[k] + x[chosen] @ roots[k].T
            x[chosen] = z + (s[chosen] - z @ self.projection.T) @ gains[k]
        return x

    def log_h(self, x: Float[Tensor, "b d"], alpha: Tensor, sigma: Tensor) -> Float64[Tensor, " b"]:
        """log E[exp r(x_0) | alpha x_0 + sigma eps = x], scales [B]; where no float64 is as small, -inf."""
        return self._doob(x, alpha, sigma)[0]

    def denoised(self, x: Float[Tensor, "b d"], alpha: Tensor, sigma: Tensor) -> Float[Tensor, "b d"]:
        """D_h: E[x_0 w | x] / E[w | x], w = exp r, scales [B]."""
        return self._doob(x, alpha, sigma)[1].to(x.dtype)

    def _doob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Float64[Tensor, " b"], Float64[Tensor, "b d"]]:
        """log h and D_h: each component of the posterior is tilted as a Gaussian in s, and x_0 follows s linearly."""
        posterior = self.prior.given(x, alpha, sigma)
        loads = torch.einsum("rd,kde->kre", self.projection, self.prior.eigen[1])
        mean = self._means + torch.einsum("bke,kre->bkr", posterior.shift, loads)
        covariance = torch.einsum("kre,bke,kqe->bkrq", loads, posterior.values, loads)
        moments = self._moments_of_one if len(self.projection) == 1 else self._moments_of_two
        log_mass, moved = moments(mean, covariance.expand(*mean.shape, -1))
        log = posterior.log_weights + log_mass
        pull = torch.linalg.solve(covariance, moved[..., None])[..., 0]
        shift = posterior.shift + posterior.values * torch.einsum("bkr,kre->bke", pull, loads)
        log_h = torch.logsumexp(log, dim=1) - torch.logsumexp(posterior.log_weights, dim=1)
        return log_h, posterior.mixed(torch.softmax(log, dim=1), shift)

    def _moments_of_one(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """log E[w] and E_w[s] - mean of s ~ N(mean [B, k, 1], covariance [B, k, 1, 1]), by cells."""
        deviation = covariance[..., 0].sqrt()
        log_w = self._values - self._values.max()
        first, zeroth = [], []
        for row in range(len(mean)):  # one by one: a row takes k cells
            standard = (self._edges[0] - mean[row]) / deviation[row]
            zeroth.append(_interval(standard) @ torch.exp(log_w))
            first.append(-torch.exp(-0.5 * standard**2).diff(dim=-1) @ torch.exp(log_w) / math.sqrt(2 * math.pi))
        mass = torch.stack(zeroth)
        moved = torch.where(mass > 0, torch.stack(first) / mass, 0.0)[..., None] * deviation
        return torch.log(mass) + self._values.max(), moved

    def _moments_of_two(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """The same for [B, k, 2] and [B, k, 2, 2], on NODES^2 nodes out to 8 standard deviations of each."""
        axis = torch.linspace(-8, 8, NODES, dtype=torch.float64)
        nodes = torch.cartesian_prod(axis, axis)
        log_mass = -0.5 * nodes.square().sum(dim=1)
        log_mass = log_mass - torch.logsumexp(log_mass, dim=0)
        roots = torch.linalg.cholesky(covariance)
        zeroth, first = [], []
        for row in range(len(mean)):
            s = mean[row, :, None] + nodes @ roots[row].transpose(1, 2)
            log = self.score(s) + log_mass
            zeroth.append(torch.logsumexp(log, dim=-1))
            first.append(torch.softmax(log, dim=-1) @ nodes)
        return torch.stack(zeroth), (roots @ torch.stack(first)[..., None])[..., 0]


def _interval(edges: Float64[Tensor, "... e"]) -> Float64[Tensor, "... c"]:
    """Standard normal probability between neighbouring edges, without cancellation in either tail."""
    a, b = edges[..., :-1], edges[..., 1:]
    upper = a > 0
    return torch.special.ndtr(torch.where(upper, -a, b)) - torch.special.ndtr(torch.where(upper, -b, a))
