"""Client developer: steer toward whatever a Python function says. The function runs here, and needs no gradient.

make serve                         # in one shell
.venv/bin/python examples/score.py # in another
"""

import sys

import numpy as np
from numpy.typing import NDArray

from tiltserve import Client


def holes(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of images [rows, 1, 28, 28] in [-1, 1]: the paper that ink encloses, as a share of all pixels."""
    ink = images[:, 0] > 0
    outside = np.zeros_like(ink)
    outside[:, 0] = outside[:, -1] = outside[:, :, 0] = outside[:, :, -1] = True
    for _ in range(100):  # flood from the edge, through paper
        wider = outside.copy()
        wider[:, 1:] |= outside[:, :-1]
        wider[:, :-1] |= outside[:, 1:]
        wider[:, :, 1:] |= outside[:, :, :-1]
        wider[:, :, :-1] |= outside[:, :, 1:]
        wider &= ~ink
        if (wider == outside).all():
            break
        outside = wider
    return (~ink & ~outside).mean(axis=(1, 2)).astype(np.float32)


address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
with Client(address, timeout=300) as client:
    plain = client.sample("digits", n=16, seed=1)
    rings = client.sample("digits", n=16, score=holes, beta=0.01, seed=1)
    assert rings.rewards is not None
    print(f"enclosed: {holes(plain.samples).mean():.1%} of a plain digit, {rings.rewards.mean():.1%} of a steered one")
