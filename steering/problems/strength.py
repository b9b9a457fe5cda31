"""Rewards of equal strength: the factor that puts a tilted law a given number of nats from the model."""

import math
from typing import Protocol, Self, TypeVar

BISECTIONS = 60


class Tilted(Protocol):
    """A law tilted by a reward."""

    def nats(self, strength: float) -> float: ...

    def scaled(self, strength: float) -> Self: ...


Tilt = TypeVar("Tilt", bound=Tilted)


def at_nats(tilt: Tilt, nats: float, strongest: float = 1e3) -> Tilt:
    """The law whose KL divergence from the model is `nats`, by a multiple of the reward, at most `strongest` of it."""
    weak, strong = math.log(1e-6), math.log(strongest)
    for _ in range(BISECTIONS):
        middle = (weak + strong) / 2
        weak, strong = (middle, strong) if tilt.nats(math.exp(middle)) < nats else (weak, middle)
    return tilt.scaled(math.exp(weak))
