"""A bank grown toward a rare target, level by level, and the weights that keep it a sample of the model.

Part i holds N_i samples of p(x) exp(u_i(x)) / Z_i: part 0 the model's own (u_0 = 0), the others steered toward targets
no stronger than the samples before them could bear. By the balance heuristic (Veach & Guibas 1995; in multistate form
Shirts & Chodera 2008, arXiv:0801.1426) a sample of any part has weight

    v(x) = 1 / sum_i N_i exp(u_i(x)) / Z_i

as a sample of p, and log Z of the next level is log sum v exp(u).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steering.numerics.weights import effective_size, softmax
from steering.posteriors.points import Cloud
from steering.targets.target import Target

FEW = 25.0
"""Fewest effective samples from which the next level can be told."""


@dataclass(frozen=True, eq=False)
class BankLevel:
    """A part drawn toward `target`: its size N, log Z, and the rows it took."""

    target: Target
    size: int
    log_z: float
    network_rows: int = 0
    reward_rows: int = 0


@dataclass(frozen=True, eq=False)
class Union:
    """The samples of all parts [K, *event] with their rewards [K] in float64; `own` of them are the model's."""

    cloud: Cloud
    rewards: Float64[Tensor, " k"]
    own: int
    levels: tuple[BankLevel, ...] = ()

    @cached_property
    def log_prior(self) -> Float64[Tensor, " k"]:
        """Normalised log v."""
        parts = [torch.full_like(self.rewards, math.log(self.own))]
        parts += [math.log(part.size) + part.target.log_weight(self.rewards) - part.log_z for part in self.levels]
        return torch.log_softmax(-torch.logsumexp(torch.stack(parts), dim=0), dim=0)

    def effective_size(self, target: Target) -> float:
        """Effective samples that a target leaves."""
        if not bool(target.hit(self.rewards)):
            return 0.0
        return float(effective_size(softmax(self.log_prior + target.log_weights(self.rewards))))

    def reachable(self, target: Target) -> Target:
        """The target; for an event that no sample meets, the nearest one of the same reward that some do."""
        if target.threshold is None or bool(target.hit(self.rewards)):
            return target
        return self.next_level(target, FEW) or target

    def next_level(self, target: Target, size: float) -> Target | None:
        """The strongest target no stronger than `target` that leaves `size` effective samples, if there is one."""
        return target.eased(self.rewards, self.log_prior, size)

    def grown(
        self,
        samples: Float[Tensor, "m *event"],
        rewards: Float[Tensor, " m"],
        target: Target,
        network_rows: int = 0,
        reward_rows: int = 0,
    ) -> "Union":
        """The union with steered samples of `target` added; drawing them took these rows."""
        log_z = float(torch.logsumexp(self.log_prior + target.log_weight(self.rewards), dim=0))
        return Union(
            Cloud(torch.cat([self.cloud.samples, samples.to(self.cloud.samples.dtype)])),
            torch.cat([self.rewards, rewards.to(torch.float64)]),
            self.own,
            (*self.levels, BankLevel(target, len(samples), log_z, network_rows, reward_rows)),
        )
