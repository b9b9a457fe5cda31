"""What benchmarks read from a running server: its metrics page, its replicas, and what its processes use."""

import contextlib
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime
import psutil

from deploy import pages
from deploy.pages import Page
from deploy.process import Running
from tiltserve import Client, Replica

MODELS = Path(__file__).resolve().parents[1] / "deploy" / "models"
"""The demo's model repository."""


def scrape(server: Running) -> Page:
    """The server's metrics page now."""
    return pages.read(f"http://{server.metrics}/metrics")


def replicas(server: Running) -> list[Replica]:
    """The replicas that the server lists, with process ids and backlogs."""
    with Client(server.grpc, timeout=20) as client:
        return client.fleet().replicas


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
