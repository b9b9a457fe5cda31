"""What a network's time input is fed at path times."""

from collections.abc import Callable, Mapping

from torch import Tensor

from steering.paths.base import Path
from steering.paths.discrete import VPDiscrete


def _step(path: Path, t: Tensor) -> Tensor:
    if not isinstance(path, VPDiscrete):
        raise ValueError(
            f"time input 'N*t-1': expected a path of N steps (vp_discrete, vp_betas), got {type(path).__name__}"
        )
    return path.steps * t - 1


TIME_INPUTS: Mapping[str, Callable[[Path, Tensor], Tensor]] = {
    "t": lambda path, t: t,
    "1000*t": lambda path, t: 1000 * t,
    "sigma": lambda path, t: path.sigma(t),
    "log(sigma)/4": lambda path, t: path.sigma(t).log() / 4,
    "N*t-1": _step,
}
"""By name, float64 in and out; "log(sigma)/4" is EDM's c_noise, "N*t-1" the step a discrete path counts from 0."""
