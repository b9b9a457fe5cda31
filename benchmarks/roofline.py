"""Network rows per second through the server, over those of the bare ONNX Runtime session at its best batch.

    make bench ARGS="roofline"

32 clients, each with one request under way: solvers at random, 5 to 60 steps, 1 to 4 samples, a third of the requests
steered, every other one of those by the built-in `linear`, the others by the served classifier. The bare session runs
with the same number of threads, before, between and after the windows, while the server is idle; figures are medians.
Also without steering, and on a network ten times as dear.

Clients, front and replica share the machine's cores, so with all cores given to the network the clients' own work is
lost to it; the line with fewer threads than cores shows the engine alone.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime
import psutil
import typer

from benchmarks._heavy import write_heavy
from benchmarks._load import Closed, Driver, Parameter, Record, Request, infer_body
from benchmarks._server import MODELS, Cpu, machine, scrape
from deploy.pages import Growth
from deploy.process import Running, running_server
from protos.card import load_card

SIZES = (8, 16, 24, 32, 48, 64)
SOLVERS = (
    "ddim", "euler", "flow_euler", "heun", "dpmpp_2m", "dpmpp_3m", "dpmpp_2s", "dpm_solver_2", "dpm_solver_3",
    "unipc_2", "unipc_3", "deis_tab2", "deis_rhoab2", "ipndm_3", "flow_ab2", "rho_heun", "rho_rk4", "trig_adams_2",
    "sde_dpmpp_2m", "euler_ancestral",
)  # fmt: skip
LABELS, DIRECTIONS = 10, 8
CANDIDATES = 3
STREAM = 2048
ROWS = 120
"""Network rows of a request, about: what the clients begin together has half ended before a window begins."""


class Bare:
    """A graph in an ONNX Runtime session of its own, on made-up rows."""

    def __init__(self, models: Path, threads: int, seed: int = 0) -> None:
        card = load_card(models / "digits" / "card.yaml")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        file = models / "digits" / "1" / "model.onnx"
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((max(SIZES), *card.event_shape), dtype=np.float32)
        self._feeds = {card.inputs.x: x, card.inputs.t: rng.uniform(0.05, 0.95, len(x)).astype(np.float32)}
        self.rates: dict[int, list[float]] = {size: [] for size in SIZES}
        self._sizes: list[int] = list(SIZES)

    def measure(self, seconds: float) -> None:
        """Note the rows per second of each size, timed for so long each, at least three calls.

        All sizes the first time, from then on the best `CANDIDATES`.
        """
        for size in self._sizes:
            rates = self.rates[size]
            feeds = {name: value[:size] for name, value in self._feeds.items()}
            self._session.run(None, feeds)
            begin, calls = time.perf_counter(), 0
            while calls < 3 or time.perf_counter() - begin < seconds:
                self._session.run(None, feeds)
                calls += 1
            rates.append(calls * size / (time.perf_counter() - begin))
        self._sizes = sorted(self._sizes, key=lambda size: statistics.median(self.rates[size]))[-CANDIDATES:]

    @property
    def best(self) -> int:
        """The size with the highest median among those measured every time."""
        return max(self._sizes, key=lambda size: statistics.median(self.rates[size]))


@dataclass(frozen=True)
class Window:
    """What one window of load showed; `bare` is the mean of the bare rates before and after it, in rows per second."""

    growth: Growth
    cores: Mapping[str, float]
    records: Sequence[Record]
    bare: float

    @property
    def rows(self) -> float:
        """Network rows."""
        return self.growth.of("tiltserve_rows_total", kind="network")

    @property
    def rate(self) -> float:
        """Network rows per second."""
        return self.rows / self.growth.seconds

    @property
    def calls(self) -> float:
        """Network calls."""
        return self.growth.of("tiltserve_network_seconds_count", model="digits")

    def in_calls(self, model: str) -> float:
        """Seconds spent inside calls of a network."""
        return self.growth.of("tiltserve_network_seconds_sum", model=model)

    @property
    def fill(self) -> float:
        """Mean share of a call's rows that were asked for."""
        return self.growth.of("tiltserve_bucket_fill_sum", model="digits") / self.calls

    @property
    def reward_rows(self) -> float:
        """Reward rows a network row."""
        return self.growth.of("tiltserve_rows_total", kind="reward") / self.rows

    def phase(self, name: str) -> float:
        """Share of the time that the engine's thread spent on this."""
        return self.growth.of("tiltserve_engine_seconds_total", phase=name) / self.growth.seconds


def stream(seed: int, steered: bool) -> list[Request]:
    """Requests at random."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(0, 0.1, (DIRECTIONS, 1, 28, 28)).astype(np.float32)
    made = []
    for number in range(STREAM):
        parameters: dict[str, Parameter] = {
            "solver": str(rng.choice(SOLVERS)),
            "steps": int(rng.integers(5, 61)),
            "samples": int(rng.integers(1, 5)),
            "seed": number,
        }
        kind = ("plain", "linear", "plain", "plain", "classifier", "plain")[number % 6] if steered else "plain"
        made.append(_request(kind, parameters, int(rng.integers(LABELS)), directions[rng.integers(DIRECTIONS)]))
    return made


def targets(seed: int) -> list[Request]:
    """One short request for each target of `stream`: its price once per replica is paid before anything is timed."""
    directions = np.random.default_rng(seed).normal(0, 0.1, (DIRECTIONS, 1, 28, 28)).astype(np.float32)
    short: dict[str, Parameter] = {"steps": 2, "seed": 0}
    linear = [_request("linear", short, 0, direction) for direction in directions]
    return linear + [_request("classifier", short, label, directions[0]) for label in range(LABELS)]


def _request(kind: str, parameters: Mapping[str, Parameter], label: int, direction: np.ndarray) -> Request:
    if kind == "linear":
        body = infer_body("digits", {**parameters, "reward": kind}, {"reward_direction": direction})
    elif kind == "classifier":
        body = infer_body("digits", {**parameters, "reward": kind, "reward_label": label})
    else:
        body = infer_body("digits", parameters)
    return Request(kind, body)


def windows(
    server: Running, driver: Driver, bare: Bare, requests: Sequence[Request], clients: int, count: int, seconds: float
) -> list[Window]:
    """Windows of load with the bare session measured around each of them."""
    found = []
    each = min(2.0, seconds / 12)
    bare.measure(each)  # of all sizes
    bare.measure(each)
    warm = 0.5 * clients * ROWS / statistics.median(bare.rates[bare.best])
    for number in range(count):
        first = number * len(requests) // count
        loading = driver.start(
            server.grpc, [*requests[first:], *requests[:first]], Closed(clients), math.inf, finish=False
        )
        time.sleep(warm)
        cpu = Cpu(server, [driver.pid])
        cpu.start()
        before = scrape(server)
        time.sleep(seconds)
        after, cores = scrape(server), cpu.cores()
        driver.stop()
        records = loading.result()
        _settle(server)
        bare.measure(each)
        found.append((Growth(before, after), cores, records))
    rates = bare.rates[bare.best][-count - 1 :]
    return [Window(*window, statistics.mean(pair)) for window, pair in zip(found, pairwise(rates), strict=True)]


def _settle(server: Running) -> None:
    """Wait until the cancelled requests' rows are gone."""
    end = time.monotonic() + 60
    while scrape(server).total("tiltserve_backlog_rows"):
        if time.monotonic() > end:
            raise RuntimeError("expected an empty backlog within 60 s of the load's end")
        time.sleep(0.2)
    time.sleep(0.5)


def show(title: str, found: Sequence[Window], bare: Bare, threads: int) -> float:
    """Print a line's figures, medians over the windows, and give the ratio."""

    def of(read: Callable[[Window], float]) -> float:
        return statistics.median(map(read, found))

    ratios = [window.rate / window.bare for window in found]
    rates = ", ".join(f"{size}: {statistics.median(rates):.1f}" for size, rates in bare.rates.items())
    phases = found[0].growth.after.label_values("tiltserve_engine_seconds_total", "phase")
    statuses = [record.status for window in found for record in window.records if record.status != "LEFT"]
    failed = {status: statuses.count(status) for status in sorted({*statuses} - {"OK"})}
    print(f"\n{title}, {threads} thread{'s' * (threads > 1)}")
    print(f"  bare session, rows/s by batch: {rates}; best {bare.best}")
    print(f"  served {of(lambda w: w.rate):.1f} rows/s, bare {of(lambda w: w.bare):.1f}")
    print(f"  ratio {statistics.median(ratios):.3f} ({', '.join(f'{each:.3f}' for each in ratios)})")
    print(
        f"  network: in calls {of(lambda w: w.in_calls('digits') / w.growth.seconds):.3f} of the time; "
        f"{of(lambda w: w.rows / w.calls):.1f} rows a call, fill {of(lambda w: w.fill):.3f}; "
        f"{of(lambda w: 1000 * w.in_calls('digits') / w.rows):.2f} ms a row, bare {of(lambda w: 1000 / w.bare):.2f}"
    )
    print(
        f"  classifier: in calls {of(lambda w: w.in_calls('classifier') / w.growth.seconds):.3f} of the time; "
        f"{of(lambda w: w.reward_rows):.1f} reward rows a network row, of all rewards"
    )
    if phases:
        print(
            "  engine's thread: " + ", ".join(f"{each} {of(partial(Window.phase, name=each)):.3f}" for each in phases)
        )
    cores = {part: statistics.median(window.cores[part] for window in found) for part in found[0].cores}
    print("  cores in use: " + ", ".join(f"{part} {value:.2f}" for part, value in cores.items()))
    print(
        f"  requests ended: {len(statuses)}, " + (f"of them failed: {failed}" if failed else "none failed"), flush=True
    )
    return statistics.median(ratios)


def main(
    threads: Annotated[list[int] | None, typer.Option(help="Of the network; again for more. [1 and all cores]")] = None,
    clients: int = 32,
    seconds: Annotated[float, typer.Option(help="Of one window; twice as long on the dear network.")] = 20.0,
    count: Annotated[int, typer.Option("--windows", min=1)] = 3,
    digits: Annotated[bool, typer.Option(help="The demo's digit model.")] = True,
    heavy: Annotated[bool, typer.Option(help="The network ten times as dear.")] = True,
    option: Annotated[list[str] | None, typer.Option(help="Passed to `tiltserve serve`, as --option=--flag=x.")] = None,
    seed: int = 0,
) -> None:
    """Print where the time goes for each line, and a table of the ratios with what is aimed for."""
    table = []
    with tempfile.TemporaryDirectory() as temporary, Driver() as driver:
        models: dict[str, tuple[Path, float, float]] = {}
        if digits:
            models["digits"] = MODELS, 0.90, seconds
        if heavy:
            models["ten times as dear"] = write_heavy(Path(temporary)), 0.95, 2 * seconds
        print(f"{machine()}; {clients} clients, {count} windows a line")
        for number in threads or sorted({1, psutil.cpu_count() or 1}):
            for name, (root, aim, length) in models.items():
                flags = [f"--threads-per-replica={number}", *(option or [])]
                with running_server(root, options=flags) as server:
                    failed = [r for r in driver.once(server.grpc, targets(seed)) if r.status != "OK"]
                    if failed:
                        raise RuntimeError(f"a request failed: {failed[0].status}: {failed[0].detail}")
                    for steered in (True, False):
                        bare = Bare(root, number)
                        line = windows(server, driver, bare, stream(seed, steered), clients, count, length)
                        title = f"{name}, " + ("a third steered" if steered else "plain")
                        table.append((title, number, show(title, line, bare, number), aim))
    print("\nline                                  threads  ratio  aim")
    for title, number, ratio, aim in table:
        print(f"{title:38} {number:6d}  {ratio:.3f}  {aim:.2f}")


if __name__ == "__main__":
    typer.run(main)
