"""Which two times a view is looked at in an iteration: annealed from noise to data, and a random distance apart.

Consistent3D (Wu et al. 2024, arXiv:2401.09050), its published settings: the cleaner time falls with the square root of
the iteration's number, t1 lies a gap and a uniform number above it. Times are a pure function of (iteration, seed,
number of the view): no server has to remember how far an optimisation has come.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.distillation.levels import Times, span
from steering.distillation.ramps import Ramp
from steering.errors import PlanError, choose
from steering.numerics.noise import Draw, Noise
from steering.paths import Path, vp_betas

Unit = Literal["step", "t", "rho"]
"""What a schedule counts in: steps 0..999 of Stable Diffusion's noise levels; the path's times; rho = sigma / alpha."""
UNITS = get_args(Unit)
Shape = Literal["sqrt", "linear", "uniform"]
SHAPES = get_args(Shape)
STEPS = 1000
"""Of Stable Diffusion's betas, which unit "step" means on every path."""
SLACK = 1e-6
"""Log-SNR by which a level may miss the path's end that it was meant to be."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """t2 = clamp(c, smin, smax - gap), t1 = min(t2 + gap + U(0, perturb), smax), where c goes from c0 to c1.

    Attributes:
        c0, c1, i_end: c at iteration 0 and from iteration i_end on.
        shape: how c gets there, "sqrt" or "linear" in the iteration; "uniform": c is drawn between c0 and c1 at every
            iteration, as DreamFusion does (Poole et al. 2022, arXiv:2209.14988).
        gap, perturb: how far t1 is above t2, at least, and what is drawn on top.
        smin, smax: between which both are.
        unit: "step", the reference's: n stands for the noise level rho of step n of Stable Diffusion, times `scale`, on
            whatever path the model has, and c and the draws are rounded down to whole steps. "t": the path's times.
            "rho": noise levels.
        scale: the data's standard deviation, for unit "step": levels are those of data of standard deviation 1.
        narrowed: levels beyond the ends of a model's path are moved to them; otherwise they are an error.
    """

    c0: float = 700.0
    c1: float = 100.0
    i_end: int = 3000
    shape: Shape = "sqrt"
    gap: float = 100.0
    perturb: float = 200.0
    smin: float = 100.0
    smax: float = 980.0
    unit: Unit = "step"
    scale: float = 1.0
    narrowed: bool = False

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise PlanError(choose("unit", self.unit, UNITS))
        if self.shape not in SHAPES:
            raise PlanError(choose("shape", self.shape, SHAPES))
        for name in ("c0", "c1", "gap", "perturb", "smin", "smax", "scale"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
                raise PlanError(f"{name}: expected a finite number of at least 0, got {value!r}")
        if not self.scale > 0:
            raise PlanError(f"scale: expected a standard deviation above 0, got {self.scale!r}")
        if not self.gap > 0:
            raise PlanError(f"gap: expected a number above 0, by which t1 is above t2, got {self.gap!r}")
        if self.unit == "step" and self.gap < 1:
            raise PlanError(f"gap: expected a whole step at least, got {self.gap!r}")
        if self.unit == "step" and self.smax > STEPS - 1:
            raise PlanError(f"smax: expected a step in 0..{STEPS - 1}, got {self.smax!r}")
        if self.smin + self.gap > self.smax:
            raise PlanError(
                f"smax: expected at least smin + gap = {self.smin + self.gap:g}, so that t1 and t2 have room, "
                f"got {self.smax:g}"
            )
        Ramp(self.c0, self.c1, self.i_end)

    def values(self, iteration: int, seed: int, views: Sequence[int]) -> tuple[Tensor, Tensor]:
        """t1 and t2 of each view in the schedule's unit, float64 [B] each."""
        drawn = Noise(seed, views).uniform(iteration, Draw.JITTER, 2)
        whole = torch.floor if self.unit == "step" else lambda x: x
        if self.shape == "uniform":
            low, high = sorted((self.c0, self.c1))
            c = low + (high - low) * drawn[:, 1]
        else:
            at = Ramp(self.c0, self.c1, self.i_end, self.shape).at(iteration)
            c = torch.full((len(views),), at, dtype=torch.float64)
        second = whole(c).clamp(self.smin, self.smax - self.gap)
        first = (second + self.gap + whole(self.perturb * drawn[:, 0])).clamp(self.smin, self.smax)
        return first, second

    def times(self, path: Path, iteration: int, seed: int, views: Sequence[int]) -> Times:
        """The path times of each view, [B] each.

        Raises:
            PlanError: a level beyond the ends of the path.
        """
        both = self._on(path, torch.cat(self.values(iteration, seed, views)))
        return Times(both[: len(views)], both[len(views) :])

    def _on(self, path: Path, values: Float64[Tensor, " b"]) -> Float64[Tensor, " b"]:
        """Path times of values in the unit, within the path."""
        within = span(path)
        if self.unit == "t":
            inside = values.clamp(within.t_min, within.t_max)
            return inside if self.narrowed else values
        log_snr = -torch.log(values) if self.unit == "rho" else log_snr_of(values, self.scale)
        noisiest, cleanest = _ends(within)
        moved = log_snr.clamp(noisiest, cleanest)
        if not self.narrowed and bool(((log_snr - moved).abs() > SLACK).any()):
            worst = float(torch.exp(-log_snr)[(log_snr - moved).abs().argmax()])
            raise PlanError(
                f"schedule: expected noise levels rho in {math.exp(-cleanest):.4g}..{math.exp(-noisiest):.4g}, where "
                f"the model is known, got {worst:.4g}"
            )
        return within.time_of_log_snr(moved).clamp(within.t_min, within.t_max)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published setting: the schedule with what goes with it, for Stable Diffusion's latents.

    Attributes:
        guidance: scale w of null + w (conditional - null), which is 1 more than that of the reference's
            conditional + w (conditional - null).
        clip: of each number of the gradient before it is divided by the number of views.
    """

    schedule: Schedule
    weighting: Literal["uniform", "sds"]
    guidance: Ramp
    clip: Ramp


def _preset(
    c0: float, c1: float, i_end: int, perturb: float, high: float, low: float, weighting: Literal["uniform", "sds"],
    guidance: tuple[float, float], clip: tuple[float, float],
) -> Preset:  # fmt: skip
    schedule = Schedule(c0=c0, c1=c1, i_end=i_end, perturb=perturb, smin=low, smax=high, narrowed=True)
    return Preset(
        schedule=schedule,
        weighting=weighting,
        guidance=Ramp(guidance[0] + 1, guidance[1] + 1, i_end),
        clip=Ramp(*clip, i_end),
    )


PRESETS: Mapping[str, Preset] = {
    "coarse": _preset(700, 100, 3000, 200, 980, 100, "uniform", (100, 50), (2, 8)),
    "coarse_long": _preset(700, 100, 5000, 200, 980, 100, "uniform", (50, 20), (2, 8)),
    "refine": _preset(300, 20, 3000, 100, 500, 20, "sds", (100, 30), (2, 8)),
    "texture": _preset(500, 20, 5000, 100, 980, 20, "sds", (50, 50), (2, 8)),
    "texture_long": _preset(500, 20, 10000, 100, 980, 20, "sds", (100, 50), (2, 8)),
}
"""Consistent3D's stages: a radiance field from nothing, its surface, its texture."""


def schedule(name: str, scale: float = 1.0, **changed: object) -> Schedule:
    """A preset's schedule by name, for data of standard deviation `scale`, with some of its numbers changed.

    Raises:
        PlanError: an unknown name, or numbers out of range.
    """
    if name not in PRESETS:
        raise PlanError(choose("schedule", name, PRESETS))
    return replace(PRESETS[name].schedule, scale=scale, **changed)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _stable_diffusion() -> Path:
    return vp_betas(steps=STEPS)


def log_snr_of(step: Float64[Tensor, " b"], scale: float = 1.0) -> Float64[Tensor, " b"]:
    """The log-SNR of Stable Diffusion's step n, from 0, for data of standard deviation `scale` instead of 1."""
    return _stable_diffusion().log_snr((step + 1) / STEPS) - math.log(scale)


def step_of(rho: Float64[Tensor, " b"], scale: float = 1.0) -> Float64[Tensor, " b"]:
    """The step of Stable Diffusion with noise level rho for data of standard deviation `scale`, within 0..999."""
    path = _stable_diffusion()
    log_snr = (math.log(scale) - torch.log(rho)).clamp(*_ends(path))
    return path.time_of_log_snr(log_snr) * STEPS - 1


@lru_cache(maxsize=256)
def _ends(path: Path) -> tuple[float, float]:
    """Log-SNR at the noisy and at the clean end."""
    noisiest, cleanest = path.log_snr(torch.tensor([path.t_max, path.t_min], dtype=torch.float64)).tolist()
    return noisiest, cleanest
