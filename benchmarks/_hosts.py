"""Hosts as network namespaces of this machine, on one bridge, with pods in them. Needs root, `ip` and `unshare`."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

NETWORK = "10.79.0"
HERE = f"{NETWORK}.254"
"""The address of this machine on the bridge."""
ROOT = Path(__file__).resolve().parents[1]
_START = 'mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray; mount -t tmpfs -o size=1g tmpfs /dev/shm; exec "$@"'


def missing() -> str:
    """What this machine lacks for it, empty for nothing."""
    if os.geteuid() != 0:
        return "root"
    return next((name for name in ("ip", "unshare") if shutil.which(name) is None), "")


@dataclass
class Pod:
    """A process in a host's network, with process ids, /tmp/ray and /dev/shm of its own."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def first(self) -> psutil.Process:
        """The process that a pod's kubelet would signal."""
        return psutil.Process(self.process.pid).children()[0]

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def told(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float) -> None:
        until(lambda: text in self.told() or not self.running, seconds, f"{self.name}: {text!r}")
        if text not in self.told():
            raise RuntimeError(f"{self.name} ended: {self.told()[-2000:]}")

    def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        if self.running:
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                self.first.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL to all of it."""
        if self.running:
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                self.first.kill()  # and with it all that are in its space of process ids
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        if self.running:
            self.process.kill()
            self.process.wait(10)


@dataclass
class Host:
    """One host; `address` is its own on the bridge."""

    number: int
    folder: Path
    pods: list[Pod] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def space(self) -> str:
        return f"tiltserve{self.number}"

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Pod:
        """A pod; its output goes to a file."""
        log = self.folder / f"{name}-{len(self.pods)}-{self.number}.log"
        inside = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", _START, "sh"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.space, *inside, *command],
                stdout=out, stderr=out, cwd=ROOT, env=environment, start_new_session=True,
            )  # fmt: skip
        self.pods.append(Pod(name, process, log))
        return self.pods[-1]

    def cable(self, *, plugged: bool) -> None:
        """Pull the cable between this host and the bridge, or put it back."""
        _ip("link", "set", f"tiltv{self.number}", "up" if plugged else "down")


@contextlib.contextmanager
def hosts(count: int, folder: Path) -> Iterator[list[Host]]:
    """So many hosts; on leaving all that ran in them has ended."""
    made = [Host(number, folder) for number in range(1, count + 1)]
    with contextlib.ExitStack() as undo:
        _ip("link", "add", "tiltbr", "type", "bridge")
        undo.callback(_ip, "link", "del", "tiltbr")
        _ip("addr", "add", f"{HERE}/24", "dev", "tiltbr")
        _ip("link", "set", "tiltbr", "up")
        for host in made:
            _ip("netns", "add", host.space)
            undo.callback(_ip, "netns", "del", host.space)
            _ip("link", "add", f"tiltv{host.number}", "type", "veth", "peer", "name", "eth0", "netns", host.space)
            _ip("link", "set", f"tiltv{host.number}", "master", "tiltbr", "up")
            _ip("-n", host.space, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", host.space, "link", "set", device, "up")
            undo.callback(_end, host)
        yield made


def _end(host: Host) -> None:
    for pod in host.pods:
        pod.kill()


def until(true: Callable[[], object], seconds: float, what: str) -> None:
    """Wait; RuntimeError after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


def environment(**more: str) -> dict[str, str]:
    """Of every pod: as docs/hosts.md says for pods, but for Ray's token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TILTSERVE_", "RAY_"))}
    return (
        kept
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_worker_niceness": "0",
            "RAY_raylet_start_wait_time_s": "120",  # three hosts start on the cores of one
            "OMP_NUM_THREADS": "1",
        }
        | more
    )


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
