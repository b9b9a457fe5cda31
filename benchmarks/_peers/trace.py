"""Seeded arrivals of requests, the same for every system."""

import random
from dataclasses import dataclass

STEPS = range(5, 61)
SAMPLES = range(1, 5)
MEAN_ROWS = sum(STEPS) / len(STEPS) * sum(SAMPLES) / len(SAMPLES)


@dataclass(frozen=True)
class Request:
    """`samples` images by `steps` network rows each, wanted `at` seconds after the start within `timeout` seconds."""

    at: float
    samples: int
    steps: int
    seed: int
    timeout: float

    @property
    def rows(self) -> int:
        return self.samples * self.steps


@dataclass(frozen=True)
class Patience:
    """A client waits for `factor` times what the bare network would take for its request, and at least `least` s."""

    factor: float
    least: float

    def timeout(self, rows: int, capacity: float) -> float:
        return max(self.least, self.factor * rows / capacity)


def poisson(load: float, capacity: float, seconds: float, seed: int, patience: Patience) -> list[Request]:
    """Poisson arrivals over about `seconds`, given that they ask for exactly `load` times `capacity` rows/s.

    Steps and samples are uniform.
    """
    draw = random.Random(seed)
    count = max(1, round(load * capacity * seconds / MEAN_ROWS))
    shapes = [(draw.choice(SAMPLES), draw.choice(STEPS), draw.getrandbits(31)) for _ in range(count)]
    # arrivals of a Poisson process are uniform, given how many there are
    span = sum(samples * steps for samples, steps, _ in shapes) / (load * capacity)
    times = sorted(draw.uniform(0, span) for _ in range(count))
    return [
        Request(at, samples, steps, number, patience.timeout(samples * steps, capacity))
        for at, (samples, steps, number) in zip(times, shapes, strict=True)
    ]


def burst(count: int, steps: int, seed: int) -> list[Request]:
    """Equal requests of one sample, all at once."""
    return [Request(0.0, 1, steps, seed * count + each, 120.0) for each in range(count)]
