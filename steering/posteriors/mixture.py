"""q(x_0 | x_t) of a mixture of Gaussians fitted to the bank, moved to have the mean D.

The fit's posterior is closed at every noise level: it knows which modes a state may still become, and which directions
each of them leaves open. Only its shape is used, since the network's D is better than the fit's. Toward a reward, the
components' weights and means are those of the *rewarded* bank, so that candidates land where the reward is, however
rare; importance weights take back the difference:

    D_h = D + sum_m (w_m - c u_m) (x_m - D),   u ~ q / q',   w ~ u exp(r / beta),

c = ESS(u) / M: the control variate counts as far as candidates still represent q.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from steering.numerics.noise import Draw, Noise
from steering.numerics.weights import draw_indices
from steering.paths import Path
from steering.plans.plan import Node, Stage
from steering.posteriors.components import Components
from steering.posteriors.local import Candidates, Variance
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem

MOST_DIMENSIONS = 256
"""Most dimensions of a fit: above it a few thousand samples are too few; use `neighbours`."""
HELD_OUT = 8
"""One of this many samples is held out from the fit, to test it."""
DEFENCE = 0.2
"""Share of leaning candidates whose component is drawn without leaning, so that every component occurs."""
SEED = 0x7117


@dataclass(frozen=True, eq=False)
class Lean:
    """How the rewarded bank differs: the components' log-weights and their means' shifts."""

    log_weights: Float[Tensor, " k"]
    shifts: Float[Tensor, "k d"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """The posterior of a mixture of Gaussians, moved to D; `lean` makes its candidates those of a rewarded law."""

    components: Components
    calibration: Variance | None = None
    lean: Lean | None = None

    def calibrated(self, calibration: Variance) -> "Mixture":
        """Implements `Local.calibrated`."""
        return replace(self, calibration=calibration)

    def leaning(self, x: Float[Tensor, "n d"], weights: Float[Tensor, " n"]) -> "Mixture":
        """With candidates for the law of weighted samples; the posterior it stands for remains."""
        wide = self.components.to(torch.float64)
        shares = wide.responsibilities(x.to(torch.float64)) * weights.to(torch.float64)[:, None]
        counts = shares.sum(dim=0)
        shifts = shares.T @ x.to(torch.float64) - counts[:, None] * wide.means
        # a component of next to no weight keeps its mean
        shifts = shifts / (counts[:, None] + 1e-9) * (counts / (counts + 1e-4))[:, None]
        return replace(self, lean=Lean(torch.log(counts + 1e-12), shifts))

    def draw(
        self,
        problem: Problem,
        stage: Stage,
        x: Float[Tensor, "n d"],
        centre: Float[Tensor, "n d"],
        pairs: int,
        noise: Noise,
    ) -> Generator[Rows, Tensor, Candidates]:
        """Implements `Local.draw`."""
        yield from ()
        at, parts = stage.update.at, self._in(x.dtype)
        y, logits, mean = parts.posterior(x, at)
        spread, z = parts.spread(at), noise.normal(stage.index, Draw.PARTICLES, (pairs, x.shape[1]), x.dtype)
        shares = torch.softmax(logits, dim=1)
        offset, drawn_from = self._lean(parts, y, at, shares)
        chosen = draw_indices(drawn_from, noise.uniform(stage.index, Draw.NEIGHBOURS, pairs))
        step = spread[chosen].sqrt() * z
        middle = torch.gather(y * parts.gain(at) + offset, 1, chosen[:, :, None].expand_as(step))
        middle = parts.from_axes(chosen, middle) + parts.means[chosen] - mean[:, None]
        step = parts.from_axes(chosen, step)
        deviations = torch.cat([middle + step, middle - step], dim=1)
        if self.lean is None:
            return Candidates(deviations, torch.zeros(deviations.shape[:2], dtype=x.dtype))
        ratio = (torch.log_softmax(logits, dim=1) - torch.log(drawn_from)).gather(1, chosen)
        # log N(y +- s z; 0, s^2) - log N(s z; 0, s^2), in the component's axes
        scaled = offset[chosen] / spread[chosen].sqrt()
        ratio = ratio - 0.5 * (scaled * scaled).sum(dim=-1)
        across = (scaled * z).sum(dim=-1)
        return Candidates(deviations, torch.cat([ratio - across, ratio + across], dim=1))

    def _lean(
        self, parts: Components, y: Float[Tensor, "n k d"], at: Node, shares: Float[Tensor, "n k"]
    ) -> tuple[Float[Tensor, "k d"], Float[Tensor, "n k"]]:
        """How far leaning moves the components' posterior means, in their axes, and how often each is drawn."""
        if self.lean is None:
            return torch.zeros_like(parts.means), shares
        shifts = torch.einsum("kd,kde->ke", self.lean.shifts.to(y.dtype), parts.basis)
        logits = self.lean.log_weights.to(y.dtype) + parts.evidence(y - at.alpha * shifts, at)
        leaning = torch.softmax(logits, dim=1)
        return shifts * at.sigma**2 / parts.marginal(at), DEFENCE * shares + (1 - DEFENCE) * leaning

    def _in(self, dtype: torch.dtype) -> Components:
        return self._narrow if dtype == torch.float32 else self.components.to(dtype)

    @cached_property
    def _narrow(self) -> Components:
        return self.components.to(torch.float32)

    def error(self, samples: Float[Tensor, "n *event"], path: Path, t: float) -> float:
        """E |x_0 - E_fit[x_0 | x_t]|^2 per dimension: what V(t) is for the network, for the fit."""
        x0 = samples.flatten(1).to(torch.float64)
        at = Node(t, float(path.alpha(t)), float(path.sigma(t)), float(path.log_snr(t)))
        eps = Noise(SEED, range(len(x0))).normal(0, Draw.CALIBRATION, x0.shape[1:], x0.dtype)
        mean = self.components.posterior(x0 * at.alpha + eps * at.sigma, at)[2]
        return float((x0 - mean).square().mean())


def mixture(samples: Float[Tensor, "k *event"], calibration: Variance | None = None) -> Mixture:
    """The mixture posterior of the model's own samples [K, *event], at most `MOST_DIMENSIONS` numbers each."""
    x = samples.flatten(1)
    if x.shape[1] > MOST_DIMENSIONS or len(x) < 2 * HELD_OUT or not bool(x.isfinite().all()):
        wanted = f"at least {2 * HELD_OUT} finite samples of at most {MOST_DIMENSIONS} numbers"
        raise ValueError(f"mixture: expected {wanted}, got {list(samples.shape)}")
    fitted = torch.arange(len(x)) % HELD_OUT != 0
    return Mixture(Components.fit(x[fitted], SEED), calibration)
