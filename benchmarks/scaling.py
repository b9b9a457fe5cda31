"""How throughput and latency grow with replicas: measured as far as the cores go, simulated up to a thousand.

    make bench ARGS="scaling"

Measured: 1, 2 and 4 replicas of one thread each under 32 clients a replica, digit model, no steering; efficiency is
rows per second over those of one replica times their number, or times the cores where there are fewer cores.

Simulated: time is made up, all else is real. Calls take what the digit model's calls were measured to (one thread);
each replica has the engine's own queue, requests are routed by the front's own rule from reports up to 1.5 s old.
Closed loops of 32 clients a replica show the most they do; latencies are those at 0.9 of what all replicas could do
at their best. The last columns are what scheduler and router themselves took of a real core, a call and a request.
"""

import heapq
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated

import psutil
import typer

from benchmarks._load import Closed, Driver, percentile
from benchmarks._server import MODELS, machine, scrape
from benchmarks.roofline import stream
from deploy.pages import Growth
from deploy.process import running_server
from serving.backends.costs import Costs
from serving.backends.ort import OrtNetwork
from serving.backends.profiling import measured
from serving.engine.scheduler import Queue
from serving.fleet.directory import ModelState, ReplicaState
from serving.front.router import Index, choose

BEAT_S, POLL_S = 1.0, 0.5
CLIENTS = 32
WARM_S = 5.0


def real(replicas: int, seconds: float, seed: int) -> float:
    """Network rows per second of so many replicas with one thread each."""
    flags = ["--threads-per-replica=1"]
    with Driver() as driver, running_server(MODELS, replicas=replicas, options=flags) as server:
        load = Closed(CLIENTS * replicas)
        loading = driver.start(server.grpc, stream(seed, False), load, 1e9, finish=False)
        time.sleep(WARM_S)
        before = scrape(server)
        time.sleep(seconds)
        growth = Growth(before, scrape(server))
        driver.stop()
        loading.result()
    return growth.of("tiltserve_rows_total", kind="network") / growth.seconds


@dataclass(eq=False)
class Job:
    """A request: `samples` rows for so many evaluations."""

    samples: int
    left: int
    arrived: float


@dataclass(eq=False)
class Replica:
    """A queue, a call under way or none, and what it last reported."""

    number: int
    queue: Queue[Job] = field(default_factory=Queue)
    missing: dict[Job, int] = field(default_factory=dict)
    backlog: int = 0
    busy: bool = False
    reported: int = 0
    sent: int = 0


class Fleet:
    """A discrete-event simulation. `events` holds (time, number, what happens)."""

    def __init__(self, replicas: int, costs: Costs, seed: int) -> None:
        self.costs, self.rng = costs, random.Random(seed)
        self.replicas = [Replica(number) for number in range(replicas)]
        self.model = ModelState("digits", "1", "sampler", "READY", fingerprint="f")
        self.index = Index()
        self.unreported: dict[str, int] = {}
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = count()
        self.now, self.rows, self.calls, self.requests = 0.0, 0, 0, 0
        self.latencies: list[float] = []
        self.scheduling = self.routing = 0.0
        self.ended: Callable[[], None] = lambda: None
        for replica in self.replicas:
            self.at(self.rng.random() * BEAT_S, lambda replica=replica: self.beat(replica))  # type: ignore[misc]
        self.poll()

    def at(self, when: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), happens))

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, happens = heapq.heappop(self.events)
            happens()
        self.now = until

    def beat(self, replica: Replica) -> None:
        """A replica tells the directory its backlog."""
        replica.reported, replica.sent = replica.backlog, 0
        self.at(self.now + BEAT_S, lambda: self.beat(replica))

    def poll(self) -> None:
        """The front reads the directory; what it has sent since a replica's report is not in that."""
        self.index = Index.of(
            ReplicaState(str(each.number), "", 0, (self.model,), each.reported) for each in self.replicas
        )
        self.unreported = {str(each.number): each.sent for each in self.replicas if each.sent}
        self.at(self.now + POLL_S, self.poll)

    def arrive(self) -> None:
        """A request, routed and taken on."""
        job = Job(self.rng.randint(1, 4), self.rng.randint(5, 60), self.now)
        start = time.perf_counter()
        route = choose(self.index, "digits", unreported=lambda key: self.unreported.get(key, 0), rng=self.rng)
        self.routing += time.perf_counter() - start
        self.requests += 1
        chosen = route.replica.id
        replica = self.replicas[int(chosen)]
        rows = job.samples * job.left
        replica.backlog += rows
        replica.sent += rows
        self.unreported[chosen] = self.unreported.get(chosen, 0) + rows
        self.wait(replica, job)
        self.serve(replica)

    def wait(self, replica: Replica, job: Job) -> None:
        replica.missing[job] = job.samples
        replica.queue.add(job, job.samples, now=self.now)

    def serve(self, replica: Replica) -> None:
        """Start the next call, if none runs."""
        if replica.busy or not replica.queue:
            return
        start = time.perf_counter()
        call = replica.queue.pack(self.now, self.costs)
        self.scheduling += time.perf_counter() - start
        replica.busy = True
        self.calls += 1

        def done() -> None:
            replica.busy = False
            for part in call.slices:
                self.deliver(replica, part.owner, part.rows)
            self.serve(replica)

        self.at(self.now + self.costs.seconds(call.size), done)

    def deliver(self, replica: Replica, job: Job, rows: int) -> None:
        self.rows += rows
        replica.backlog -= rows
        replica.missing[job] -= rows
        if replica.missing[job]:
            return
        job.left -= 1
        if job.left:
            self.wait(replica, job)
            return
        replica.queue.drop(job)
        del replica.missing[job]
        self.latencies.append(self.now - job.arrived)
        self.ended()

    def poisson(self, rate: float) -> None:
        """Arrivals for ever."""

        def one() -> None:
            self.arrive()
            self.at(self.now + self.rng.expovariate(rate), one)

        self.at(self.rng.expovariate(rate), one)

    def closed(self, clients: int) -> None:
        """So many clients, each with one request under way."""
        self.ended = self.arrive
        for _ in range(clients):
            self.at(self.rng.random(), self.arrive)


MEAN_ROWS = 2.5 * 32.5


def simulated(replicas: int, costs: Costs, seconds: float, seed: int) -> str:
    """One line of the table."""
    best = replicas / costs.row_s
    whole = Fleet(replicas, costs, seed)
    whole.closed(CLIENTS * replicas)
    whole.run(WARM_S)
    before = whole.rows
    whole.run(WARM_S + seconds)
    most = (whole.rows - before) / seconds
    open_loop = Fleet(replicas, costs, seed)
    open_loop.poisson(0.9 * best / MEAN_ROWS)
    open_loop.run(4 * WARM_S)
    open_loop.latencies.clear()
    open_loop.run(4 * WARM_S + seconds)
    backlogs = [replica.backlog for replica in open_loop.replicas]
    uneven = max(backlogs) / max(1.0, statistics.mean(backlogs))
    return (
        f"{replicas:8d}  {most:9.0f}  {most / best:10.3f}  {percentile(open_loop.latencies, 50):7.2f}  "
        f"{percentile(open_loop.latencies, 99):7.2f}  {uneven:12.2f}  "
        f"{1e6 * open_loop.scheduling / open_loop.calls:9.0f}  {1e6 * open_loop.routing / open_loop.requests:9.0f}"
    )


def main(
    seconds: Annotated[float, typer.Option(help="Measured, and simulated, for so long.")] = 20.0,
    replicas: Annotated[list[int] | None, typer.Option(help="Measured; again for more. [1, 2 and 4]")] = None,
    fleets: Annotated[list[int] | None, typer.Option(help="Simulated; again for more. [1 to 1,000]")] = None,
    seed: int = 0,
) -> None:
    """Print both tables."""
    cores = psutil.cpu_count() or 1
    print(machine())
    print("\nmeasured, one thread a replica\nreplicas     rows/s  efficiency")
    one = 0.0
    for number in replicas or (1, 2, 4):
        rate = real(number, seconds, seed)
        one = one or rate
        print(f"{number:8d}  {rate:9.1f}  {rate / one / min(number, cores):10.3f}", flush=True)
    costs = measured(OrtNetwork(MODELS / "digits" / "1" / "model.onnx", 1), 256)
    print(f"\nsimulated; {1 / costs.row_s:.0f} rows/s a replica at best, calls of up to {costs.largest} rows")
    print("replicas     rows/s  efficiency  p50 (s)  p99 (s)  largest/mean  us a call  us a choice")
    for number in fleets or (1, 2, 4, 16, 64, 256, 1000):
        print(simulated(number, costs, seconds, seed), flush=True)


if __name__ == "__main__":
    typer.run(main)
