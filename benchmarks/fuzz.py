"""Malformed, truncated, oversized and absurd requests on every method: no crash, no hang, no leak, the right status.

    make bench ARGS="fuzz --requests 100000"

Two servers of small models, as child processes. The first one gets messages that are damaged byte by byte, messages
that hypothesis drew, streams of many requests, interactive streams with wrong scores, odd metadata and bytes that are
no gRPC, at its front and at a replica's own address; meanwhile another client asks for answers that are known.
Then it gets streams that are opened and never used. The second one wants client certificates and tokens, and gets the
same messages without. Prints ends by method and status, and a verdict for each claim; exits with 1 if one fails.
"""

import asyncio
import contextlib
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
import psutil
import tritonclient.grpc as triton
import typer

from benchmarks._fuzz import guarded
from benchmarks._fuzz.cases import FRONT, REPLICA, Cases
from benchmarks._fuzz.client import CHANNELS, OPTIONS, Clients, limited
from benchmarks._fuzz.methods import REGION, REWARD, SAMPLER, inferences
from benchmarks._fuzz.oracle import Judge
from benchmarks._fuzz.raw import Raw
from benchmarks._hostile import Served, bad
from benchmarks._load import Driver, Open, Record, Request
from benchmarks._server import front, machine, replicas, scrape
from benchmarks._verdicts import SLACK, Verdicts, judge_rest, judge_series, judge_wrong, settled
from deploy.process import Running, running_server
from tests import networks
from tiltserve import Client

REPLICAS, IN_FLIGHT, QUEUE_ROWS = 2, 32, 2_000_000
SPARE = "stripes"
"""The model that requests load and unload; nobody is promised an answer from it."""
KNOWN_A_SECOND = 20
LONGEST_S = 10.0
"""Seconds of a request of the other client after which the server counts as hung, on a machine as busy as this one."""
GROWTH_MB = 96.0
"""MB by which a process may grow in the second half."""
LIVE = "/inference.GRPCInferenceService/ServerLive"


@dataclass(frozen=True)
class Look:
    """What was seen of a server's processes at a moment, by process id: MB, descriptors, threads."""

    front: int
    mb: Mapping[int, float]
    descriptors: Mapping[int, int]
    threads: Mapping[int, int]
    series: int


def look(server: Running, first: psutil.Process) -> Look:
    """The front, which is `first`, and the replicas now."""
    found = [first, *(psutil.Process(each.pid) for each in replicas(server))]
    return Look(
        first.pid,
        {each.pid: each.memory_info().rss / 2**20 for each in found},
        {each.pid: each.num_fds() for each in found},
        {each.pid: each.num_threads() for each in found},
        len(scrape(server).values),
    )


def fuzz(
    server: Running, *, requests: int, seconds: float, seed: int, idle: int = 0, large: bool = False
) -> tuple[Verdicts, Judge]:
    """Send so many requests to a server, for so many seconds at most, and judge it.

    Args:
        idle: streams that are opened and never used, afterwards.
        large: send some that are longer than any message may be.
    """
    verdicts, known = Verdicts(), [Request("known", each, tag) for tag, each in enumerate(inferences())]
    wrong = bad(QUEUE_ROWS, Served(SAMPLER, (2,), REWARD, "mode"))
    live = Request("live", b"", -1, method=LIVE)
    asked = []
    for tag, each in enumerate(wrong):
        asked += [*known, live, Request("bad", each.body, tag, method=each.method)]
    listed, first = replicas(server), front(server)
    with Driver() as driver, contextlib.ExitStack() as held:
        truth = {each.tag: each for each in driver.once(server.grpc, known)}
        cases, looks, begin = Cases(seed, SPARE, requests, large), [look(server, first)], time.monotonic()
        judge = Judge(cases.methods, SPARE)
        answering = driver.start(server.grpc, asked, Open(KNOWN_A_SECOND, seed, 2), math.inf)
        raw = held.enter_context(Raw([server.grpc, listed[0].address], seed))

        async def send() -> None:
            clients = Clients({FRONT: server.grpc, REPLICA: listed[0].address})
            try:
                for count in (requests // 2, requests - requests // 2):
                    until = time.monotonic() + seconds / 2
                    async for ended in clients.run(limited(iter(cases), count, until), IN_FLIGHT):
                        judge.take(ended)
                    looks.append(await asyncio.to_thread(look, server, first))
            finally:
                await clients.close()

        asyncio.run(send())
        took = time.monotonic() - begin
        held.close()
        kept = asyncio.run(idle_streams(server, first, idle)) if idle else 0.0
        driver.stop()
        records = answering.result()
    restore(server)
    rest = settled(server, len(listed))
    after = look(server, first)
    print(f"{judge.messages} requests in {took:.0f} s: {dict(judge.kinds)}")
    print(f"{raw.sent.total()} connections without gRPC: {dict(sorted(raw.sent.items()))}\n")
    print_counts(judge.counts)
    verdicts.claim(
        "every request has a status that it may have, and a line of text", not judge.faults,
        f"{sum(judge.counts.values())} ends, {len(judge.faults)} others {short(judge.faults)}",
    )  # fmt: skip
    judge_known(verdicts, records, truth)
    judge_wrong(verdicts, records, wrong)
    slow, what = judge.slowest
    print(f"the slowest of the others: {slow:.2f} s ({what})")
    verdicts.claim("no process ended", looks[0].mb.keys() == after.mb.keys(), f"{[*looks[0].mb]}, {[*after.mb]}")
    judge_rest(verdicts, rest)
    judge_processes(verdicts, looks, after)
    judge_series(verdicts, server, scrape(server), looks[0].series, after.series)
    if idle:
        print(f"{idle} streams that were opened and not used took {kept:.1f} KB of the front each")
    return verdicts, judge


def judge_known(verdicts: Verdicts, records: list[Record], truth: Mapping[int, Record]) -> None:
    """Claims about the client that asked for what is known."""
    known, live = ([each for each in records if each.kind == kind] for kind in ("known", "live"))
    wrong = [each for each in known if each.status != "OK" or each.digest != truth[each.tag].digest]
    failed = [each for each in live if each.status != "OK"]
    seen = Counter(f"{each.status} {each.detail[:100]}" for each in [*wrong, *failed])
    verdicts.claim(
        "requests of another client are answered meanwhile, with the same bytes as before", not wrong and not failed,
        f"{len(known)} compared, {len(wrong)} differ; {len(failed)} of {len(live)} others failed {dict(seen) or ''}",
    )  # fmt: skip
    both = {"infer": known, "ServerLive": live}
    longest = {name: max((each.seconds for each in some), default=math.inf) for name, some in both.items()}
    verdicts.claim(
        "no request of another client hangs", max(longest.values()) < LONGEST_S,
        ", ".join(f"the longest {name} took {value:.2f} s" for name, value in longest.items()),
    )  # fmt: skip


def judge_processes(verdicts: Verdicts, looks: list[Look], after: Look) -> None:
    """Claims about what processes hold."""
    start, half, end = looks
    for pid in start.mb.keys() & after.mb.keys():
        name = "front" if pid == start.front else f"replica {pid}"
        verdicts.claim(
            f"the memory of the {name} is bounded", end.mb[pid] - half.mb[pid] < GROWTH_MB,
            f"{start.mb[pid]:.0f} MB before, {half.mb[pid]:.0f} at half, {end.mb[pid]:.0f} at the end, "
            f"{after.mb[pid]:.0f} later",
        )  # fmt: skip
        for what in ("descriptors", "threads"):
            old, new = getattr(start, what)[pid], getattr(after, what)[pid]
            verdicts.claim(f"the {name}'s {what} are back", new <= old + SLACK, f"{old} before, {new} after")


async def idle_streams(server: Running, process: psutil.Process, count: int) -> float:
    """Opens so many streams and leaves them after a while; KB of `process`, the front, that each took."""
    before = process.memory_info().rss
    channels = [grpc.aio.insecure_channel(server.grpc, options=OPTIONS) for _ in range(CHANNELS)]
    paths = ("inference.GRPCInferenceService/ModelStreamInfer", "tiltserve.v1.Sampling/SampleInteractive")
    calls = [channels[k % CHANNELS].stream_stream(f"/{paths[k % 2]}")() for k in range(count)]
    await asyncio.gather(*(each.wait_for_connection() for each in calls[:CHANNELS]))
    end = time.monotonic() + 20
    most = before
    while time.monotonic() < end:
        await asyncio.sleep(0.5)
        most = max(most, process.memory_info().rss)
    for call in calls:
        call.cancel()
    for channel in channels:
        await channel.close()
    return (most - before) / count / 1024


def restore(server: Running) -> None:
    """Undo what requests may have changed, which is what they may change."""
    with triton.InferenceServerClient(server.grpc) as client, contextlib.suppress(Exception):
        client.update_trace_settings(settings={"trace_level": None, "trace_rate": None, "trace_count": None})
        client.update_log_settings({"log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0})
    with Client(server.grpc, timeout=60) as client, contextlib.suppress(Exception):
        client.load(SPARE)


def print_counts(counts: Mapping[tuple[str, str], int]) -> None:
    """Ends by method and status."""
    statuses = sorted({status for _, status in counts})
    for name in sorted({name for name, _ in counts}):
        some = [(status, counts[name, status]) for status in statuses if (name, status) in counts]
        print(
            f"{name:28} {sum(count for _, count in some):7d}  "
            + ", ".join(f"{status} {count}" for status, count in some)
        )
    print()


def short(faults: list[str]) -> str:
    return "".join(f"\n      {each[:1000]}" for each in faults[:20])


@contextlib.contextmanager
def region() -> Iterator[None]:
    """A region of shared memory, of this user."""
    path = Path("/dev/shm", REGION)
    path.write_bytes(bytes(128))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def write_models(root: Path) -> None:
    """A sampler with a bank, the spare one, a reward, and one that is NaN everywhere."""
    networks.write_rings(root)
    networks.write_stripes(root)
    networks.write_nearness(root)
    networks.write_nan(root)


def main(
    requests: Annotated[int, typer.Option(help="To the open server; a tenth of them to the guarded one.")] = 100_000,
    seconds: Annotated[float, typer.Option(help="At most, for the open server.")] = math.inf,
    seed: int = 0,
    idle: Annotated[int, typer.Option(help="Streams that are opened and never used.")] = 10_000,
) -> None:
    """Print the counts and the verdicts."""
    options = [
        "--threads-per-replica=1", f"--max-queue-rows={QUEUE_ROWS}", "--allow-model-control", "--allow-shared-memory",
    ]  # fmt: skip
    print(f"{machine()}; {REPLICAS} replicas, seed {seed}, load of the machine {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder, region():
        models = Path(folder)
        write_models(models)
        with running_server(models, replicas=REPLICAS, options=options) as server:
            verdicts, _ = fuzz(server, requests=requests, seconds=seconds, seed=seed, idle=idle, large=True)
        with guarded.guarded(models) as server_of_few:
            count = max(100, requests // 10)
            answers = asyncio.run(server_of_few.ask(Cases(seed + 1, SPARE, count, large=False), count, seed))
    print_counts(answers.counts)
    verdicts.claim(
        "without a certificate nothing is answered, without a token nothing but health", not answers.faults,
        f"{answers.counts.total()} calls, {len(answers.faults)} answered otherwise {short(answers.faults)}",
    )  # fmt: skip
    print(f"\n{len(verdicts.failed)} claims failed" if verdicts.failed else "\nevery claim holds")
    raise typer.Exit(bool(verdicts.failed))


if __name__ == "__main__":
    typer.run(main)
