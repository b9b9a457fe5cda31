"""Requests per second of one row of `digits.network`: through the front, at a replica's own address, and from KServe.

    make bench ARGS="raw_rate"

KServe's Python server runs the same graph in ONNX Runtime with the same options, a request at a time and without a hop.
Its packages are installed in an environment of its own on first use. The systems take turns, so that what else the
machine does falls on each; the table has the medians.
"""

import contextlib
import statistics
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import typer

from benchmarks._load import Closed, Driver, Request, infer_body, percentile
from benchmarks._peers.systems import MODELS, Batching, peer
from benchmarks._server import machine, replica_address
from deploy.process import running_server

ROW = {"x": np.zeros((1, 1, 28, 28), np.float32), "t": np.full(1, 0.5, np.float32)}
WARM_S = 1.0


@contextlib.contextmanager
def addresses(threads: int) -> Iterator[dict[str, str]]:
    """Where each system listens, while all of them run."""
    with (
        running_server(MODELS, replicas=1, options=[f"--threads-per-replica={threads}"]) as server,
        peer("kserve", Batching("grouped", 0, 0.0), threads) as kserve,
    ):
        yield {
            "tiltserve": server.grpc,
            "tiltserve, direct": replica_address(server),
            "KServe": kserve.target.address,
        }


def main(
    seconds: Annotated[float, typer.Option(help="Of each line.")] = 5.0,
    rounds: Annotated[int, typer.Option(help="Turns of each system.")] = 5,
    clients: Annotated[list[int] | None, typer.Option(help="Again for more. [1, 8, 32]")] = None,
    threads: Annotated[int, typer.Option(help="Of the network.")] = 1,
) -> None:
    """Print medians of the rounds; latencies are in milliseconds."""
    print(machine())
    print(f"{'system':20} {'clients':>8} {'requests/s':>11} {'p50':>8} {'p99':>8}")
    call = Request("raw row", infer_body("digits.network", {}, ROW))
    with addresses(threads) as systems, Driver() as driver:
        for n in clients or [1, 8, 32]:
            seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in systems}
            for _ in range(rounds):
                for name, address in systems.items():
                    driver.start(address, [call], Closed(n), WARM_S).result()
                    records = driver.start(address, [call], Closed(n), seconds).result()
                    failed = [record for record in records if record.status != "OK"]
                    if failed:
                        raise RuntimeError(f"{name}: a request failed: {failed[0].status}: {failed[0].detail}")
                    span = max(record.ended for record in records) - min(record.sent for record in records)
                    latency = [1000 * record.seconds for record in records]
                    seen[name].append((len(records) / span, percentile(latency, 50), percentile(latency, 99)))
            for name, lines in seen.items():
                rate, middle, tail = (statistics.median(column) for column in zip(*lines, strict=True))
                print(f"{name:20} {n:8d} {rate:11.0f} {middle:8.2f} {tail:8.2f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
