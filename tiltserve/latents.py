"""Latents: the noise that samples come from along a path without noise, and what lies between two of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tiltserve import tensors
from tiltserve.answers import Floats, Samples
from tiltserve.errors import InvalidArgument

STEPS = 60
"""Of a way to latents or back, unless it is said: fewer close the way there and back less well."""
_PARALLEL = 1e-4
"""Sine of the angle under which a great circle is a straight line up to its square, or is none: opposites have many."""


def encoding(x: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `sample` that ask for the latents of samples x [n, *event]."""
    return {"steps": STEPS, "seed": 0, **wanted, **_starting("x", x), "reverse": True, "deterministic": True}


def decoding(latents: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `sample` that ask for the samples of latents [n, *event]: by the solver that encoded them, if it is
    known, and to the states that were encoded, not to denoised estimates, unless that is said. Steering's own draws are
    those of one seed, so that latents have one answer."""
    usual: dict[str, Any] = {"steps": STEPS, "end": "t_min", "seed": 0}
    if isinstance(latents, Samples) and latents.solver:
        usual["solver"] = latents.solver
    return {**usual, **wanted, **_starting("latents", latents), "deterministic": True}


def spherical(first: Any, second: Any, weight: float) -> Floats:
    """The point at `weight` (0 the first, 1 the second) of the great circle between latents [n, *event], each pair by
    itself (Song et al. 2021, arXiv:2010.02502, appendix D.5).

    In high dimensions noise lies near a sphere, which a straight line would leave. The lengths go from one to the other
    along the way; where both point the same way, or in opposite ones, it is a straight line.

    Raises:
        InvalidArgument: shapes differ.
    """
    one, other = (tensors.cast(name, each, "FP32") for name, each in (("first", first), ("second", second)))
    if one.shape != other.shape or not one.ndim:
        raise InvalidArgument(f"expected latents [n, *event] of one shape, got {list(one.shape)}, {list(other.shape)}")
    a, b = (each.reshape(len(each), -1).astype(np.float64) for each in (one, other))
    lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    cosine = (a * b).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    angle = np.arccos(cosine.clip(-1, 1))
    straight = np.sin(angle) < _PARALLEL
    safe = np.where(straight, 1.0, angle)
    left = np.where(straight, 1 - weight, np.sin((1 - weight) * safe) / np.sin(safe))
    right = np.where(straight, weight, np.sin(weight * safe) / np.sin(safe))
    between: Floats = (left[:, None] * a + right[:, None] * b).reshape(one.shape).astype(np.float32)
    return between


def _starting(name: str, x: Any) -> dict[str, Any]:
    made = tensors.cast(name, x, "FP32")
    if made.ndim < 2:
        raise InvalidArgument(f"{name}: expected an array [n, *event], got {list(made.shape)}")
    return {"x_init": made, "n": len(made)}
