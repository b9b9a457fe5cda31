"""Trajectories of many clients at unequal tolerances: together, one at a time, and by torchdiffeq in Ray Serve.

    make bench ARGS="dynamics_service"

Each client asks for one trajectory of a small neural field. The table has network calls and seconds; the answers
together are compared byte by byte with those of the same requests alone. torchdiffeq is installed in an environment of
its own on first use. At the end: what the solver costs the host for each step of a trajectory, without a network.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks._peers.environments import environment
from benchmarks._peers.fields import TIMES, Job, Swirl, jobs
from benchmarks._peers.systems import ROOT, process
from benchmarks._server import machine, scrape
from deploy.process import Running, running_server
from exporters.dynamics import export_dynamics
from protos.card import Card
from steering.dynamics import solve
from tiltserve import Client

SPEC = {"kind": "ode", "state": [2], "inputs": {"y": "z", "t": "t"}, "outputs": {"drift": "f"}}
SOLVER = "dopri5"
"""The one that torchdiffeq has too."""
START_S = 120.0
Answer = tuple[NDArray[np.float64], int]
"""States [T, 2] of a trajectory, and rows of the field that it took."""


def timed(ask: Callable[[Job], Answer], wanted: Sequence[Job], clients: int) -> tuple[float, list[Answer]]:
    """Seconds until all requests are answered, by so many clients at a time, and the answers in order."""
    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        answers = list(pool.map(ask, wanted))
        return time.perf_counter() - began, answers


def calls(server: Running, model: str) -> float:
    """Network calls of a model so far."""
    return scrape(server).total("tiltserve_bucket_fill_count", model=model)


def show(name: str, seconds: float, network_calls: float | str, answers: Sequence[Answer]) -> None:
    rows = sum(each for _, each in answers)
    print(f"{name:44} {seconds:9.2f} {len(answers) / seconds:9.1f} {network_calls:>8} {rows:8d}", flush=True)


def compare(server: Running, wanted: Sequence[Job], rounds: int) -> list[Answer]:
    """One at a time and together, without and with graphs of whole steps; the answers alone."""
    first: list[Answer] = []
    with Client(server.grpc) as client:
        for model in ("swirl", "swirl-step"):

            def ask(job: Job, model: str = model) -> Answer:
                found = client.solve(model, [job.y0], TIMES, solver=SOLVER, rtol=job.rtol, atol=job.rtol, seed=0)
                return np.asarray(found)[0], int(found.evaluations[0])

            timed(ask, wanted, len(wanted))  # channels are open, graphs are warm
            seen: dict[int, list[tuple[float, float, list[Answer]]]] = {1: [], len(wanted): []}
            for _ in range(rounds):
                for clients, found in seen.items():
                    before = calls(server, model)
                    seconds, answers = timed(ask, wanted, clients)
                    found.append((seconds, calls(server, model) - before, answers))
            what = "steps" if model.endswith("step") else "stages"
            for clients, found in seen.items():
                seconds, network_calls, answers = sorted(found, key=lambda each: each[0])[len(found) // 2]
                how = "one at a time" if clients == 1 else f"{clients} clients"
                show(f"tiltserve, {what}, {how}", seconds, f"{network_calls:.0f}", answers)
            alone, together = (found[0][2] for found in seen.values())
            same = sum(a[0].tobytes() == b[0].tobytes() for a, b in zip(alone, together, strict=True))
            print(f"{'':44} the same bytes alone and together: {same} of {len(wanted)}", flush=True)
            first = first or alone
    return first


@contextlib.contextmanager
def rival(width: int) -> Iterator[str]:
    """Where torchdiffeq in Ray Serve listens."""
    with tempfile.TemporaryDirectory(prefix="torchdiffeq-") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        python = str(environment("torchdiffeq") / "bin" / "python")
        command = [python, "-m", "benchmarks._peers.serve_torchdiffeq", json.dumps([port, width])]
        log = Path(folder) / "log"
        with process(command, {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))}, log) as alive:
            until = time.monotonic() + START_S
            while "ready" not in log.read_text() and alive() and time.monotonic() < until:
                time.sleep(0.3)
            if "ready" not in log.read_text():
                end = log.read_text()[-2000:]
                raise RuntimeError(f"expected torchdiffeq to serve within {START_S:g} s; its log ends: {end}")
            yield f"http://127.0.0.1:{port}/solve"


def ask_rival(url: str) -> Callable[[Job], Answer]:
    def ask(job: Job) -> Answer:
        request = urllib.request.Request(url, json.dumps({"y0": job.y0, "rtol": job.rtol}).encode())
        with urllib.request.urlopen(request, timeout=120) as reply:
            found = np.frombuffer(reply.read())
        return found[:-1].reshape(len(TIMES), 2), int(found[-1])

    return ask


def exact(wanted: Sequence[Job], width: int) -> NDArray[np.float64]:
    """States [n, T, 2] of the field in float64 at a tolerance of 1e-11."""
    field = Swirl(width).double().eval()
    with torch.no_grad():
        y0 = torch.tensor([job.y0 for job in wanted], dtype=torch.float64)
        found = solve(field, y0, TIMES.tolist(), rtol=1e-11, atol=1e-12)
    return found.y.numpy()


def errors(answers: Sequence[Answer], reference: NDArray[np.float64], wanted: Sequence[Job]) -> str:
    """The median error of each tolerance."""
    largest = [float(np.abs(y - right).max()) for (y, _), right in zip(answers, reference, strict=True)]
    by = {job.rtol: [e for e, each in zip(largest, wanted, strict=True) if each.rtol == job.rtol] for job in wanted}
    return ", ".join(f"{rtol:g}: {float(np.median(found)):.1e}" for rtol, found in by.items())


def host_cost() -> None:
    """Microseconds of the solver for each step of a trajectory, where the field costs nothing."""
    print(f"\n{'trajectories':>12} {'us a step of one':>17}")
    for n in (1, 32, 1024):
        best = min(_step_us(n) for _ in range(3))
        print(f"{n:12d} {best:17.1f}")


def _step_us(n: int) -> float:
    inside = 0.0

    def field(y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal inside
        began = time.perf_counter()
        slope = -y + torch.sin(t)[:, None]
        inside += time.perf_counter() - began
        return slope

    y0 = torch.linspace(0.5, 1.5, 2 * n, dtype=torch.float64).reshape(n, 2)
    began = time.perf_counter()
    found = solve(field, y0, [0.0, 20.0], rtol=1e-6, atol=1e-9)
    return (time.perf_counter() - began - inside) / int((found.accepted + found.rejected).sum()) * 1e6


def main(
    clients: Annotated[int, typer.Option(help="Each with one trajectory.")] = 32,
    width: Annotated[int, typer.Option(help="Of the field's hidden layers.")] = 64,
    rounds: Annotated[int, typer.Option(help="Turns of each; the table has the medians.")] = 5,
    torchdiffeq: Annotated[bool, typer.Option(help="Also by torchdiffeq in Ray Serve.")] = True,
) -> None:
    """Print what the same requests take, and how far their answers are from the exact ones."""
    torch.set_num_threads(1)
    print(machine())
    wanted = jobs(clients)
    reference = exact(wanted, width)
    print(f"{'':44} {'seconds':>9} {'a second':>9} {'calls':>8} {'rows':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name, step in (("swirl", False), ("swirl-step", True)):
            spec = {**SPEC, "solver": {"name": SOLVER}}
            card = Card.model_validate({"name": name, "dynamics": spec})
            export_dynamics(Swirl(width), Path(folder) / name, card, step=step)
        with running_server(Path(folder), replicas=1, options=["--threads-per-replica", "1"]) as server:
            ours = compare(server, wanted, rounds)
    print(f"{'':44} error by rtol: {errors(ours, reference, wanted)}", flush=True)
    if torchdiffeq:
        try:
            with rival(width) as url:
                ask = ask_rival(url)
                timed(ask, wanted, clients)
                for many in (1, clients):
                    found = sorted((timed(ask, wanted, many) for _ in range(rounds)), key=lambda each: each[0])
                    seconds, answers = found[len(found) // 2]
                    how = "one at a time" if many == 1 else f"{many} clients"
                    show(f"torchdiffeq in Ray Serve, {how}", seconds, str(sum(rows for _, rows in answers)), answers)
            print(f"{'':44} error by rtol: {errors(answers, reference, wanted)}", flush=True)
        except subprocess.CalledProcessError as error:
            print(f"torchdiffeq could not be installed: {error}", file=sys.stderr)
    host_cost()


if __name__ == "__main__":
    typer.run(main)
