"""Alerts and dashboards end to end: faults are put into a fleet that a real Prometheus and Alertmanager watch.

    make bench ARGS="alerts"

Needs the programs of Debian's packages prometheus and prometheus-alertmanager. Two replicas of the demo's models are
asked all the time by three callers with names. For each fault an empty Prometheus watches the quiet fleet first, then
the fault: its alert must come to Alertmanager's webhook in time, and no alert but those that the fault explains.
The rules are those of deploy/monitoring with all windows and waits shortened, 20 times by default; thresholds stay, and
so do 30 s of an old list and 30 s of backlog. At last every query of the dashboards is asked of what these runs saw: it
must have an answer in one of them. Prints a table and a verdict; exits with 1 if something is missing or came unasked.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import psutil
import typer
import yaml

from benchmarks._panels import draw
from benchmarks._prometheus import Monitor, monitoring
from benchmarks._server import MODELS, front, machine, processes
from deploy.monitoring.dashboards import DASHBOARDS
from deploy.process import Running, running_server
from protos.tiltserve.v1 import reward_pb2, reward_pb2_grpc
from serving.access import tokens
from tiltserve import Client
from tiltserve.errors import TiltserveError

NAMES = ("alice", "bob", "carol")
QUEUE_ROWS = 100_000
QUIET_S, SETTLED_S = 15.0, 60.0
BROKEN = "judge"
"""A model whose files are broken while the server runs."""
SLOW = ("ErrorBudgetFast", "ErrorBudgetSlow", "WaitFast", "WaitSlow")
BUSY = ("WaitFast", "WaitSlow", "CostDrift", "DeadlineMisses", "BacklogNotShrinking")

DEADLINES = (*BUSY, "ErrorBudgetFast")
OVERLOAD = (*BUSY, "ErrorBudgetFast", "ErrorBudgetSlow", "DeadlineRefusals", "QueueFull")
"""Callers of the light load have deadlines."""
UNSEEN = frozenset({"Draws under conditions"})
"""Panels that need other models: the demo's have banks for their conditions."""


class Brightness(reward_pb2_grpc.RewardServicer):
    """A reward service that can be taken down, at one port."""

    def __init__(self) -> None:
        self.port, self._server = 0, grpc.server(ThreadPoolExecutor(1))
        self.up()

    def up(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        reward_pb2_grpc.add_RewardServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def down(self) -> None:
        self._server.stop(0).wait()

    def Score(self, request: reward_pb2.ScoreRequest, context: grpc.ServicerContext) -> reward_pb2.ScoreReply:  # noqa: N802
        x = np.frombuffer(request.candidates.data, "<f4").reshape(request.candidates.shape)
        return reward_pb2.ScoreReply(scores=x.reshape(len(x), -1).mean(axis=1))


@dataclass
class Fleet:
    """A server under a light load, and hands to break it with."""

    server: Running
    models: Path
    reward: Brightness
    secrets: dict[str, str]
    wanted: list[dict[str, Any]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def client(self, name: str = "alice", timeout: float = 20.0) -> Client:
        return Client(self.server.grpc, token=self.secrets[name], timeout=timeout, retries=0)

    def load(self) -> None:
        """What three callers ask all the time, one request after another: plain, steered, steered under a label and by
        the service."""
        wants: tuple[dict[str, Any], ...] = (
            {"steps": 5, "n": 2},
            {"steps": 5, "reward": "classifier", "reward_args": {"label": 7}, "particles": 4, "beta": 1.0},
            {"steps": 5, "reward": "brightness", "particles": 4, "beta": 0.1},
            {"steps": 5, "label": 3, "reward": "classifier", "reward_args": {"label": 3}, "particles": 4, "beta": 1.0},
        )
        for place, name in enumerate(NAMES):
            threading.Thread(target=self._ask, args=(name, wants, place), daemon=True).start()

    def _ask(self, name: str, wants: Sequence[dict[str, Any]], place: int) -> None:
        with self.client(name) as client:
            while not self._stop.wait(0.5):
                place += 1
                with contextlib.suppress(TiltserveError):
                    client.sample("digits", **{"seed": place, **wants[place % len(wants)]})

    def end(self) -> None:
        self._stop.set()

    def many(self, callers: int, **wanted: Any) -> Callable[[], None]:
        """So many callers more, each of whom asks again as soon as it is answered; returns what ends them and their
        calls."""
        stop, timeout = threading.Event(), wanted.pop("timeout", 60.0)
        clients = [self.client(NAMES[number % len(NAMES)], timeout) for number in range(callers)]

        def ask(number: int) -> None:
            while not stop.is_set():
                try:
                    clients[number].sample("digits", **{"seed": number, **wanted})
                except TiltserveError:
                    stop.wait(0.1)
                except ValueError:  # its connection is closed
                    return

        def end() -> None:
            stop.set()
            for each in clients:
                each.close()

        for number in range(callers):
            threading.Thread(target=ask, args=(number,), daemon=True).start()
        return end

    def pids(self) -> list[int]:
        with self.client() as client:
            return [each.pid for each in client.fleet().replicas]

    def well(self) -> bool:
        """Whether both replicas serve and nothing waits."""
        with contextlib.suppress(TiltserveError), self.client(timeout=5) as client:
            fleet = client.fleet()
            ready = all(each.state == "READY" for each in fleet.models)
            return ready and len(fleet.replicas) == 2 and sum(each.backlog_rows for each in fleet.replicas) < 2000
        return False

    def directory(self) -> int:
        """The process id of the directory's actor."""
        for each in processes(self.server):
            with contextlib.suppress(psutil.Error):
                if "Directory" in " ".join(each.cmdline()) and "ray::" in " ".join(each.cmdline()):
                    return each.pid
        raise RuntimeError("expected the directory's actor among the server's processes, found none")


@contextlib.contextmanager
def nothing(fleet: Fleet) -> Iterator[None]:
    yield


@contextlib.contextmanager
def killing(fleet: Fleet) -> Iterator[None]:
    """Kills a replica as soon as two are there, again and again."""
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(1.0):
            with contextlib.suppress(TiltserveError, ProcessLookupError):
                if len(pids := fleet.pids()) == 2:
                    os.kill(pids[0], signal.SIGKILL)
                    stop.wait(4.0)  # it is listed until its lease is over

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()


@contextlib.contextmanager
def hanging(pids: Sequence[int]) -> Iterator[None]:
    """Processes that stand still."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def without_reward(fleet: Fleet) -> Iterator[None]:
    fleet.reward.down()
    try:
        yield
    finally:
        fleet.reward.up()


@contextlib.contextmanager
def asked_more(fleet: Fleet, threads: int, **wanted: Any) -> Iterator[None]:
    end = fleet.many(threads, **wanted)
    try:
        yield
    finally:
        end()


@contextlib.contextmanager
def broken_model(fleet: Fleet) -> Iterator[None]:
    """A model's file is cut in half, and somebody has it loaded."""
    (graph,) = (fleet.models / BROKEN).glob("*/model.onnx")
    whole = graph.read_bytes()
    graph.write_bytes(whole[: len(whole) // 2])
    try:
        with contextlib.suppress(TiltserveError), fleet.client(timeout=60) as client:
            client.load(BROKEN)
        yield
    finally:
        graph.write_bytes(whole)
        with contextlib.suppress(TiltserveError), fleet.client(timeout=60) as client:
            client.load(BROKEN)


@dataclass(frozen=True)
class Fault:
    """What is done to a fleet.

    Attributes:
        must: the alerts that must come, and `may` those that it explains too, without Tiltserve before them.
        within_s: after the fault began.
    """

    name: str
    begin: Callable[[Fleet], contextlib.AbstractContextManager[None]]
    must: tuple[str, ...]
    may: tuple[str, ...] = ()
    within_s: float = 60.0


FAULTS = (
    Fault("none", nothing, (), within_s=60),
    Fault("a replica is killed again and again", killing, ("ReplicaFlapping",), (*SLOW, "ModelNotReady"), 120),
    Fault("both replicas hang", lambda fleet: hanging(fleet.pids()), ("ModelNotReady",), (*SLOW, "CostDrift"), 60),
    Fault("the reward's service is down", without_reward, ("RewardFailing",), SLOW, 90),
    Fault(
        "more with deadlines of 1 s than can be done",
        lambda fleet: asked_more(fleet, 24, n=8, steps=20, timeout=1.0), ("DeadlineRefusals",), DEADLINES, 120,
    ),
    Fault(
        "more than can be done",
        lambda fleet: asked_more(fleet, 24, n=512, steps=30, timeout=300.0),
        ("WaitFast", "BacklogNotShrinking"), OVERLOAD, 150,
    ),
    Fault("the directory hangs", lambda fleet: hanging([fleet.directory()]), ("DirectoryLost",), (), 90),
    Fault("the front hangs", lambda fleet: hanging([front(fleet.server).pid]), ("NoFront",), SLOW, 60),
    # last: to a Prometheus without a past its count looks new
    Fault("a model's file is broken", broken_model, ("ModelLoadFailing",), ("CostDrift",), 60),
)  # fmt: skip


@dataclass
class Seen:
    """How a fault went: when alerts came, in seconds after it began, and which came unasked."""

    fault: Fault
    after: dict[str, float]
    unasked: dict[str, float]

    @property
    def well(self) -> bool:
        return not self.unasked and set(self.fault.must) <= self.after.keys()


def main(
    times: Annotated[float, typer.Option(help="How much shorter the rules' windows and waits are.")] = 20.0,
    only: Annotated[list[str] | None, typer.Option(help="Words of the faults to try; may be repeated.")] = None,
    busy: Annotated[
        bool, typer.Option("--busy", help="Other programs keep the machine busy: its waits are real.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Takes a picture of some panels.")] = None,
) -> None:
    """Try each fault, then every query of the dashboards."""
    chosen = [each for each in FAULTS if not only or any(word in each.name for word in only)]
    others = ", beside other programs that keep it busy" if busy else ""
    print(f"{machine()}{others}; windows and waits {times:g} times shorter", flush=True)
    asked = {each for each in _all() if each[1] not in UNSEEN}
    empty = {*asked}
    seen: list[Seen] = []
    lines: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place, fleet_in(Path(place)) as fleet:
        for number, fault in enumerate(chosen):
            folder = Path(place, str(number))
            folder.mkdir()
            with monitoring(fleet.server.metrics, folder, times) as monitor:
                began = time.time()
                seen.append(_try(fleet, fault, monitor, BUSY if busy else ()))
                for key in _all():
                    if found := _asked(monitor, key[2], began):
                        empty.discard(key)
                        lines.setdefault(fault.name, {}).setdefault(f"{key[0]}: {key[1]}", []).extend(found)
            print(_line(seen[-1]), flush=True)
            _until(fleet.well, SETTLED_S)
    if picture is not None:
        draw(lines, {each.fault.name: each.after for each in seen}, QUIET_S, picture)
    print(_table(seen))
    if not only:
        for board, panel, query in sorted(empty):
            print(f"no data for {board}: {panel}: {query}")
        print(f"{len(asked - empty)} of {len(asked)} queries of the dashboards have data")
    failed = [each for each in seen if not each.well]
    print(
        "verdict: "
        + ("each alert came in time, and none unasked" if not failed else f"{len(failed)} faults went wrong")
    )
    sys.exit(1 if failed or (empty and not only) else 0)


@contextlib.contextmanager
def fleet_in(folder: Path) -> Iterator[Fleet]:
    """Two replicas of the demo's models, whose files are copies in the folder, with callers."""
    models = folder / "models"
    shutil.copytree(MODELS, models)
    secrets = {name: tokens.new_token() for name in NAMES}
    identities = {name: {"sha256": tokens.hashed(token), "rights": "all"} for name, token in secrets.items()}
    (folder / "tokens.yaml").write_text(yaml.safe_dump({"identities": identities}))
    reward = Brightness()
    options = [
        "--threads-per-replica=1", f"--tokens={folder}/tokens.yaml", f"--reward=brightness=127.0.0.1:{reward.port}",
        "--reward-seconds=2", "--allow-model-control", f"--max-queue-rows={QUEUE_ROWS}", "--log-level=error",
    ]  # fmt: skip
    with running_server(models, replicas=2, options=options) as server:
        fleet = Fleet(server, models, reward, secrets)
        _until(fleet.well, SETTLED_S)
        fleet.load()
        time.sleep(QUIET_S)  # banks and draws are made
        try:
            yield fleet
        finally:
            fleet.end()
    reward.down()


def _try(fleet: Fleet, fault: Fault, monitor: Monitor, always: Sequence[str]) -> Seen:
    time.sleep(QUIET_S)
    with fault.begin(fleet):
        began = time.monotonic() - monitor.began
        wanted = {f"Tiltserve{name}" for name in fault.must}
        end = time.monotonic() + fault.within_s
        while time.monotonic() < end and not (wanted and wanted <= monitor.told.keys()):
            time.sleep(0.2)
    after = {name.removeprefix("Tiltserve"): at - began for name, at in monitor.told.items()}
    known = {*fault.must, *fault.may, *always}
    unasked = {name: at for name, at in after.items() if name not in known or (at < 0 and name not in always)}
    return Seen(fault, {name: at for name, at in after.items() if name not in unasked}, unasked)


def _until(look: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not look() and time.monotonic() < end:
        time.sleep(0.5)


def _all() -> list[tuple[str, str, str]]:
    return [(b.title, p.title, query) for b in DASHBOARDS for p in b.panels for query in p.queries.values()]


def _asked(monitor: Monitor, query: str, began: float) -> list[dict[str, Any]]:
    """The lines of a query over the time since `began`; RuntimeError where Prometheus does not take it."""
    for name, value in (("$namespace", ".*"), ("$model", ".*"), ("$__rate_interval", "15s"), ("[15m]", "[45s]")):
        query = query.replace(name, value)
    found = monitor.query("query_range", query=query, start=began, end=time.time(), step=1)["result"]
    lines = ({**each, "values": [(at - began, float(y)) for at, y in each["values"] if y != "NaN"]} for each in found)
    return [each for each in lines if each["values"]]


def _line(seen: Seen) -> str:
    told = ", ".join(f"{name} after {at:.0f} s" for name, at in sorted(seen.after.items(), key=lambda each: each[1]))
    more = "".join(f", UNASKED {name} at {at:.0f} s" for name, at in seen.unasked.items())
    lacking = "".join(f", MISSING {name}" for name in seen.fault.must if name not in seen.after)
    return f"{seen.fault.name}: {told or 'nothing'}{more}{lacking}"


def _table(seen: Sequence[Seen]) -> str:
    rows = ["", "| fault | alert that must come | after, s | came too |", "| --- | --- | --- | --- |"]
    for each in seen:
        must = ", ".join(each.fault.must) or "none"
        after = ", ".join(f"{each.after[name]:.0f}" if name in each.after else "missing" for name in each.fault.must)
        too = ", ".join(sorted(name for name in each.after if name not in each.fault.must))
        rows.append(f"| {each.fault.name} | {must} | {after} | {too} |")
    return "\n".join([*rows, ""])


if __name__ == "__main__":
    typer.run(main)
