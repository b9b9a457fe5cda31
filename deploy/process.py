"""A server as a child process: started, waited for, used, drained."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_READY = re.compile(r"^ready grpc=(\S+) metrics=(\S+) models=(\S*)(?: http=(\S+))?$")
DRAIN_S = 60.0


@dataclass(frozen=True)
class Running:
    """Where a server listens (host:port), and what it serves."""

    grpc: str
    metrics: str
    models: tuple[str, ...]
    pid: int
    http: str = ""
    """Of the images API, where options ask for it."""


@contextlib.contextmanager
def running_server(models: Path, *, replicas: int = 1, options: Sequence[str] = ()) -> Iterator[Running]:
    """`tiltserve serve` on free ports; on leaving it is told to stop, and every process of it has ended.

    Raises:
        RuntimeError: the server ended before it was ready, or did not end cleanly.
    """
    ports = ["--grpc-port", "0", "--metrics-port", "0"]
    command = [sys.executable, "-m", "deploy", "serve", "--models", str(models), "--replicas", str(replicas), *ports]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if match := _READY.match(line.strip()):
                    yield Running(
                        match[1], match[2], tuple(filter(None, match[3].split(","))), process.pid, match[4] or ""
                    )
                    break
            else:
                raise RuntimeError(f"the server ended with exit code {process.wait()} before it was ready")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(DRAIN_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise RuntimeError(f"the server did not stop within {DRAIN_S:g} s") from None
