"""Researcher: steer the model of examples/export_checkpoint.py toward a black box: a region that is known by asking.

.venv/bin/python examples/black_box.py 127.0.0.1:8001
"""

import sys

import numpy as np
from numpy.typing import NDArray

from tiltserve import Client


def inside(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether points [n, 2] lie in the right half of the spiral's outer turn."""
    return (x[:, 0] > 0) & (np.hypot(x[:, 0], x[:, 1]) > 1.5)


def reward(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """A step, without any slope: 0 inside, -4 elsewhere."""
    return np.where(inside(x), 0.0, -4.0)


with Client(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001", timeout=300) as client:
    plain = client.sample("spiral", n=256, seed=1)
    steered = client.sample("spiral", n=256, score=reward, seed=1)
    shares = [inside(each.samples).mean() for each in (plain, steered)]
    exact = shares[0] / np.exp(reward(plain.samples)).mean()  # of the tilted law p(x) exp(reward), from plain samples
    print(f"inside: plain {shares[0]:.2f}, steered {shares[1]:.2f}, exact {exact:.2f}")
