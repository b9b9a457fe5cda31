"""Memory of a server's parts: at rest, for each model, and for requests under way.

    make bench ARGS="memory"

One replica with the demo's models is asked for more and more samples at once, plain and steered. Prints the resident
memory of each process that keeps running (the largest of ten looks a second), and what the bytes of models add.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil

from benchmarks._load import Closed, Driver, Parameter, Request, infer_body
from benchmarks._server import MODELS, front, machine, processes, replicas, scrape
from deploy.process import Running, running_server

SECONDS = 12.0
LOADS: Mapping[str, tuple[int, dict[str, Parameter]]] = {
    "8 x 16 samples, plain": (8, {"samples": 16, "steps": 4}),
    "8 x 128 samples, plain": (8, {"samples": 128, "steps": 4}),
    "8 x 16 samples, steered by 16 particles": (
        8,
        {"samples": 16, "steps": 4, "reward": "classifier", "reward_label": 7, "particles": 16},
    ),
    "32 x 16 samples, steered by 16 particles": (
        32,
        {"samples": 16, "steps": 4, "reward": "classifier", "reward_label": 7, "particles": 16},
    ),
}


class Peak:
    """The largest resident memory of a process in bytes, while it is watched."""

    def __init__(self, pid: int) -> None:
        self._process, self._over = psutil.Process(pid), threading.Event()
        self.bytes = 0
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.bytes = max(self.bytes, self._process.memory_info().rss)

    @contextmanager
    def watched(self) -> Iterator["Peak"]:
        self._thread.start()
        yield self
        self._over.set()
        self._thread.join()


def mb(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def at_rest(server: Running) -> None:
    """What each part holds."""
    mine, workers = front(server).pid, {each.pid for each in replicas(server)}
    rest = 0
    for each in processes(server):
        held = each.memory_info().rss
        if each.pid == mine:
            print(f"front  {mb(held)}")
        elif each.pid in workers:
            print(f"replica, all models loaded  {mb(held)}")
        else:
            rest += held
    print(f"Ray and the command, together  {mb(rest)}")
    page = scrape(server)
    for name in sorted(server.models):
        if size := page.total("tiltserve_model_bytes", model=name):
            print(f"  model {name}: files and bank  {mb(size)}")


def main() -> None:
    """Run it."""
    print(machine())
    with running_server(MODELS, options=["--threads-per-replica", "2"]) as server, Driver() as driver:
        at_rest(server)
        (pid,) = (each.pid for each in replicas(server))
        for name, (clients, parameters) in LOADS.items():
            stream = [Request("", infer_body("digits", parameters | {"seed": seed})) for seed in range(64)]
            with Peak(pid).watched() as peak:
                records = driver.start(server.grpc, stream, Closed(clients), SECONDS).result()
            answered = sum(each.status == "OK" for each in records)
            print(f"replica under {name}: {mb(peak.bytes)} at most, {answered} of {len(records)} answered")
        time.sleep(2)
        print(f"replica afterwards  {mb(psutil.Process(pid).memory_info().rss)}")


if __name__ == "__main__":
    main()
