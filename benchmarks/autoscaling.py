"""Replicas that follow what waits: more are started under load and drained after it, and no request is lost.

    make bench ARGS="autoscaling"

One replica of the digit model, which may become two (`--max-replicas 2`, of one thread each), is asked by many clients
for a minute, and then by one, whose requests run while a replica is drained. Each request has a fixed seed; its answer
is compared by bytes with that of the idle server. Prints when how many replicas there were, and how the requests ended;
exits with 1 if one was lost or answered otherwise, or the number did not follow.
"""

import math
import threading
import time
from collections import Counter
from concurrent.futures import Future
from typing import Annotated

import typer

from benchmarks._load import Closed, Driver, Record, Request, infer_body, percentile
from benchmarks._server import MODELS, machine, replicas
from deploy.process import Running, running_server

BODIES, LOOK_S = 24, 0.5
OPTIONS = (
    "--threads-per-replica", "1", "--max-replicas", "2", "--target-backlog-seconds", "2", "--scale-out-seconds", "3",
    "--scale-in-seconds", "15",
)  # fmt: skip


class Watch:
    """Sees how many replicas there are, until it is left."""

    def __init__(self, server: Running) -> None:
        self._server, self._over = server, threading.Event()
        self.seen: list[tuple[float, int]] = []
        self.began = time.monotonic()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            there = replicas(self._server)
            count = sum(not each.draining for each in there)
            if not self.seen or self.seen[-1][1] != count:
                self.seen.append((time.monotonic(), count))
                print(f"{time.monotonic() - self.began:6.1f} s  {count} replicas", flush=True)

    def first(self, count: int, after: float) -> float:
        """Seconds after a time until there were so many; not a number if there never were."""
        return next((at - after for at, seen in self.seen if seen == count and at >= after), math.nan)


def stream() -> list[Request]:
    """Requests with seeds of their own."""
    drawn = [{"samples": 4, "steps": 20, "seed": seed} for seed in range(BODIES)]
    return [Request("drawn", infer_body("digits", each), tag=seed) for seed, each in enumerate(drawn)]


def main(
    clients: Annotated[int, typer.Option(help="Under load.")] = 48,
    loaded: Annotated[float, typer.Option(metavar="S", help="How long.")] = 60.0,
    quiet: Annotated[float, typer.Option(metavar="S", help="How long one client asks afterwards.")] = 60.0,
) -> None:
    """Run it."""
    print(machine())
    with running_server(MODELS, options=OPTIONS) as server, Driver() as driver:
        requests = stream()
        right = {each.tag: each.digest for each in driver.once(server.grpc, requests)}
        with Watch(server) as watch:
            began = time.monotonic()
            many: Future[list[Record]] = driver.start(server.grpc, requests, Closed(clients), loaded)
            records = many.result()
            eased = time.monotonic()
            records += driver.start(server.grpc, requests, Closed(1), quiet).result()
    out, back = watch.first(2, began), watch.first(1, eased)
    ends = Counter(each.status for each in records)
    wrong = sum(each.status == "OK" and each.digest != right[each.tag] for each in records)
    slowest = percentile([each.seconds for each in records], 100)
    print(f"1 -> 2 replicas {out:.0f} s after the load began, 2 -> 1 {back:.0f} s after it ended")
    print(f"{len(records)} requests: {dict(ends)}, {wrong} with other bytes; the slowest took {slowest:.1f} s")
    if math.isnan(out) or math.isnan(back) or ends.keys() != {"OK"} or wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
