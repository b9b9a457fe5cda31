"""One real server for all tests: `tiltserve serve` with two replicas and models of several makers, some broken."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import tritonclient.grpc as triton

from tests import networks
from tests.serving.collector import Collector

TILTSERVE = str(Path(sys.executable).with_name("tiltserve"))
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("TILTSERVE_")}
START_S, STOP_S = 150, 60
QUEUE_ROWS = 2_000_000
REPLICAS = 2
Seen = TypeVar("Seen")


def until(look: Callable[[], Seen], seconds: float, what: str) -> Seen:
    """What `look` returns once it is true; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)
    return seen


def tiltserve(*arguments: str, timeout: float = 90) -> "subprocess.CompletedProcess[str]":
    """A finished run of the command."""
    return subprocess.run([TILTSERVE, *arguments], capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT)


@dataclass
class Server:
    """A running `tiltserve serve` and what it printed."""

    process: "subprocess.Popen[str]"
    root: Path
    errors: Path
    lines: list[str] = field(default_factory=list)
    grpc: str = ""
    metrics: str = ""
    reward: str = ""
    """Where it looks for the reward `brightness`, which nobody serves but the tests that want to."""
    models: list[str] = field(default_factory=list)
    collector: Collector | None = None
    """Where its traces go, of requests whose client wants one."""

    def listen(self) -> None:
        """Waits for the ready line and reads on in the background."""
        threading.Thread(target=self._read, daemon=True).start()
        until(lambda: self.lines or self.process.poll() is not None, START_S, "the ready line")
        assert self.lines, f"the server ended: {self.errors.read_text()}"
        found = re.fullmatch(r"ready grpc=(\S+) metrics=(\S+) models=(\S+)", self.lines[0])
        assert found, self.lines
        self.grpc, self.metrics, self.models = found[1], found[2], found[3].split(",")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def descendants(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def fleet(self) -> dict[str, Any]:
        """`tiltserve models --json`."""
        listed = tiltserve("models", "--json", "--address", self.grpc)
        assert listed.returncode == 0, listed.stderr
        return json.loads(listed.stdout)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Ends the server by a signal: it must exit 0 within its time and leave no process."""
        started = self.descendants()
        assert started
        self.process.send_signal(number)
        assert self.process.wait(STOP_S) == 0, self.errors.read_text()
        _, alive = psutil.wait_procs(started, timeout=5)
        assert not alive, [" ".join(each.cmdline()) for each in alive]

    def kill(self) -> None:
        """Ends whatever is left of it."""
        for each in [*self.descendants(), psutil.Process(self.process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait(10)


def write_models(small_models: Path, root: Path) -> None:
    """Six models that are served, one of them on trust, and three that cannot be."""
    shutil.copytree(small_models, root)
    networks.write_stranger(root)
    (root / "stranger" / "card.yaml").write_text(networks.STRANGER)
    shutil.copytree(small_models / "stripes", root / "torn")
    networks.edit_card(root / "torn", name="torn")
    graph = root / "torn" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    shutil.copytree(small_models / "stripes", root / "misfit")
    networks.edit_card(root / "misfit", name="misfit", event_shape=[3, 4, 4])
    networks.write_mixing(root / "mixing")
    networks.write_mixing(root / "trusted")


@pytest.fixture(scope="session")
def server(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server; that it ends cleanly is asserted when the last test is over."""
    folder = tmp_path_factory.mktemp("server")
    write_models(small_models, folder / "models")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        reward = f"127.0.0.1:{probe.getsockname()[1]}"
    collector = Collector()
    command = [
        TILTSERVE, "serve", "--models", str(folder / "models"), "--grpc-port", "0", "--metrics-port", "0",
        "--replicas", str(REPLICAS), "--threads-per-replica", "1", "--max-queue-rows", str(QUEUE_ROWS),
        "--reward", f"brightness={reward}", "--trust", "trusted", "--allow-model-control",
        "--access-log", "--otlp", collector.address, "--trace-ratio", "0",
    ]  # fmt: skip
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=ENVIRONMENT, start_new_session=True
        )
    server = Server(process, folder / "models", folder / "stderr", reward=reward, collector=collector)
    try:
        server.listen()
        yield server
        if process.poll() is None:
            server.stop()
        assert len(server.lines) == 1, "\n".join(server.lines)
    finally:
        if process.poll() is None:
            server.kill()
        collector.stop()


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    """NVIDIA's own client."""
    with triton.InferenceServerClient(server.grpc) as client:
        yield client
