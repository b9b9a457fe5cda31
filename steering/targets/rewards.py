"""Named rewards that need no network: pure functions of a sample and the caller's arguments.

An event, such as a half-space, is a score that must reach a threshold rather than an indicator: steering toward a
rare one goes level by level, and an indicator has no levels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steering.errors import SteeringError


@dataclass(frozen=True)
class Argument:
    """An argument of a built-in reward; `default` None means required.

    A "number", an "event": a tensor shaped like a sample, or a "mask": the same, of booleans or factors.
    """

    kind: Literal["number", "event", "mask"]
    meaning: str
    default: float | None = None


@dataclass(frozen=True)
class BuiltIn:
    """A named reward: `score(x [B, *event], **arguments) -> [B]`.

    Attributes:
        threshold: None for a tilt by the score; for the event that the score is at least this, a number, or the name of
            the argument that gives it, which the score does not take.
    """

    name: str
    arguments: Mapping[str, Argument]
    score: Callable[..., Tensor]
    threshold: float | str | None = None


def _per_row(x: Tensor) -> Float[Tensor, " b"]:
    """Sum over the event; the last contiguous dimension only, so that a row's bits do not depend on the batch."""
    return x.flatten(1).contiguous().sum(dim=-1)


def linear(x: Float[Tensor, "b *event"], direction: Float[Tensor, "*event"], scale: float = 1.0) -> Float[Tensor, " b"]:
    """scale * <direction, x>."""
    return _per_row(x * direction) * scale


def quadratic(x: Float[Tensor, "b *event"], center: Float[Tensor, "*event"], scale: float = 1.0) -> Float[Tensor, " b"]:
    """-scale / 2 * |x - center|^2."""
    return _per_row((x - center).square()) * (-0.5 * scale)


def masked_match(
    x: Float[Tensor, "b *event"],
    mask: Float[Tensor, "*event"],
    target: Float[Tensor, "*event"],
    scale: float = 1.0,
) -> Float[Tensor, " b"]:
    """-scale / 2 * |mask * (x - target)|^2: inpainting by a Gaussian likelihood of precision `scale`."""
    return _per_row((mask * (x - target)).square()) * (-0.5 * scale)


def norm_band(
    x: Float[Tensor, "b *event"],
    center: Float[Tensor, "*event"] | float = 0.0,
    low: float = 0.0,
    high: float = float("inf"),
) -> Float[Tensor, " b"]:
    """Minus the distance of |x - center| to the band low..high: 0 in the band, which is the event of a score >= 0.

    Raises:
        SteeringError: low above high, or high below 0.
    """
    if not max(low, 0.0) <= high:
        raise SteeringError(f"norm_band: expected low <= high and 0 <= high, got low {low:g} and high {high:g}")
    norm = _per_row((x - center).square()).sqrt()
    return -torch.maximum(low - norm, norm - high).clamp(min=0)


def event(score: Float[Tensor, " b"], threshold: float) -> Float[Tensor, " b"]:
    """0 where score >= threshold, -inf elsewhere: conditioning on an event, without its levels."""
    return torch.where(score >= threshold, 0.0, -torch.inf).to(score.dtype)


def half_space(
    x: Float[Tensor, "b *event"], direction: Float[Tensor, "*event"], threshold: float
) -> Float[Tensor, " b"]:
    """0 where <direction, x> >= threshold, -inf elsewhere; `Doob(..., threshold=)` of `linear` has levels as well."""
    return event(linear(x, direction), threshold)


_DIRECTION = Argument("event", "direction, shaped like a sample")
_CENTER = Argument("event", "centre, shaped like a sample")
_SCALE = Argument("number", "factor", 1.0)
BUILT_IN: Mapping[str, BuiltIn] = {
    each.name: each
    for each in (
        BuiltIn("linear", {"direction": _DIRECTION, "scale": _SCALE}, linear),
        BuiltIn("quadratic", {"center": _CENTER, "scale": _SCALE}, quadratic),
        BuiltIn(
            "masked_match",
            {
                "mask": Argument("mask", "what to match, shaped like a sample"),
                "target": Argument("event", "what it should be, shaped like a sample"),
                "scale": _SCALE,
            },
            masked_match,
        ),
        BuiltIn(
            "half_space",
            {"direction": _DIRECTION, "threshold": Argument("number", "least product")},
            linear,
            threshold="threshold",
        ),
        BuiltIn(
            "norm_band",
            {
                "center": Argument("event", "centre, shaped like a sample", 0.0),
                "low": Argument("number", "least distance", 0.0),
                "high": Argument("number", "greatest distance", float("inf")),
            },
            norm_band,
            threshold=0.0,
        ),
    )
}
