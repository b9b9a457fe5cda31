"""What watching requests costs: one raw row of `digits.network`, eight clients, with access log and traces on and off.

    make bench ARGS="watching_cost"

A front and a replica in one process for each way of watching, measured one after another in short rounds, so that what
else the machine does falls on all. Spans go to a collector in the process of the benchmark, lines to /dev/null. CPU is
what front and replica take for a request: other programs change it less than requests a second.
"""

import asyncio
import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Annotated, Literal, NamedTuple

import numpy as np
import psutil
import typer

from benchmarks._load import Closed, Driver, Request, infer_body, percentile
from benchmarks._server import MODELS, machine
from tests.serving.collector import Collector

CLIENTS = 8
INPUTS = {"x": np.ones((1, 1, 28, 28), np.float32), "t": np.full(1, 0.5, np.float32)}
ROW = Request("row", infer_body("digits.network", {}, INPUTS))


class Way(NamedTuple):
    """How requests are watched; no ratio: no traces."""

    access_log: bool = False
    form: Literal["text", "json"] = "text"
    ratio: float | None = None


WAYS = {
    "nothing": Way(),
    "access log": Way(access_log=True),
    "access log, json": Way(access_log=True, form="json"),
    "traces of 1%": Way(ratio=0.01),
    "traces of all": Way(ratio=1.0),
    "all of it, json": Way(True, "json", 1.0),
}


def serve(way: Way, collector: str, told: Connection) -> None:
    """A front and a replica until the other end of `told` is closed; says where the front listens."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    asyncio.run(_serve(way, collector, told))


async def _serve(way: Way, collector: str, told: Connection) -> None:
    from serving.fleet.directory import LocalDirectory
    from serving.front.server import Front
    from serving.replica import Replica
    from serving.watching import logs
    from serving.watching.spans import Spans, otlp
    from serving.watching.watching import Watching

    def watching(part: str) -> Watching:
        spans = None if way.ratio is None else Spans(otlp(collector), way.ratio, part=part)
        return Watching(access_log=way.access_log and part == "front", spans=spans)

    logs.configure("info", way.form)
    directory = LocalDirectory()
    replica = Replica(MODELS, directory, drain_s=1.0, watching=watching("replica"))
    front = Front(directory, drain_s=1.0, watching=watching("front"))
    await replica.start()
    await front.start()
    told.send(front.grpc_address)
    with contextlib.suppress(EOFError):
        await asyncio.to_thread(told.recv)
    await front.stop()
    await replica.stop()


@contextlib.contextmanager
def serving(way: Way, collector: str) -> Iterator[tuple[str, psutil.Process]]:
    """Where such a front listens, and its process."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(way, collector, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here.recv(), psutil.Process(process.pid)
    finally:
        here.close()
        process.join(20)


def measure(address: str, server: psutil.Process, driver: Driver, seconds: float) -> tuple[float, float, float]:
    """Requests a second, the median latency in ms, and CPU milliseconds of front and replica a request."""
    begin, used = time.monotonic(), sum(server.cpu_times()[:2])
    records = driver.start(address, [ROW], Closed(CLIENTS), seconds).result()
    took, used = time.monotonic() - begin, sum(server.cpu_times()[:2]) - used
    failed = [record for record in records if record.status != "OK"]
    if failed:
        raise RuntimeError(f"a request failed: {failed[0].status}: {failed[0].detail}")
    latency = percentile([1000 * record.seconds for record in records], 50)
    return len(records) / took, latency, 1000 * used / len(records)


def main(
    seconds: Annotated[float, typer.Option(help="Of each round of each way.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="How often each is measured.")] = 7,
) -> None:
    """Print the median over the rounds for each way of watching."""
    collector = Collector()
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in WAYS}
    with contextlib.ExitStack() as held:
        servers = {name: held.enter_context(serving(way, collector.address)) for name, way in WAYS.items()}
        driver = held.enter_context(Driver())
        for address, process in servers.values():
            measure(address, process, driver, 1.0)
        for _ in range(rounds):
            for name, (address, process) in servers.items():
                found[name].append(measure(address, process, driver, seconds))
    collector.stop()
    print(machine())
    print(f"{'watched':18} {'requests/s':>11} {'p50 ms':>8} {'CPU ms':>8}")
    for name, each in found.items():
        rate, latency, used = (float(np.median([one[i] for one in each])) for i in range(3))
        print(f"{name:18} {rate:11.0f} {latency:8.2f} {used:8.3f}")
    print(f"{len(collector.spans)} spans came")


if __name__ == "__main__":
    typer.run(main)
