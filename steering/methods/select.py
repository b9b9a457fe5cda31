"""Selection: when the weighted mean of particles is mostly noise, choose the solver's noise by reward instead.

In d dimensions one reward call says little about each coordinate, and the mean's error grows like sqrt(d / ESS).
On the time-reversed process (eta = 1) the tilted transition kernel can be sampled directly: draw candidates z_m for
the step's own noise, score the x_0 each leads to, and keep one with probability softmax(r / beta) (SVDD, Li et al.
2024, arXiv:2408.08252). On kernels with eta < 1 that would be no Doob transform, and averaging is kept.

Selecting is noisier than averaging until the average itself is mostly noise: on mixtures of up to 128 dimensions
averaging was as close
or closer to the tilted law nearly everywhere. So the switch waits until the mean's error far outweighs the step's.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steering.numerics.noise import Draw, Noise
from steering.numerics.weights import draw_indices
from steering.plans.plan import Plan, Stage
from steering.posteriors.local import Local

# 4 is the first of 1, 2, 4 at which choosing is as good as always averaging in nearly all cells (47 of 48)
DROWNING = 4.0


@dataclass(frozen=True)
class Kernel:
    """The x_0 that candidates of one step lead to: D + gain z + remainder xi.

    The step's noise S z moves the next denoised estimate by gain z, gain = alpha_t V_t S / sigma_t^2 (the calibrated
    sensitivity of D at the next node t), and what it leaves open of the present variance V_s is the remainder.
    `weight` is what the step makes of D, `noise` its S.
    """

    gain: float
    remainder: float
    weight: float
    noise: float

    @classmethod
    def of(cls, stage: Stage, plan: Plan, local: Local) -> Self | None:
        """The kernel of a stage; None where the step is not a time-reversed transition."""
        if plan.eta != 1 or stage.draws != 1 or local.calibration is None:
            return None
        at, to = stage.update.at, stage.update.to
        here, there = (local.calibration.variance(plan.path, node.t) for node in (at, to))
        weight, scale = stage.update.b[0], stage.update.C[0][0]
        gain = min(to.alpha * there * scale / to.sigma**2, here**0.5)
        return cls(gain, max(0.0, here - gain**2) ** 0.5, weight, scale)

    def drowned(self, difference: Float[Tensor, "m p"], deviations: Float[Tensor, "m p d"]) -> Bool[Tensor, " m"]:
        """Rows whose averaged correction sum_p c_p d_p would bring DROWNING times the step's own noise into it.

        Weights that ignore the deviations give it the squared length sum_p c_p^2 |d_p|^2.
        """
        error = (difference.square() * deviations.square().sum(dim=-1)).sum(dim=-1)
        return self.weight**2 * error > DROWNING * self.noise**2 * deviations.shape[-1]

    def deviations(self, z: Float[Tensor, "m p d"], stage: Stage, noise: Noise) -> Float[Tensor, "m p d"]:
        """x_0 - D for candidates z of the step's noise."""
        rest = noise.normal(stage.index, Draw.REMAINDER, z.shape[1:], z.dtype)
        return z * self.gain + rest * self.remainder


def select(
    weights: Float[Tensor, "m p2"], z: Float[Tensor, "m p d"], uniform: Float[Tensor, "m 1"]
) -> Float[Tensor, "m d"]:
    """One of the candidates +z_p, -z_p with the probabilities of `weights` (all + first)."""
    index = draw_indices(weights, uniform).squeeze(1)
    pairs = z.shape[1]
    sign = 1 - 2 * (index >= pairs).to(z.dtype)
    return z[torch.arange(len(z)), index % pairs] * sign[:, None]
