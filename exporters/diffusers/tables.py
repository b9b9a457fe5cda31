"""The betas of a scheduler's configuration as the path of a card."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

import steering
from exporters.diffusers.fields import Fields, ScheduleError
from steering.paths.discrete import products

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
SPACINGS = ("leading", "linspace", "trailing")
LONGEST = 100_000


@dataclass(frozen=True)
class Table:
    """A path of trained steps as a card has it, from its first step to its last."""

    content: dict[str, Any]
    t_range: tuple[float, float] | None = None

    @cached_property
    def path(self) -> steering.Path:
        return steering.paths.build(self.content, self.t_range)

    @property
    def rho_min(self) -> float:
        return math.exp(-self.path.levels[1])

    @property
    def rho_max(self) -> float:
        return math.exp(-self.path.levels[0])

    def between(self, low: float, high: float) -> tuple[float, float]:
        """The times of two levels rho."""
        low = float(self.path.time_of_log_snr(-math.log(low)).clamp(self.path.t_min, self.path.t_max))
        high = float(self.path.time_of_log_snr(-math.log(high)).clamp(self.path.t_min, self.path.t_max))
        return low, high

    def above(self, log_snr: float) -> tuple[float, float] | None:
        """The times of the steps whose log-SNR is at least this; None for all."""
        steps = int(self.path.steps)  # type: ignore[attr-defined]
        times = (torch.arange(steps, dtype=torch.float64) + 1) / steps
        kept = int((self.path.log_snr(times) >= log_snr).sum())
        if kept < 2:
            raise ScheduleError(f"lambda_min_clipped: expected a log-SNR that two steps or more have, got {log_snr:g}")
        return None if kept == steps else (1 / steps, kept / steps)


def path_of(fields: Fields, last_alpha_bar: float = 0.0, straight_in: str = "log_alpha") -> Table:
    """The path of a configuration's betas.

    Args:
        last_alpha_bar: what the scheduler has in place of an alpha_bar of 0.
        straight_in: what its levels at fractional timesteps are interpolated in.
    """
    steps = fields.whole("num_train_timesteps", 2, LONGEST)
    zero = fields.flag("rescale_betas_zero_snr")
    trained = fields.take("trained_betas")
    fields.inert("beta_start", "beta_end", "beta_schedule")
    rest = {} if straight_in == "log_alpha" else {"straight_in": straight_in}
    if trained is not None:
        return Table({"kind": "vp_discrete", "alpha_bars": _alpha_bars(fields, trained, zero, last_alpha_bar)} | rest)
    kind = fields.choice("beta_schedule", *SCHEDULES[: 4 if fields.name == "DDPMScheduler" else 3])
    content: dict[str, Any] = {"kind": "vp_betas", "schedule": kind, "steps": steps, "single": True}
    if kind != "squaredcos_cap_v2":
        content["beta_start"] = fields.number("beta_start", 1e-12, 1 - 1e-9)
        content["beta_end"] = fields.number("beta_end", content["beta_start"], 1 - 1e-9)
    if zero:
        content["zero_terminal_snr"] = True
        if last_alpha_bar:
            content["last_alpha_bar"] = last_alpha_bar
        return Table(content | rest, (1 / steps, 1.0))
    return Table(content | rest)


def _alpha_bars(fields: Fields, trained: Any, zero: bool, last: float) -> list[float]:
    """alpha_bar of betas given one by one."""
    number = lambda beta: isinstance(beta, int | float) and not isinstance(beta, bool) and 0 < beta < 1  # noqa: E731
    if not isinstance(trained, list) or not 2 <= len(trained) <= LONGEST or not all(map(number, trained)):
        raise fields.error("trained_betas", f"2..{LONGEST} numbers between 0 and 1, or null")
    if zero:
        raise fields.error("rescale_betas_zero_snr", "false beside trained_betas")
    return products(torch.tensor(trained, dtype=torch.float32)).tolist()


def checked_spacing(fields: Fields) -> None:
    """Refuse an unknown spacing, also where it changes nothing."""
    if fields.known("timestep_spacing"):
        fields.choice("timestep_spacing", *SPACINGS)
