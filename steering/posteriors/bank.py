"""q(x_0 | x_t) on stored samples of the model itself: weights N(x_t; alpha x_k, sigma^2 I).

Nearly exact while many samples share the weight (high noise); each reward is scored on the bank once. The samples
must be the model's own: with model error, a bank of training data is far from the model's law.
"""

from collections.abc import Hashable, MutableMapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steering.calibration import Calibration
from steering.plan import Node
from steering.posteriors.gaussian import Gaussian
from steering.posteriors.local import Local, Variance
from steering.posteriors.neighbours import Neighbours
from steering.posteriors.points import Cloud, Points
from steering.targets import Target
from steering.tiles import by_tiles
from steering.weights import effective_size, flat, softmax

# below this many effective samples the local posterior is better; 50 and 1.5 are both much worse
HAND_OVER = 5.0


@dataclass(frozen=True, eq=False)
class Bank:
    """K samples [K, *event] of a model, the rewards already scored on them, and the local posterior that takes over."""

    cloud: Cloud
    local: Local
    scored: MutableMapping[Hashable, Float[Tensor, " k"]] = field(default_factory=dict)

    @property
    def samples(self) -> Float[Tensor, "k *event"]:
        return self.cloud.samples

    def calibrated(self, calibration: Variance) -> "Bank":
        """The same bank, and the scores it remembers, with this V(t) for the local posterior."""
        return Bank(self.cloud, self.local.calibrated(calibration), self.scored)

    def tilted(self, rewards: Float[Tensor, " k"], target: Target, dtype: torch.dtype) -> "TiltedBank":
        """The bank with a target's weights beside it."""
        rewards = rewards.to(dtype)
        logs = target.log_weights(rewards)
        return TiltedBank(
            self.cloud.points(dtype), logs, float(target.log_scale(rewards)), bool(flat(logs)),
            not bool(target.hit(rewards)),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class TiltedBank:
    """Bank points with log-weights [K], the largest of them 0 after `log_scale` was taken off.

    `flat` when the reward tells nothing apart, `no_hit` when none has weight (then it is flat too).
    """

    points: Points
    log_weights: Float[Tensor, " k"]
    log_scale: float
    flat: bool
    no_hit: bool = False

    @property
    def effective_size(self) -> float:
        """How many of the K samples the reward leaves: 200 is safe, 40 up to 5% off, under 25 useless."""
        return 0.0 if self.no_hit else float(effective_size(softmax(self.log_weights)))

    def start_shift(self) -> Float[Tensor, " d"]:
        """E_w[x_0] - E[x_0]: where the tilted law's mean lies, seen from the model's; exactly 0 for a flat reward."""
        weights = softmax(self.log_weights)
        excess = torch.zeros_like(weights) if self.flat else weights - 1 / len(weights)
        return excess @ self.points.x

    def correction(
        self, x: Float[Tensor, "n d"], at: Node
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
        """E_w[x_0 | x] - E[x_0 | x] on the bank, the effective sizes without and with the reward, and log E[w | x].

        The control-variate form: the difference of two weighted means, exactly 0 when the reward is flat.
        """

        def one_tile(tile: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            logits = self.points.logits(tile, at)
            prior, rewarded = softmax(logits), softmax(logits + self.log_weights)
            log_h = torch.logsumexp(logits + self.log_weights, dim=1) - torch.logsumexp(logits, dim=1)
            shift = (rewarded - prior) @ self.points.x
            return shift, effective_size(prior), effective_size(rewarded), log_h + self.log_scale

        shift, prior_size, rewarded_size, log_h = by_tiles(one_tile, x)
        return shift, prior_size, rewarded_size, log_h


def bank(
    samples: Float[Tensor, "k *event"],
    local: Literal["gaussian", "neighbours"] | Local | None = None,
    calibration: Calibration | None = None,
) -> Bank:
    """A bank from the model's own samples [K, *event].

    Args:
        local: what takes over when too few samples are near; by default `neighbours` for images (events of two or
            more axes) and `gaussian` for vectors.
        calibration: V(t) for the local posterior; measured on first use when absent.
    """
    if samples.ndim < 2 or len(samples) < 2 or not bool(samples.isfinite().all()):
        raise ValueError(f"a bank needs finite samples [K, *event] with K >= 2, got shape {list(samples.shape)}")
    cloud = Cloud(samples)
    if local is None:
        local = "neighbours" if samples.ndim > 2 else "gaussian"
    if local == "gaussian":
        local = Gaussian(calibration)
    elif local == "neighbours":
        local = Neighbours(cloud, calibration)
    elif isinstance(local, str):
        raise ValueError(f"local: expected 'gaussian' or 'neighbours', got {local!r}")
    return Bank(cloud, local)
