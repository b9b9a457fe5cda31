"""How a distillation gradient is made: the settings that stay the same from iteration to iteration."""

import math
from dataclasses import dataclass, field

from steering.distillation.levels import Times
from steering.distillation.mode import Mode
from steering.distillation.modes import mode
from steering.distillation.noises import KINDS
from steering.distillation.ramps import Ramp
from steering.distillation.schedules import PRESETS, Schedule
from steering.distillation.weighting import WEIGHTINGS
from steering.errors import PlanError, choose

MOST_NOISES = 64


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A mode and its numbers.

    Attributes:
        mode: "sds", "cds", "ism", "reward_sds".
        times: a `Schedule`, or `Times` as they are.
        noise: "fixed", one for the whole optimisation; "iteration", a new one at each; None, the mode's own.
        noises: of a view at an iteration, whose gradients are averaged ("reward_sds": weighted); network rows grow with
            it.
        weighting: "uniform", "sds" or "fantasia3d", see `weighting`; at t1.
        clip: bounds each number of a view's gradient, before the division by the number of views; a number, or a ramp
            over iterations. None: none.
        rescale: share in 0..1, see `Estimate.rescaled`; the reference's recon_std_rescale.
        stride: of `ism`: steps of Stable Diffusion's thousand between two of its inversion.
        scale: the data's standard deviation, for `stride`; a `Schedule` has its own.

    Raises:
        PlanError: an unknown name or a value out of range.
        UntrainableError: mode "vsd".
    """

    mode: str = "sds"
    times: Schedule | Times = field(default_factory=lambda: PRESETS["coarse"].schedule)
    noise: str | None = None
    noises: int = 1
    weighting: str = "uniform"
    clip: float | Ramp | None = None
    rescale: float = 0.0
    stride: float = 200.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        kind = self.kind
        if self.noise is not None and self.noise not in KINDS:
            raise PlanError(choose("noise", self.noise, KINDS))
        if self.noise is not None and kind.noise is None:
            raise PlanError(f"noise: expected none for mode {self.mode!r}, which draws none, got {self.noise!r}")
        least = 2 if kind.weighs else 1
        most = 1 if kind.noise is None else MOST_NOISES
        if isinstance(self.noises, bool) or not isinstance(self.noises, int) or not least <= self.noises <= most:
            raise PlanError(f"noises: expected {least}..{most} for mode {self.mode!r}, got {self.noises!r}")
        if self.weighting not in WEIGHTINGS:
            raise PlanError(choose("weighting", self.weighting, WEIGHTINGS))
        if not 0 <= self.rescale <= 1:
            raise PlanError(f"rescale: expected a number in 0..1, got {self.rescale!r}")
        if not 10 <= self.stride <= 1000:
            raise PlanError(f"stride: expected a number of steps in 10..1000, got {self.stride!r}")
        if not 0 < self.scale < math.inf:
            raise PlanError(f"scale: expected a standard deviation above 0, got {self.scale!r}")
        if self.clip is not None:
            ends = (self.clip.first, self.clip.last) if isinstance(self.clip, Ramp) else (self.clip,)
            if not all(0 < end < math.inf for end in ends):
                raise PlanError(f"clip: expected a number above 0, got {min(ends)!r}")

    @property
    def kind(self) -> Mode:
        return mode(self.mode)

    @property
    def data_scale(self) -> float:
        """Of the schedule, if there is one."""
        return self.times.scale if isinstance(self.times, Schedule) else self.scale

    def clip_at(self, iteration: int) -> float | None:
        return self.clip.at(iteration) if isinstance(self.clip, Ramp) else self.clip
