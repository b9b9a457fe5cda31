"""Named rewards that need no network: pure functions of a sample and the caller's arguments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Argument:
    """An argument of a built-in reward: a number, or a tensor shaped like the event; `default` None means required."""

    kind: Literal["number", "event"]
    meaning: str
    default: float | None = None


@dataclass(frozen=True)
class BuiltIn:
    """A named reward: `score(x [B, *event], **arguments) -> [B]`."""

    name: str
    arguments: Mapping[str, Argument]
    score: Callable[..., Tensor]


def _per_row(x: Tensor) -> Float[Tensor, " b"]:
    """Sum over the event; the last contiguous dimension only, so that a row's bits do not depend on the batch."""
    return x.flatten(1).contiguous().sum(dim=-1)


def linear(x: Float[Tensor, "b *event"], direction: Float[Tensor, "*event"], scale: float = 1.0) -> Float[Tensor, " b"]:
    """scale * <direction, x>."""
    return _per_row(x * direction) * scale


def quadratic(x: Float[Tensor, "b *event"], center: Float[Tensor, "*event"], scale: float = 1.0) -> Float[Tensor, " b"]:
    """-scale / 2 * |x - center|^2."""
    return _per_row((x - center).square()) * (-0.5 * scale)


def half_space(
    x: Float[Tensor, "b *event"], direction: Float[Tensor, "*event"], threshold: float
) -> Float[Tensor, " b"]:
    """0 where <direction, x> >= threshold, -inf elsewhere: conditioning on an event."""
    inside = _per_row(x * direction) >= threshold
    return torch.where(inside, 0.0, -torch.inf).to(x.dtype)


_DIRECTION = Argument("event", "direction, shaped like a sample")
_SCALE = Argument("number", "factor", 1.0)
BUILT_IN: Mapping[str, BuiltIn] = {
    "linear": BuiltIn("linear", {"direction": _DIRECTION, "scale": _SCALE}, linear),
    "quadratic": BuiltIn(
        "quadratic", {"center": Argument("event", "centre, shaped like a sample"), "scale": _SCALE}, quadratic
    ),
    "half_space": BuiltIn(
        "half_space", {"direction": _DIRECTION, "threshold": Argument("number", "least product")}, half_space
    ),
}
