"""The bare network: its rows per second, and a judge of what is drawn with it."""

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks._peers.sampling import EVENT, session

SIZES = (1, 2, 4, 8, 16, 32)
ROUNDS = 3


def capacity(model: Path, threads: int, seconds: float = 0.3) -> tuple[float, int]:
    """Rows per second of ONNX Runtime alone at its best batch, and that batch.

    The median call of `seconds` for each batch, in the best of three rounds: a neighbour on the machine may spoil one.
    """
    network = session(model, threads)
    random = np.random.default_rng(0)
    speeds = dict.fromkeys(SIZES, 0.0)
    for _ in range(ROUNDS):
        for size in SIZES:
            feeds = {"x": random.standard_normal((size, *EVENT), np.float32), "t": np.full(size, 0.5, np.float32)}
            network.run(None, feeds)
            calls = []
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                start = time.perf_counter()
                network.run(None, feeds)
                calls.append(time.perf_counter() - start)
            speeds[size] = max(speeds[size], size / statistics.median(calls))
    best = max(speeds, key=lambda size: speeds[size])
    return speeds[best], best


def legible(judge: Path, samples: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Share of images [n, 1, 28, 28] that the judge reads as some digit with a confidence above 0.9."""
    network = onnxruntime.InferenceSession(str(judge), providers=["CPUExecutionProvider"])
    (log_probabilities,) = network.run(["log_probabilities"], {"x": samples})
    return float((log_probabilities.max(axis=1) > np.log(0.9)).mean())
