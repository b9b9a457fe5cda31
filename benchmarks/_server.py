"""What benchmarks read from a running server: its metrics page, its replicas, and what its processes use."""

import contextlib
import platform
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import onnxruntime
import psutil
from prometheus_client.parser import text_string_to_metric_families

from deploy.process import Running
from protos.tiltserve.v1 import fleet_pb2, fleet_pb2_grpc
from serving.wire import channels

MODELS = Path(__file__).resolve().parents[1] / "deploy" / "models"
"""The demo's model repository."""
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """A metrics page as it was at `at` (monotonic seconds): values by name and sorted labels."""

    at: float
    values: Mapping[tuple[str, Labels], float]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of this name that carry these labels, 0 without any."""
        return sum(self.values[key] for key in self.values if key[0] == name and labels.items() <= dict(key[1]).items())

    def label_values(self, name: str, label: str) -> list[str]:
        """What the label takes among the series of this name, sorted."""
        return sorted({dict(have)[label] for each, have in self.values if each == name and label in dict(have)})


def scrape(server: Running) -> Page:
    """The server's metrics page now."""
    begin = time.monotonic()
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    at = (begin + time.monotonic()) / 2
    families = text_string_to_metric_families(text)
    return Page(at, {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples})


@dataclass(frozen=True)
class Growth:
    """What counters gained between two scrapes."""

    before: Page
    after: Page

    @property
    def seconds(self) -> float:
        return self.after.at - self.before.at

    def of(self, name: str, **labels: str) -> float:
        return self.after.total(name, **labels) - self.before.total(name, **labels)


def replicas(server: Running) -> list[fleet_pb2.Replica]:
    """The replicas that the server lists, with process ids and backlogs."""
    with grpc.insecure_channel(server.grpc, options=channels.to_server(server.grpc)) as channel:
        return list(fleet_pb2_grpc.FleetStub(channel).ListModels(fleet_pb2.ListModelsRequest(), timeout=20).replicas)


def replica_address(server: Running) -> str:
    """Where the first replica listens."""
    return str(replicas(server)[0].address)


def processes(server: Running) -> list[psutil.Process]:
    """The server's own process and all that it started."""
    root = psutil.Process(server.pid)
    return [root, *root.children(recursive=True)]


def front(server: Running) -> psutil.Process:
    """The process that listens on the gRPC port."""
    port = int(server.grpc.rpartition(":")[2])
    for process in processes(server):
        with contextlib.suppress(psutil.Error):
            for each in process.net_connections("inet"):
                if each.status == psutil.CONN_LISTEN and each.laddr.port == port:
                    return process
    raise RuntimeError(f"expected a process that listens on port {port}, found none")


@dataclass
class Cpu:
    """Cores in use by the server's parts, its clients, and others on the machine: `start`, and later `cores`."""

    server: Running
    clients: Sequence[int] = ()
    _at: float = 0.0
    _used: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        self._at, self._used = time.monotonic(), self._read()

    def cores(self) -> dict[str, float]:
        """CPU seconds a second since `start`; rest is the server's other processes, others are no part of it."""
        seconds, now = time.monotonic() - self._at, self._read()
        cores = {name: (value - self._used[name]) / seconds for name, value in now.items()}
        machine = cores.pop("machine")
        return cores | {"others": max(0.0, machine - sum(cores.values()))}

    def _read(self) -> dict[str, float]:
        mine = front(self.server).pid
        workers = {each.pid for each in replicas(self.server)}
        used = dict.fromkeys(("front", "replicas", "clients", "rest"), 0.0)
        for process in processes(self.server):
            part = "front" if process.pid == mine else "replicas" if process.pid in workers else "rest"
            with contextlib.suppress(psutil.Error):
                used[part] += _cpu_seconds(process)
        used["clients"] = sum(_cpu_seconds(psutil.Process(pid)) for pid in self.clients)
        whole = psutil.cpu_times()
        used["machine"] = float(sum(whole) - whole.idle - whole.iowait - whole.guest - whole.guest_nice)
        return used


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def machine() -> str:
    """One line that names the machine."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {psutil.cpu_count()} cores, onnxruntime {onnxruntime.__version__}"
