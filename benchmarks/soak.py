"""Overload with deadlines, cancel storms, bad requests and killed replicas: nothing is lost, leaked or wrong.

    make bench ARGS="soak --minutes 30"

Two replicas of the demo's models under Poisson arrivals of 1.2 times what they were just seen to answer; four fifths of
the requests have deadlines of 1 to 8 s, every twelfth leaves early (it cancels, or its connection drops), and every
twentieth is bad. In turns, a storm of 64 clients cancels everything it asks for, or is killed itself with its calls
running; and a replica is killed, but never the eldest, whose memory is watched. 60 requests with fixed seeds are
answered by the idle server first, and every later answer is compared with theirs by bytes. Prints what was seen, and
a verdict for each claim; exits with 1 if one fails.
"""

import contextlib
import math
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import numpy as np
import psutil
import typer

from benchmarks._hostile import Bad, bad, good
from benchmarks._load import LEFT, Closed, Driver, Open, Record, Request, infer_body, percentile
from benchmarks._server import MODELS, front, machine, processes, replicas, scrape
from benchmarks._verdicts import SLACK, Verdicts, judge_rest, judge_series, judge_wrong, settled
from deploy.process import Running, running_server

BODIES, REPLICAS, QUEUE_ROWS = 60, 2, 4000
OVERLOAD = 1.2
DEADLINES = (1.0, 2.0, 4.0, 8.0)
STORM_CLIENTS, STORM_S = 64, 3.0
BACK_S = 60.0
FLAT = 0.05
"""Growth of a process's memory over the last two thirds of the run that passes for flat."""
PATIENCE_S = 120.0
FINE = {
    "hurried": {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", LEFT},
    "patient": {"OK", "RESOURCE_EXHAUSTED", LEFT},  # the queue is bounded: whoever waits is answered
}
"""How good requests with and without a deadline may end."""


@dataclass(frozen=True)
class Sample:
    """What was seen at a moment, `at` in minutes: memory in MB of the front and of the eldest replica, and counts."""

    at: float
    front_mb: float
    replica_mb: float
    descriptors: int
    threads: int
    connections: int
    series: int
    backlog: float


class Watch:
    """Looks at the front and at the eldest replica."""

    def __init__(self, server: Running) -> None:
        self._server, self._begin = server, time.monotonic()
        self._front = front(server)
        self.elder = min(replicas(server), key=lambda each: psutil.Process(each.pid).create_time()).pid
        self._elder = psutil.Process(self.elder)
        self.samples: list[Sample] = []

    def look(self) -> Sample:
        page = scrape(self._server)
        links = [each for each in self._front.net_connections("tcp") if each.status == psutil.CONN_ESTABLISHED]
        return Sample(
            (time.monotonic() - self._begin) / 60,
            self._front.memory_info().rss / 2**20,
            self._elder.memory_info().rss / 2**20,
            self._front.num_fds(),
            self._front.num_threads(),
            len(links),
            len(page.values),
            page.total("tiltserve_backlog_rows"),
        )

    def note(self) -> None:
        """Keep and print a look."""
        now = self.look()
        self.samples.append(now)
        print(
            f"{now.at:7.2f} {now.front_mb:9.1f} {now.replica_mb:11.1f} {now.descriptors:5d} {now.threads:8d} "
            f"{now.connections:6d} {now.series:7d} {now.backlog:8.0f}",
            flush=True,
        )


def stream(bodies: Sequence[bytes], wrong: Sequence[Bad], seed: int, count: int = 6000) -> list[Request]:
    """What the clients send; a good request's tag is its number among the bodies, a bad one's that among `wrong`."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        if rng.random() < 1 / 20:
            tag = int(rng.integers(len(wrong)))
            made.append(Request("bad", wrong[tag].body, tag, timeout=30.0, method=wrong[tag].method))
            continue
        tag = int(rng.integers(len(bodies)))
        kind, timeout = ("hurried", float(rng.choice(DEADLINES))) if rng.random() < 0.8 else ("patient", PATIENCE_S)
        leaves = float(rng.uniform(0.02, 1.5)) if rng.random() < 1 / 12 else None
        closes = leaves is not None and bool(rng.random() < 0.5)
        made.append(Request(kind, bodies[tag], tag, timeout, leaves, closes))
    return made


def storm(server: Running, vanish: bool, seed: int) -> None:
    """Many clients at once that cancel all they ask for, or whose process is killed with everything running."""
    rng = np.random.default_rng(seed)
    requests = [
        Request("storm", infer_body("digits", {"samples": 8, "steps": 50, "seed": number}), leaves=leaves)
        for number, leaves in enumerate(rng.uniform(0.0, 0.3, 256).tolist())
    ]
    if not vanish:
        with Driver() as driver:
            driver.start(server.grpc, requests, Closed(STORM_CLIENTS), STORM_S).result()
        return
    requests = [Request("storm", each.body) for each in requests]
    with Driver() as driver:
        running = driver.start(server.grpc, requests, Closed(STORM_CLIENTS), math.inf)
        time.sleep(STORM_S / 2)
        os.kill(driver.pid, signal.SIGKILL)
        with contextlib.suppress(BrokenProcessPool):
            running.result()


def kill_one(server: Running, elder: int) -> float:
    """Kill a replica other than the eldest; the seconds until there are as many again, infinite if too many."""
    victims = [each.pid for each in replicas(server) if each.pid != elder]
    begin = time.monotonic()
    for pid in victims[:1]:
        os.kill(pid, signal.SIGKILL)
    while time.monotonic() < begin + BACK_S:
        ready = [each for each in replicas(server) if each.pid not in victims[:1] and "digits" in each.fingerprints]
        if len(ready) == REPLICAS:
            return time.monotonic() - begin
        time.sleep(0.5)
    return math.inf


def events(minutes: float) -> Iterator[tuple[float, str]]:
    """What happens when, in seconds: a look, a storm or a kill."""
    seconds = 60 * minutes
    every = {"look": min(60.0, seconds / 24), "storm": min(45.0, seconds / 6), "kill": min(180.0, seconds / 3)}
    times = [
        (number * gap if name == "look" else (number + 0.5) * gap, name)
        for name, gap in every.items()
        for number in range(math.ceil(seconds / gap))
    ]
    yield from sorted(times)


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen's: the median slope between two samples (x, y)."""
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(samples, 2))


def judge_answers(
    verdicts: Verdicts, records: Sequence[Record], wrong: Sequence[Bad], truth: Mapping[int, str]
) -> None:
    """Claims about what clients were told."""
    mine = [record for record in records if record.kind in FINE]
    answered = [record for record in mine if record.status == "OK"]
    differing = [record for record in answered if record.digest != truth[record.tag]]
    verdicts.claim(
        "every answer has the bytes of the idle server's", bool(answered) and not differing,
        f"{len(answered)} compared, {len(differing)} differ",
    )  # fmt: skip
    others = [record for record in mine if record.status not in FINE[record.kind]]
    texts = Counter(f"{record.kind} {record.status}: {record.detail[:120]}" for record in others)
    verdicts.claim(
        "good requests end answered, refused, past a deadline of theirs, or left by their client", not others,
        f"{dict(Counter(record.status for record in mine))} {dict(texts.most_common(3)) or ''}",
    )  # fmt: skip
    judge_wrong(verdicts, records, wrong)


def judge_memory(verdicts: Verdicts, samples: Sequence[Sample]) -> None:
    """Claims about the processes that lived from beginning to end."""
    late = samples[len(samples) // 3 :]
    minutes = late[-1].at - late[0].at
    for name in ("front", "replica"):
        values = [(each.at, float(getattr(each, f"{name}_mb"))) for each in late]
        growth = slope(values) * minutes
        middle = statistics.median(value for _, value in values)
        verdicts.claim(
            f"memory of the {'front' if name == 'front' else 'eldest replica'} is flat", growth < FLAT * middle,
            f"{slope(values):+.2f} MB a minute, {growth:+.1f} MB in the last {minutes:.1f} minutes, of {middle:.0f}",
        )  # fmt: skip


def judge_idle(verdicts: Verdicts, before: Sample, after: Sample, idle: tuple[float, float]) -> None:
    """Claims about the server once everybody is gone."""
    judge_rest(verdicts, idle)
    for name in ("descriptors", "threads", "connections"):
        old, new = getattr(before, name), getattr(after, name)
        verdicts.claim(f"the front's {name} are back", new <= old + SLACK, f"{old} before, {new} after")


def main(
    minutes: Annotated[float, typer.Option(min=1.0)] = 30.0,
    seed: int = 0,
    option: Annotated[list[str] | None, typer.Option(help="Passed to `tiltserve serve`, as --option=--flag=x.")] = None,
) -> None:
    """Print the soak's course and its verdicts."""
    bodies, wrong, verdicts = good(BODIES, seed), bad(QUEUE_ROWS), Verdicts()
    flags = ["--threads-per-replica=1", f"--max-queue-rows={QUEUE_ROWS}", *(option or [])]
    references = [Request("patient", body, tag) for tag, body in enumerate(bodies)]
    with running_server(MODELS, replicas=REPLICAS, options=flags) as server, Driver() as driver:
        first = driver.once(server.grpc, references)
        if failed := [record for record in first if record.status != "OK"]:
            raise RuntimeError(f"a reference failed: {failed[0].status}: {failed[0].detail}")
        truth = {record.tag: record.digest for record in first}
        begin = time.monotonic()
        ended = driver.start(server.grpc, references, Closed(16), min(20.0, 10 * minutes)).result()
        capacity = len(ended) / (time.monotonic() - begin)
        print(
            f"{machine()}; {REPLICAS} replicas, {capacity:.1f} requests/s, {minutes:g} minutes at {OVERLOAD} times that"
        )
        watch = Watch(server)
        settled(server, REPLICAS)
        before = watch.look()
        print("minutes  front MB  replica MB   fds  threads  links  series  backlog")
        arrivals = Open(OVERLOAD * capacity * 20 / 19, seed)  # the bad twentieth comes on top
        loading = driver.start(server.grpc, stream(bodies, wrong, seed), arrivals, 60 * minutes)
        storms, kills, start = list[Future[None]](), list[Future[float]](), time.monotonic()
        with ThreadPoolExecutor(1) as troubles:  # one after another, and looks in between
            for at, what in events(minutes):
                time.sleep(max(0.0, start + at - time.monotonic()))
                if what == "look":
                    watch.note()
                elif what == "storm":
                    storms.append(troubles.submit(storm, server, vanish=bool(len(storms) % 2), seed=len(storms)))
                else:
                    kills.append(troubles.submit(kill_one, server, watch.elder))
        records = loading.result()
        for each in storms:
            each.result()
        back = [each.result() for each in kills]
        idle = settled(server, REPLICAS)
        watch.note()
        again = driver.once(server.grpc, references, clients=4)
        after, page = watch.look(), scrape(server)
        seconds = [record.seconds for record in records if record.kind in FINE and record.status == "OK"]
        rate = len(seconds) / (60 * minutes)
        replays = page.total("tiltserve_replays_total")
        print(
            f"\n{len(records)} requests, {len(storms)} storms, {replays:.0f} replays; good ones answered {rate:.1f} a "
            f"second ({rate / capacity:.2f} of capacity), p50 {percentile(seconds, 50):.2f} s, "
            f"p99 {percentile(seconds, 99):.2f} s"
        )
        for name in ("tiltserve_reclaimed_rows_total", "tiltserve_refused_total"):
            for reason in page.label_values(name, "reason"):
                print(f"{name}, {reason}: {page.total(name, reason=reason):.0f} on the replicas now alive")
        judge_answers(verdicts, [*records, *again], wrong, truth)
        verdicts.claim(
            f"{len(back)} killed replicas are replaced", bool(back) and max(back) < BACK_S,
            f"within {max(back, default=math.inf):.0f} s",
        )  # fmt: skip
        judge_memory(verdicts, watch.samples)
        judge_series(verdicts, server, page, before.series, after.series)
        judge_idle(verdicts, before, after, idle)
        started = processes(server)
    _, alive = psutil.wait_procs(started, timeout=5)
    verdicts.claim("stopping leaves no process", not alive, f"{len(started)} were running, {len(alive)} are")
    print(f"\n{len(verdicts.failed)} claims failed" if verdicts.failed else "\nevery claim holds")
    raise typer.Exit(bool(verdicts.failed))


if __name__ == "__main__":
    typer.run(main)
