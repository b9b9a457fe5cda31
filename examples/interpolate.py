"""Client developer: what lies between two digits, and the same steered toward a third; every line is the same again.

make serve                               # in one shell
.venv/bin/python examples/interpolate.py # in another
"""

import sys

import numpy as np

from tiltserve import Client, spherical

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def beside(images: np.ndarray) -> str:
    """Images [n, 1, 28, 28] of -1..1 side by side, as text."""
    ink = np.array([" ", ".", "+", "#"])[((images[:, 0, ::2, ::2] + 1) * 2).clip(0, 3).astype(int)]
    return "\n".join(" ".join("".join(row) for row in rows) for rows in zip(*ink, strict=True))


address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
with Client(address, timeout=120) as client:
    seven, zero = (
        client.sample("digits", n=1, reward="classifier", label=label, seed=2, deterministic=True) for label in (7, 0)
    )
    latents = client.encode("digits", np.concatenate([seven, zero])).samples  # as noise: mean about 0, deviation 1
    back = client.decode("digits", latents).samples
    print(f"there and back: {np.abs(back - np.concatenate([seven, zero])).max():.2g} off at most, of -1..1")

    between = np.concatenate([spherical(latents[:1], latents[1:], weight) for weight in WEIGHTS])
    plain = client.decode("digits", between)
    print("from a seven to a zero:", plain.samples_sha256, beside(plain.samples), sep="\n")
    for label in (7, 0):
        print(f"log p({label}):", client.score("classifier", plain, label=label).round(1))

    middle = between[2:3]
    three = client.decode("digits", middle, reward="classifier", label=3)
    plainly = client.score("classifier", plain.samples[2:3], label=3)
    assert three.rewards is not None
    print(f"the middle, steered: log p(3) {plainly[0]:.1f} -> {three.rewards[0]:.1f}", three.samples_sha256, sep="\n")
    print(beside(np.concatenate([plain.samples[2:3], three.samples])))
    again = client.decode("digits", middle, reward="classifier", label=3)
    print("again:", "the same bytes" if again.samples_sha256 == three.samples_sha256 else "other bytes")
