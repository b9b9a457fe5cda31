"""The systems: started, counted, ended."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks._peers.clients import Client, Protocol, Reply, Target
from benchmarks._peers.environments import environment, packages
from benchmarks._peers.sampling import Strategy
from benchmarks._peers.settings import Settings
from benchmarks._peers.trace import Request
from deploy.process import running_server

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "deploy" / "models"
NETWORK = MODELS / "digits" / "1" / "model.onnx"
START_S = 180.0
STOP_S = 20.0


@dataclass(frozen=True)
class Rows:
    """Network rows so far: those that requests' own steps needed, and all that were computed, padding included."""

    needed: float
    computed: float


@dataclass(frozen=True)
class System:
    """A running system."""

    target: Target
    rows: Callable[[], Rows]


@dataclass(frozen=True)
class Batching:
    """How a peer batches: `batch` rows at most (0: a request at a time), unequal steps by `strategy`."""

    strategy: Strategy
    batch: int
    delay_ms: float


PROTOCOLS: dict[str, Protocol] = {"ray": "http", "litserve": "http", "kserve": "kserve", "triton": "triton"}
NAMES = {
    "tiltserve": "tiltserve",
    "ray": "Ray Serve",
    "triton": "Triton",
    "kserve": "KServe",
    "litserve": "LitServe",
}


@contextlib.contextmanager
def tiltserve(threads: int) -> Iterator[System]:
    with running_server(MODELS, replicas=1, options=["--threads-per-replica", str(threads)]) as server:

        def rows() -> Rows:
            with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=30) as page:
                return _engine_rows(page.read().decode())

        yield System(Target("tiltserve", server.grpc), rows)


def _engine_rows(page: str) -> Rows:
    """The engine counts rows, and the share of each call that they filled: its mean gives what was computed."""
    rows = fills = calls = 0.0
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "tiltserve_rows_total" and labels["kind"] == "network":
                rows += sample.value
            elif labels.get("model", "").startswith("digits") and sample.name == "tiltserve_bucket_fill_sum":
                fills += sample.value
            elif labels.get("model", "").startswith("digits") and sample.name == "tiltserve_bucket_fill_count":
                calls += sample.value
    return Rows(rows, rows * calls / fills if fills else rows)


@contextlib.contextmanager
def peer(name: str, batching: Batching, threads: int) -> Iterator[System]:
    """A peer in its own environment and processes; on leaving all of them have ended.

    Raises:
        RuntimeError: it ended before it answered, or did not answer in time; with the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix=f"peer-{name}-") as text, socket.socket() as probe:
        folder = Path(text)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        settings = Settings(
            port, str(NETWORK), threads, batching.strategy, batching.batch, batching.delay_ms, str(folder / "rows.json")
        )
        command, variables = _triton(settings, folder) if name == "triton" else _python(name, settings)
        target = Target(PROTOCOLS[name], f"127.0.0.1:{port}")
        with process(command, variables, folder / "log") as alive:
            _wait(target, alive, folder / "log")

            def rows() -> Rows:
                counters: dict[str, Any] = json.loads((folder / "rows.json").read_text())
                return Rows(counters["needed"], counters["computed"])

            yield System(target, rows)


def _python(name: str, settings: Settings) -> tuple[list[str], dict[str, str]]:
    python = sys.executable if name == "ray" else str(environment(name) / "bin" / "python")
    return [python, "-m", f"benchmarks._peers.serve_{name}", settings.to_json()], {}


def _triton(settings: Settings, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The server inside nvidia-pytriton's wheel, with a model repository that is made here."""
    env = environment("triton")
    home = packages(env) / "pytriton" / "tritonserver"
    version = folder / "models" / "digits" / "1"
    version.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("triton_model.py"), version / "model.py")
    (version.parent / "config.pbtxt").write_text(_triton_config(settings))
    backends = folder / "backends" / "python"
    shutil.copytree(home / "backends" / "python", backends)
    stub = home / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(stub / "triton_python_backend_stub", backends)
    libraries = [str(packages(env) / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    variables = {
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{env / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{packages(env)}",
    }
    command = [
        *(str(home / "bin" / "tritonserver"), "--model-repository", str(folder / "models")),
        *("--backend-directory", str(folder / "backends"), "--allow-http", "false", "--allow-metrics", "false"),
        *("--grpc-address", "127.0.0.1", "--grpc-port", str(settings.port)),
    ]
    return command, variables


def _triton_config(settings: Settings) -> str:
    largest = 4  # a request's samples: Triton refuses those that are longer than its batches
    inputs = ",".join(
        f'{{ name: "{name}" data_type: TYPE_INT64 dims: [1] }}' for name in ("steps", "seed", "deadline_us")
    )
    policy = "default_queue_policy { timeout_action: REJECT allow_timeout_override: true }"
    batching = f"dynamic_batching {{ max_queue_delay_microseconds: {round(settings.delay_ms * 1000)} {policy} }}"
    text = settings.to_json().replace("\\", "\\\\").replace('"', '\\"')
    return f"""
name: "digits"
backend: "python"
max_batch_size: {max(settings.batch, largest)}
input [{inputs}]
output [{{ name: "samples" data_type: TYPE_FP32 dims: [1, 28, 28] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
parameters {{ key: "settings" value {{ string_value: "{text}" }} }}
{batching if settings.batch else ""}
"""


@contextlib.contextmanager
def process(command: list[str], variables: dict[str, str], log: Path) -> Iterator[Callable[[], bool]]:
    """Gives whether it is alive; on leaving, it and what it started have ended."""
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **variables}, stdout=out, stderr=out, start_new_session=True
        ) as process,
    ):
        try:
            yield lambda: process.poll() is None
        finally:
            started: list[psutil.Process] = []
            with contextlib.suppress(psutil.NoSuchProcess):
                started = psutil.Process(process.pid).children(recursive=True)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            _, alive = psutil.wait_procs(started, timeout=5.0)
            for each in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()


def _wait(target: Target, alive: Callable[[], bool], log: Path) -> None:
    async def ask() -> Reply:
        async with Client(target) as client:
            return await client.ask(Request(0.0, 1, 2, 0, 5.0))

    until = time.monotonic() + START_S
    reply = Reply("failed", "it ended")
    while alive() and time.monotonic() < until:
        reply = asyncio.run(ask())
        if reply.code == "ok":
            return
        time.sleep(0.3)
    raise RuntimeError(
        f"expected an answer within {START_S:g} s, got: {reply.text}; the log ends:\n{log.read_text()[-3000:]}"
    )


def start(name: str, batching: Batching, threads: int) -> contextlib.AbstractContextManager[System]:
    """The system called `name`; `batching` is for peers."""
    return tiltserve(threads) if name == "tiltserve" else peer(name, batching, threads)
