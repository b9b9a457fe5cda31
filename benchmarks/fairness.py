"""In which order requests should be served: the real queue, simulated on tables of what calls cost.

    make bench ARGS="fairness"

Poisson arrivals of mixed requests at loads of 0.5 to 1.2 for one network, on two tables: a CPU's, where every row of a
call costs the same, and one like a GPU's, 5 ms a call and 0.2 ms a row. Load 1 is what calls of the best size do.
Slowdown is a request's latency over its own latency alone on the same table. Orders:

    least work      least seconds of work left first: what the engine does
    weighted work   least (work left x whole work) first, which is best for the mean slowdown in theory
    slowdown        highest (waited + left) / whole first
    sharing         least served rows first: processor sharing
    turns           256 rows each in the order in which they came, as the engine did before
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import typer

from serving.backends.costs import Costs
from serving.engine.scheduler import Order, Queue, Waiting, Work, least_work

SIZES = (*range(1, 17), *range(18, 33, 2), *range(36, 65, 4), *range(72, 129, 8), *range(144, 257, 16))
TABLES = {
    "cpu": Costs({size: 0.001 + 0.0045 * size for size in SIZES if size <= 64}),
    "gpu": Costs({size: 0.005 + 0.0002 * size for size in SIZES}),
}
Kind = tuple[int, int, float]
"""Steps, rows a step, and how often."""
MIXTURES: dict[str, Sequence[Kind]] = {
    "5..60 x 1..4": tuple((steps, rows, 1.0) for steps in (5, 10, 20, 40, 60) for rows in (1, 2, 4)),
    "5 x 1 | 200 x 1": ((5, 1, 20.0), (200, 1, 1.0)),
    "20 x 1 | 20 x 64": ((20, 1, 20.0), (20, 64, 1.0)),
    "steered | plain": ((20, 1, 10.0), (20, 33, 1.0), (40, 8, 2.0)),
}


def _sharing(waiting: Waiting["Job"], now: float) -> float:
    return waiting.served


ORDERS: dict[str, "Order[Job]"] = {
    "least work": least_work,
    "weighted work": lambda each, now: each.work.left * each.work.whole,
    "slowdown": lambda each, now: -(now - each.came + each.work.left) / each.work.whole,
    "sharing": _sharing,
    "turns": lambda each, now: each.served // 256,
}


@dataclass(eq=False)
class Job:
    """A request: `steps` evaluations of `rows` rows, one after another."""

    came: float
    steps: int
    rows: int
    alone: float
    missing: int = 0
    done: float = field(default=0.0)


def alone(steps: int, rows: int, costs: Costs) -> float:
    """Seconds of a request if nothing else runs: each evaluation in calls as the queue packs them."""
    seconds, queue = 0.0, Queue[int]()
    queue.add(0, rows, now=0.0)
    while queue:
        seconds += costs.seconds(queue.pack(0.0, costs).size)
    return steps * seconds


def arrivals(mixture: Sequence[Kind], load: float, seconds: float, costs: Costs, seed: int) -> list[Job]:
    rng = np.random.default_rng(seed)
    shares = np.array([often for *_, often in mixture]) / sum(often for *_, often in mixture)
    mean = sum(share * steps * rows * costs.row_s for share, (steps, rows, _) in zip(shares, mixture, strict=True))
    jobs, now = [], 0.0
    while (now := now + rng.exponential(mean / load)) < seconds:
        steps, rows, _ = mixture[rng.choice(len(mixture), p=shares)]
        jobs.append(Job(now, steps, rows, alone(steps, rows, costs)))
    return jobs


def served(jobs: Sequence[Job], costs: Costs, order: "Order[Job]") -> list[Job]:
    """Run the jobs through one queue, call after call."""
    queue, arriving, now = Queue[Job](order), iter(jobs), 0.0
    coming = next(arriving, None)
    left: dict[Job, int] = {}

    def add(job: Job) -> None:
        job.missing = job.rows
        queue.add(job, job.rows, now=now, work=Work(job.alone * left[job] / job.steps, job.alone))

    while coming is not None or queue:
        if not queue and coming is not None:
            now = max(now, coming.came)
        while coming is not None and coming.came <= now:
            left[coming] = coming.steps
            add(coming)
            coming = next(arriving, None)
        call = queue.pack(now, costs)
        now += costs.seconds(call.size)
        for each in call.slices:
            job = each.owner
            job.missing -= each.rows
            if job.missing:
                continue
            left[job] -= 1
            if left[job]:
                add(job)
            else:
                job.done = now
                queue.drop(job)
    return list(jobs)


def report(jobs: Sequence[Job], skipped: float) -> str:
    kept = [job for job in jobs if job.came > skipped]
    slowdown = np.array([(job.done - job.came) / job.alone for job in kept])
    latency = np.array([job.done - job.came for job in kept])
    least = min(job.alone for job in kept)
    small = slowdown[[job.alone <= 1.01 * least for job in kept]]
    return (
        f"{slowdown.mean():9.2f} {np.percentile(slowdown, 99):9.1f} {slowdown.max():9.1f} "
        f"{np.percentile(small, 99):10.2f} {np.percentile(latency, 99):11.2f} {latency.max():9.2f}"
    )


def main(
    seconds: Annotated[float, typer.Option(help="Simulated seconds of arrivals.")] = 240.0,
    load: Annotated[list[float] | None, typer.Option(help="[0.5, 0.8, 0.95, 1.2]")] = None,
    table: Annotated[list[str] | None, typer.Option(help="[cpu, gpu]")] = None,
    seed: int = 0,
) -> None:
    """Print the table."""
    head = f"{'mean':>9} {'p99':>9} {'worst':>9} {'small p99':>10} {'latency p99':>11} {'worst':>9}"
    for name, (mixture, kinds) in itertools.product(table or TABLES, MIXTURES.items()):
        for each in load or [0.5, 0.8, 0.95, 1.2]:
            print(f"\n{name}, {mixture}, load {each:g}; slowdowns, and latencies in seconds\n{'':16}{head}")
            for order, key in ORDERS.items():
                jobs = arrivals(kinds, each, seconds, TABLES[name], seed)
                print(f"{order:16}{report(served(jobs, TABLES[name], key), seconds / 10)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
