"""Distillation: the gradient of a trained model's law with respect to rendered views, for who optimises a scene.

`gradient` is a generator as samplers are; `distill` drives it in a notebook. Modes: `sds` (score distillation), `cds`
(Consistent3D), `ism` (interval score matching), `reward_sds` (noises weighted by a reward). With a steering method each
of the first three is that of the tilted law p(x) exp(r(x) / beta).
"""

from steering.distillation.gradient import Distilled, gradient, network_rows, prior, summed, times_of
from steering.distillation.levels import Levels, Times
from steering.distillation.mode import Mode
from steering.distillation.modes import MODES, UntrainableError
from steering.distillation.perp_neg import Negatives
from steering.distillation.ramps import Ramp
from steering.distillation.run import distill
from steering.distillation.schedules import PRESETS, Preset, Schedule, schedule
from steering.distillation.settings import Settings
from steering.distillation.weighting import WEIGHTINGS

__all__ = [
    "MODES", "PRESETS", "WEIGHTINGS", "Distilled", "Levels", "Mode", "Negatives", "Preset", "Ramp", "Schedule",
    "Settings", "Times", "UntrainableError", "distill", "gradient", "network_rows", "prior", "schedule", "summed",
    "times_of",
]  # fmt: skip
