"""Latency of small jobs while large ones run, over the same job's latency on an idle server.

    make bench ARGS="short_among_long"

A job of 5 samples after another, on the demo's digit model with one replica, while 1, 2 and 4 clients keep jobs of 200
samples running; all of 20 steps. Once with equal priorities, once with `priority` 1 for the small ones. The idle
latency is measured before each line. What the large jobs lose is shown too.
"""

import math
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from benchmarks._load import LEFT, Closed, Driver, Parameter, Record, Request, infer_body, percentile
from benchmarks._server import MODELS, Growth, machine, scrape
from deploy.process import Running, running_server

SHORT, LONG, STEPS = 5, 200, 20
WARM_S = 2.0
AIM = 3.0


def jobs(kind: str, samples: int, solver: str, priority: int | None = None, count: int = 512) -> list[Request]:
    """So many jobs with seeds of their own."""
    common: dict[str, Parameter] = {"samples": samples, "steps": STEPS, "solver": solver}
    if priority is not None:
        common["priority"] = priority
    return [Request(kind, infer_body("digits", {**common, "seed": seed})) for seed in range(count)]


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
    """One line of the table: so many large clients beside the small one."""

    def __init__(self, server: Running, short: Driver, long: Driver, seconds: float, solver: str) -> None:
        self._server, self._short, self._long, self._seconds, self._solver = server, short, long, seconds, solver

    def idle(self) -> list[Record]:
        """Small jobs on an idle server."""
        stream = jobs("short", SHORT, self._solver)
        return checked(self._short.start(self._server.grpc, stream, Closed(1), self._seconds / 2).result())

    def run(self, clients: int, priority: int | None) -> tuple[list[Record], float, float]:
        """Small jobs among large ones, and the large ones' rows per second without and with them."""
        half = self._seconds / 2
        stream = jobs("long", LONG, self._solver)
        large = self._long.start(self._server.grpc, stream, Closed(clients), math.inf, finish=False)
        time.sleep(WARM_S)
        before = scrape(self._server)
        time.sleep(half)
        between = scrape(self._server)
        stream = jobs("short", SHORT, self._solver, priority)
        records = checked(self._short.start(self._server.grpc, stream, Closed(1), self._seconds).result())
        after = scrape(self._server)
        self._long.stop()
        checked(large.result())
        while scrape(self._server).total("tiltserve_backlog_rows"):
            time.sleep(0.2)
        return records, rows_of_long(Growth(before, between), []), rows_of_long(Growth(between, after), records)


def main(
    seconds: Annotated[float, typer.Option(help="Of small jobs for each line.")] = 60.0,
    clients: Annotated[list[int] | None, typer.Option(help="Large clients; again for more. [1, 2, 4]")] = None,
    threads: Annotated[int, typer.Option(help="Of the network.")] = 1,
    solver: str = "dpmpp_2m",
    option: Annotated[list[str] | None, typer.Option(help="Passed to `tiltserve serve`, as --option=--flag=x.")] = None,
) -> None:
    """Print the table."""
    print(
        f"{machine()}; {threads} thread{'s' * (threads > 1)}, {SHORT} among {LONG} samples, {STEPS} steps of {solver}"
    )
    print("latencies in seconds; network rows per second of the large jobs without and with small ones beside them")
    print(
        f"{'priority':8} {'large':>6} {'idle p50':>9} {'p99':>8} {'busy p50':>11} {'p99':>8} {'p50/p50':>9} "
        f"{'p99/p50':>8} {'p99/p99':>8} {'without':>10} {'with':>10} {'n':>5}"
    )
    worst: dict[str, float] = {}
    flags = [f"--threads-per-replica={threads}", *(option or [])]
    with running_server(MODELS, options=flags) as server, Driver() as short, Driver() as long:
        line = Line(server, short, long, seconds, solver)
        checked(short.once(server.grpc, jobs("short", SHORT, solver, count=3)))
        for priority in (None, 1):
            for number in clients or [1, 2, 4]:
                idle = [record.seconds for record in line.idle()]
                records, alone, beside = line.run(number, priority)
                busy = [record.seconds for record in records]
                base, tail, middle, high = (percentile(v, q) for v in (idle, busy) for q in (50, 99))
                name = "equal" if priority is None else str(priority)
                worst[name] = max(worst.get(name, 0.0), high / base)
                print(
                    f"{name:8} {number:6d} {base:9.3f} {tail:8.3f} {middle:11.3f} {high:8.3f} {middle / base:9.2f} "
                    f"{high / base:8.2f} {high / tail:8.2f} {alone:10.1f} {beside:10.1f} {len(busy):5d}",
                    flush=True,
                )
    for name, ratio in worst.items():
        print(f"priority {name}: worst p99 over idle median {ratio:.2f} (aim {AIM:g})")


if __name__ == "__main__":
    typer.run(main)
