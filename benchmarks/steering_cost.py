"""What steering costs in wall time: plain requests beside steered ones, through the server.

    make bench ARGS=steering_cost

The digit model, 16 samples a request, 20 network rows a sample, 32 particles, a built-in reward (`linear`, so no reward
network runs). Requests alternate, one at a time; the figure is the ratio of medians.
"""

import statistics
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from deploy.process import running_server
from tiltserve import Client

MODELS = Path(__file__).resolve().parents[1] / "deploy" / "models"


def main(rounds: Annotated[int, typer.Option(min=3)] = 15, samples: int = 16, replicas: int = 1, seed: int = 1) -> None:
    """Print the two medians and their ratio."""
    direction = np.linspace(-0.1, 0.1, 784, dtype=np.float32).reshape(1, 28, 28)
    steered: dict[str, Any] = {"reward": "linear", "direction": direction, "particles": 32}
    with running_server(MODELS, replicas=replicas) as server, Client(server.grpc) as client:
        client.sample("digits", samples)
        client.sample("digits", samples, **steered)  # scores the bank
        pairs = []
        for request in range(seed, seed + rounds):
            plain = client.sample("digits", samples, seed=request)
            pairs.append((plain, client.sample("digits", samples, seed=request, **steered)))
    times = [statistics.median(each.seconds for each in column) for column in zip(*pairs, strict=True)]
    rows = statistics.mean(tilted.reward_rows / samples for _, tilted in pairs)
    print(f"{samples} samples, {replicas} replica(s), {rounds} rounds, medians; {rows:.0f} reward rows a sample")
    print(f"plain {times[0]:.3f} s   steered {times[1]:.3f} s   ratio {times[1] / times[0]:.3f}")


if __name__ == "__main__":
    typer.run(main)
