"""q(x_0 | x_t) on stored samples of the model itself: weights N(x_t; alpha x_k, sigma^2 I).

Nearly exact while many samples share the weight (high noise); each reward is scored on the bank once. The samples
must be the model's own: with model error, a bank of training data is far from the model's law.
"""

from collections.abc import Generator, Hashable, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steering.numerics.tiles import by_tiles
from steering.numerics.weights import effective_size, flat, softmax, softmax_and_log_sum
from steering.plans.plan import Node
from steering.posteriors.calibration import Calibration
from steering.posteriors.gaussian import Gaussian
from steering.posteriors.local import Local, Variance
from steering.posteriors.mixture import mixture
from steering.posteriors.neighbours import Neighbours
from steering.posteriors.points import Cloud, Points
from steering.posteriors.union import Union
from steering.sampling.rows import Rows
from steering.targets.target import Target

# below this many effective samples the local posterior is better; 50 and 1.5 are both much worse
HAND_OVER = 5.0


@dataclass(frozen=True, eq=False)
class Bank:
    """K samples [K, *event] of a model, what is remembered of rewards, and the local posterior that takes over.

    Attributes:
        local: None until one has been chosen, on first use.
        measured: V(t) for the choice; measured then when absent.
        scored: rewards of the samples by a reward's key.
        refreshed: by target, the samples with steered ones added, for targets too rare for the samples alone.
    """

    cloud: Cloud
    local: Local | None = None
    measured: Calibration | None = None
    scored: MutableMapping[Hashable, Float[Tensor, " k"]] = field(default_factory=dict)
    refreshed: MutableMapping[Hashable, Union] = field(default_factory=dict)

    @property
    def samples(self) -> Float[Tensor, "k *event"]:
        return self.cloud.samples

    @property
    def calibration(self) -> Variance | None:
        return None if self.local is None else self.local.calibration

    def with_local(self, local: Local) -> "Bank":
        """The same bank, and what it remembers, with this local posterior."""
        return replace(self, local=local)


@dataclass(frozen=True, eq=False)
class TiltedBank:
    """A bank's samples, or a union's, with a target's weights.

    Attributes:
        log_prior: log-weights [K] that make the samples those of the model.
        log_weights: log w [K], the largest of them 0 after `log_scale` was taken off.
        flat: all rewards are equal.
        no_hit: no sample has weight; `flat` is then true as well.
    """

    points: Points
    log_prior: Float[Tensor, " k"]
    log_weights: Float[Tensor, " k"]
    log_scale: float
    flat: bool
    no_hit: bool

    @classmethod
    def of(cls, union: Union, target: Target, dtype: torch.dtype) -> "TiltedBank":
        """With the target's weights, computed in float64."""
        logs = target.log_weights(union.rewards)
        return cls(
            union.cloud.points(dtype), union.log_prior.to(dtype), logs.to(dtype),
            float(target.log_scale(union.rewards)), bool(flat(logs)), not bool(target.hit(union.rewards)),
        )  # fmt: skip

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """Normalised weights that make the samples those of the tilted law."""
        return softmax(self.log_prior + self.log_weights)

    @property
    def effective_size(self) -> float:
        """Effective samples that the reward leaves: 200 is safe, 40 up to 5% off, under 25 useless."""
        return 0.0 if self.no_hit else float(effective_size(self.weights))

    @property
    def log_z(self) -> float:
        """log E_p[w]; -inf where no sample has weight."""
        prior = torch.log_softmax(self.log_prior.to(torch.float64), dim=0)
        return -torch.inf if self.no_hit else float(torch.logsumexp(prior + self.log_weights, dim=0)) + self.log_scale

    def start_shift(self) -> Float[Tensor, " d"]:
        """E_w[x_0] - E[x_0]: where the tilted law's mean lies, seen from the model's; exactly 0 for a flat reward."""
        prior = softmax(self.log_prior)
        excess = torch.zeros_like(prior) if self.flat else self.weights - prior
        return excess @ self.points.x

    def correction(
        self, x: Float[Tensor, "n d"], at: Node
    ) -> Generator[
        Rows, Tensor, tuple[Float[Tensor, "n d"], Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]
    ]:
        """E_w[x_0 | x] - E[x_0 | x] on the bank, the effective sizes without and with the reward, and log E[w | x].

        The control-variate form: the difference of two weighted means, exactly 0 when the reward is flat.
        """

        def one_tile(products: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            logits = products + self.log_prior
            prior, log_prior_sum = softmax_and_log_sum(logits)
            rewarded, log_sum = softmax_and_log_sum(logits + self.log_weights)
            log_h = log_sum - log_prior_sum + self.log_scale
            return rewarded - prior, effective_size(prior), effective_size(rewarded), log_h

        logits = yield from self.points.logits(x, at)
        excess, prior_size, rewarded_size, log_h = by_tiles(one_tile, logits)
        return (yield from self.points.mean(excess)), prior_size, rewarded_size, log_h


def bank(
    samples: Float[Tensor, "k *event"],
    local: Literal["gaussian", "mixture", "neighbours"] | Local | None = None,
    calibration: Calibration | None = None,
) -> Bank:
    """A bank from the model's own samples [K, *event].

    Args:
        local: what takes over when too few samples are near; when absent, the one that fits is chosen on first use
            (see `posteriors.automatic`).
        calibration: V(t) for the local posterior; measured on first use when absent.
    """
    if samples.ndim < 2 or len(samples) < 2 or not bool(samples.isfinite().all()):
        raise ValueError(f"a bank needs finite samples [K, *event] with K >= 2, got shape {list(samples.shape)}")
    cloud = Cloud(samples)
    if local == "gaussian":
        local = Gaussian(calibration)
    elif local == "neighbours":
        local = Neighbours(cloud, calibration)
    elif local == "mixture":
        local = mixture(samples, calibration)
    elif isinstance(local, str):
        raise ValueError(f"local: expected 'gaussian', 'mixture' or 'neighbours', got {local!r}")
    return Bank(cloud, local, calibration)
