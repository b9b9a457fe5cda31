"""Latency of small requests while large ones run, over the same request's latency on an idle server.

    make bench ARGS="short_among_long"

Small requests, one after another, on the demo's digit model with one replica, while clients keep large ones running at
the same priority: large by their steps, samples, steered particles, roll-outs, or likelihood probes, and all of them at
once. The promise is: a small request's 99th percentile is at most 3 times its idle median. The idle latency is measured
before each line; what the large requests lose is shown too.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks._load import LEFT, Closed, Driver, Parameter, Record, Request, infer_body, percentile
from benchmarks._server import MODELS, machine, scrape
from deploy.pages import Growth
from deploy.process import Running, running_server

WARM_S = 2.0
AIM = 3.0
Inputs = Mapping[str, NDArray[Any]]
STEERED: dict[str, Parameter] = {"reward": "classifier", "reward_label": 7}
IMAGES: Inputs = {"x_init": np.random.default_rng(0).uniform(-1, 1, (16, 1, 28, 28)).astype(np.float32)}
SMALL: dict[str, dict[str, Parameter]] = {
    "5x1": {"steps": 5, "samples": 1},
    "20x5": {"steps": 20, "samples": 5},
    "20x1": {"steps": 20, "samples": 1},
}
"""Steps and samples of a small request."""
LARGE: dict[str, tuple[dict[str, Parameter], Inputs]] = {
    "steps": ({"steps": 200, "samples": 1}, {}),
    "samples": ({"steps": 20, "samples": 200}, {}),
    "particles": ({"steps": 40, "samples": 16, "particles": 64, **STEERED}, {}),
    "roll-outs": ({"steps": 10, "samples": 2, "particles": 8, "posterior": "rollout", **STEERED}, {}),
    "likelihood": ({"steps": 20, "samples": 16, "likelihood": "data", "probes": 16}, IMAGES),
}
"""Large requests by what makes them large; the mixture `all` has one client for each."""


def jobs(
    name: str, parameters: Mapping[str, Parameter], inputs: Inputs | None = None, count: int = 512
) -> list[Request]:
    """`count` requests with seeds of their own."""
    return [Request(name, infer_body("digits", {**parameters, "seed": seed}, inputs)) for seed in range(count)]


def large(mixture: str) -> list[Request]:
    """The stream that large clients send in turn."""
    names = list(LARGE) if mixture == "all" else [mixture]
    streams = [jobs(name, *LARGE[name], count=64) for name in names]
    return [request for together in zip(*streams, strict=True) for request in together]


def checked(records: Sequence[Record]) -> list[Record]:
    """The records of answered calls; RuntimeError if a call failed."""
    for record in records:
        if record.status not in ("OK", LEFT):
            raise RuntimeError(f"a {record.kind} request failed: {record.status}: {record.detail}")
    return [record for record in records if record.status == "OK"]


def rows_of_long(growth: Growth, short: Sequence[Record]) -> float:
    """Network rows per second of the large jobs: all rows but those of the small jobs answered meanwhile."""
    mine = sum(record.rows for record in short if growth.before.at <= record.ended <= growth.after.at)
    return (growth.of("tiltserve_rows_total", kind="network") - mine) / growth.seconds


class Line:
    """One line of the table: large clients beside one small client."""

    def __init__(self, server: Running, short: Driver, long: Driver, seconds: float, small: str) -> None:
        self._server, self._short, self._long, self._seconds = server, short, long, seconds
        self._stream = jobs("small", SMALL[small])

    def idle(self) -> list[Record]:
        """Small requests on an idle server."""
        return checked(self._short.start(self._server.grpc, self._stream, Closed(1), self._seconds / 2).result())

    def run(self, mixture: str, clients: int) -> tuple[list[Record], float, float]:
        """Small requests among large ones, and the large ones' rows per second without and with them."""
        running = self._long.start(self._server.grpc, large(mixture), Closed(clients), math.inf, finish=False)
        time.sleep(WARM_S)
        before = scrape(self._server)
        time.sleep(self._seconds / 2)
        between = scrape(self._server)
        records = checked(self._short.start(self._server.grpc, self._stream, Closed(1), self._seconds).result())
        after = scrape(self._server)
        self._long.stop()
        checked(running.result())
        while scrape(self._server).total("tiltserve_backlog_rows"):
            time.sleep(0.2)
        return records, rows_of_long(Growth(before, between), []), rows_of_long(Growth(between, after), records)


def main(
    seconds: Annotated[float, typer.Option(help="Of small requests for each line.")] = 20.0,
    clients: Annotated[int, typer.Option(help="Large clients.")] = 4,
    small: Annotated[list[str] | None, typer.Option(help=f"Among {', '.join(SMALL)}. [5x1, 20x5]")] = None,
    mixture: Annotated[list[str] | None, typer.Option(help=f"Among {', '.join(LARGE)}, all. [all of these]")] = None,
    threads: Annotated[int, typer.Option(help="Of the network.")] = 1,
    option: Annotated[list[str] | None, typer.Option(help="Passed to `tiltserve serve`, as --option=--flag=x.")] = None,
) -> None:
    """Print the table."""
    print(f"{machine()}; {threads} thread{'s' * (threads > 1)}, {clients} large clients; latencies in seconds")
    print("network rows per second of the large requests without small ones and with them")
    print(
        f"{'small':6} {'large by':11} {'idle p50':>9} {'busy p50':>9} {'p99':>8} {'p50/p50':>8} {'p99/p50':>8} "
        f"{'without':>9} {'with':>9} {'n':>5}"
    )
    worst = 0.0
    flags = [f"--threads-per-replica={threads}", *(option or [])]
    with running_server(MODELS, options=flags) as server, Driver() as short, Driver() as long:
        for name in LARGE:
            checked(long.once(server.grpc, jobs(name, *LARGE[name], count=1)))  # a bank is scored once
        for size in small or ["5x1", "20x5"]:
            line = Line(server, short, long, seconds, size)
            for each in mixture or [*LARGE, "all"]:
                base = percentile([record.seconds for record in line.idle()], 50)
                records, alone, with_small = line.run(each, clients)
                busy = [record.seconds for record in records]
                middle, high = percentile(busy, 50), percentile(busy, 99)
                worst = max(worst, high / base)
                print(
                    f"{size:6} {each:11} {base:9.3f} {middle:9.3f} {high:8.3f} {middle / base:8.2f} "
                    f"{high / base:8.2f} {alone:9.1f} {with_small:9.1f} {len(busy):5d}",
                    flush=True,
                )
    print(f"worst p99 over idle median {worst:.2f} (aim {AIM:g})")


if __name__ == "__main__":
    typer.run(main)
