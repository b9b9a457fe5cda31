"""Schedulers of continuous time, whose configuration says little: score networks of exploding variance, consistency
models, and sound."""

from collections.abc import Callable, Mapping
from typing import Any

from exporters.diffusers.source import FolderError
from protos.card import Defaults

CONSISTENCY = "CMStochasticIterativeScheduler"


def of_scheduler(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Keys of a sampler's card; None for a scheduler of discrete steps, or a flow.

    Raises:
        FolderError: a value that is no number > 0; one line.
    """
    read = _READERS.get(str(config.get("_class_name")))
    return None if read is None else read(config)


def boundary(config: Mapping[str, Any]) -> tuple[float, float] | None:
    """Of a consistency model: sigma_min, where it gives its input itself, and sigma_data; None for others."""
    if config.get("_class_name") != CONSISTENCY:
        return None
    return _number(config, "sigma_min", 0.002), _number(config, "sigma_data", 0.5)


def _exploding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Song et al. 2021, arXiv:2011.13456: the network gives the score, and is told sigma."""
    low, high = _number(config, "sigma_min", 0.01), _number(config, "sigma_max", 1348.0)
    return {
        "path": {"kind": "ve", "sigma_min": low, "sigma_max": high},
        "prediction": "score",
        "inputs": {"time": "sigma"},
    }


def _consistency(config: Mapping[str, Any]) -> dict[str, Any]:
    """Song et al. 2023, arXiv:2303.01469: the graph gives x0, its skip connection inside."""
    low, high = _number(config, "sigma_min", 0.002), _number(config, "sigma_max", 80.0)
    clips = config.get("clip_denoised", True)
    return {
        "path": {"kind": "edm", "sigma_min": low, "sigma_max": high},
        "prediction": "x0",
        "inputs": {"time": "sigma"},
        "end": "denoise",
        "defaults": Defaults(solver="consistency"),
    } | ({"clip": (-1.0, 1.0)} if clips else {})


def _circle(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dance diffusion: alpha and sigma on a circle, the time is the angle as a part of the quarter."""
    return {"path": {"kind": "trig_flow"}, "prediction": "v", "inputs": {"time": "t"}}


_READERS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "ScoreSdeVeScheduler": _exploding,
    CONSISTENCY: _consistency,
    "IPNDMScheduler": _circle,
}


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise FolderError(f"scheduler: {name}: expected a number > 0, got {value!r:.40}")
    return float(value)
