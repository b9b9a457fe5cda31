"""A scheduler's configuration as its class reads it: what is left out has the class's default, nothing is passed by.

The defaults are those of diffusers 0.42.
"""

from collections.abc import Mapping
from typing import Any


class ScheduleError(ValueError):
    """A configuration that no card can say; the text is one line: class, field, what was expected, what came."""


class Fields:
    """The fields of one configuration.

    Attributes:
        notes: lines on what was left aside, in plain words.
    """

    def __init__(self, config: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> None:
        self.name, self.notes = name, list[str]()
        own = {key: value for key, value in config.items() if not key.startswith("_")}
        self._values: dict[str, Any] = {**defaults, **{key: own[key] for key in own if key in defaults}}
        self._read: set[str] = set()
        if others := sorted(set(own) - set(defaults)):
            self.notes.append(f"{name} has no {', '.join(others)}: left aside, as diffusers does")

    def error(self, field: str, expected: str) -> ScheduleError:
        """That a field's value cannot be honoured."""
        return ScheduleError(f"{self.name}: {field}: expected {expected}, got {self._values.get(field)!r:.80}")

    def known(self, field: str) -> bool:
        """Whether the class has the field."""
        return field in self._values

    def inert(self, *names: str) -> None:
        """That fields change no sample here."""
        self._read.update(names)

    def take(self, field: str) -> Any:
        """A field's value, which changes samples; None for a field the class does not have."""
        self._read.add(field)
        return self._values.get(field)

    def flag(self, field: str) -> bool:
        """A field that is true or false; false where the class does not have it."""
        value = self.take(field)
        if value not in (None, True, False):
            raise self.error(field, "true or false")
        return bool(value)

    def number(self, field: str, low: float, high: float) -> float:
        """A number in low..high."""
        value = self.take(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(field, f"a number in {low:g}..{high:g}")
        return float(value)

    def whole(self, field: str, low: int, high: int) -> int:
        """A whole number in low..high."""
        value = self.take(field)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(field, f"a whole number in {low}..{high}")
        return value

    def choice(self, field: str, *allowed: str) -> str:
        """One of some words."""
        value = self.take(field)
        if value not in allowed:
            raise self.error(field, f"one of {', '.join(allowed)}")
        return str(value)

    @property
    def unread(self) -> list[str]:
        """Fields of the class that nobody looked at: none, when a card is made."""
        return sorted(set(self._values) - self._read)


_BETAS = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
          "trained_betas": None}  # fmt: skip
_STABLE_BETAS = {**_BETAS, "beta_start": 0.00085, "beta_end": 0.012}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
_THRESHOLD = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_SPACED = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_EPS = {"prediction_type": "epsilon"}
_LEADING = {"timestep_spacing": "leading", "steps_offset": 0}
_LINSPACE = {"timestep_spacing": "linspace", "steps_offset": 0}
_FLOW = {"use_flow_sigmas": False, "flow_shift": 1.0, "use_dynamic_shifting": False, "time_shift_type": "exponential"}
_DPM = {"solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "lower_order_final": True,
        "euler_at_final": False, "final_sigmas_type": "zero"}  # fmt: skip
_EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras",
        "num_train_timesteps": 1000, "prediction_type": "epsilon", "rho": 7.0, "final_sigmas_type": "zero"}  # fmt: skip
_ZERO = {"rescale_betas_zero_snr": False}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "DDPMScheduler": {**_BETAS, **_CLIP, **_THRESHOLD, **_EPS, **_LEADING, **_ZERO, "variance_type": "fixed_small"},
    "DDIMScheduler": {**_BETAS, **_CLIP, **_THRESHOLD, **_EPS, **_LEADING, **_ZERO, "set_alpha_to_one": True},
    "PNDMScheduler": {**_BETAS, **_EPS, **_LEADING, "skip_prk_steps": False, "set_alpha_to_one": False},
    "EulerDiscreteScheduler": {
        **_BETAS, **_EPS, **_SPACED, **_LINSPACE, **_ZERO, "interpolation_type": "linear", "sigma_min": None,
        "sigma_max": None, "timestep_type": "discrete", "final_sigmas_type": "zero",
    },
    "EulerAncestralDiscreteScheduler": {**_BETAS, **_EPS, **_LINSPACE, **_ZERO},
    "HeunDiscreteScheduler": {
        **_STABLE_BETAS, **_EPS, **_SPACED, **_LINSPACE, "clip_sample": False, "clip_sample_range": 1.0
    },
    "KDPM2DiscreteScheduler": {**_STABLE_BETAS, **_EPS, **_SPACED, **_LINSPACE},
    "DPMSolverMultistepScheduler": {
        **_BETAS, **_EPS, **_THRESHOLD, **_SPACED, **_LINSPACE, **_ZERO, **_FLOW, **_DPM, "use_lu_lambdas": False,
        "lambda_min_clipped": -float("inf"), "variance_type": None,
    },
    "UniPCMultistepScheduler": {
        **_BETAS, **_EPS, **_THRESHOLD, **_SPACED, **_LINSPACE, **_ZERO, **_FLOW, "solver_order": 2,
        "predict_x0": True, "solver_type": "bh2", "lower_order_final": True, "disable_corrector": [], "solver_p": None,
        "final_sigmas_type": "zero", "sigma_min": None, "sigma_max": None, "shift_terminal": None,
    },
    "DEISMultistepScheduler": {
        **_BETAS, **_EPS, **_THRESHOLD, **_SPACED, **_LINSPACE, **_FLOW, "solver_order": 2, "algorithm_type": "deis",
        "solver_type": "logrho", "lower_order_final": True,
    },
    "LCMScheduler": {
        **_STABLE_BETAS, **_CLIP, **_THRESHOLD, **_EPS, **_LEADING, **_ZERO, "beta_schedule": "scaled_linear",
        "clip_sample": False, "original_inference_steps": 50, "set_alpha_to_one": True, "timestep_scaling": 10.0,
    },
    "FlowMatchEulerDiscreteScheduler": {
        **_SPACED, "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False, "base_shift": 0.5,
        "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096, "invert_sigmas": False,
        "shift_terminal": None, "time_shift_type": "exponential", "stochastic_sampling": False,
    },
    "FlowMatchHeunDiscreteScheduler": {"num_train_timesteps": 1000, "shift": 1.0},
    "EDMEulerScheduler": _EDM,
    "EDMDPMSolverMultistepScheduler": {**_EDM, **_DPM, **_THRESHOLD},
}  # fmt: skip
"""Each class that a card can be made of, with its fields."""
