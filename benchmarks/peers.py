"""Unequal requests on tiltserve and on what one would write with Ray Serve, Triton, KServe's Python server or LitServe.

All serve the same ONNX network with the same number of threads to the same seeded arrivals. The peers batch whole
requests and run diffusers' DPM-Solver++(2M) for a batch, as docs/peers.md tells.
"""

import asyncio
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks._peers.bare import capacity, legible
from benchmarks._peers.clients import Client, Reply, Target
from benchmarks._peers.environments import REQUIREMENTS
from benchmarks._peers.ideal import ORDERS, ideal
from benchmarks._peers.load import Outcome
from benchmarks._peers.sampling import STRATEGIES
from benchmarks._peers.summary import HEADER, Summary, median, summary
from benchmarks._peers.systems import MODELS, NAMES, NETWORK, ROOT, Batching, System, start
from benchmarks._peers.trace import MEAN_ROWS, Patience, Request, burst, poisson

# where a row costs the same in any batch, requests in one wait for each other and gain nothing but fewer calls of the
# scheduler, which only equal requests that come at once have to share
BEST = Batching("ragged", 0, 0.0)
BEST_AT_ONCE = Batching("grouped", 32, 5.0)
BATCHES = (8, 32)
Images = np.ndarray[Any, np.dtype[np.float32]]
JUDGE = MODELS / "judge" / "1" / "model.onnx"
BURST, BURST_STEPS = 32, 20
PROBE = Request(0.0, 1, 2, 0, 60.0)
BURSTS = 0.0  # in place of a load


def run(system: System, requests: Sequence[Request], speed: float) -> Summary:
    """Replay a trace from another process."""
    _settle(system.target)
    before = system.rows()
    outcomes = _replay(system.target, requests)
    _settle(system.target)
    after = system.rows()
    if lost := [each.text for each in outcomes if each.code == "failed"]:
        print(f"{len(lost)} failed, the first with: {lost[0]}", file=sys.stderr)
    if (lag := max(each.lag for each in outcomes)) > 0.1:
        print(f"the load generator was up to {lag:.2f} s late", file=sys.stderr)
    return summary(
        requests,
        outcomes,
        speed,
        after.needed - before.needed - PROBE.rows,
        after.computed - before.computed - PROBE.rows,
    )


def _settle(target: Target) -> None:
    """Until what clients gave up is out of the way and counted: peers finish it, one after another."""

    async def ask() -> Reply:
        async with Client(target) as client:
            return await client.ask(PROBE)

    if (reply := asyncio.run(ask())).code != "ok":
        raise RuntimeError(f"expected an answer within {PROBE.timeout:g} s of the last request, got: {reply.text}")


def _replay(target: Target, requests: Sequence[Request]) -> list[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        trace, out = Path(folder) / "trace.json", Path(folder) / "out.json"
        trace.write_text(json.dumps({"target": asdict(target), "requests": [asdict(each) for each in requests]}))
        command = [sys.executable, "-m", "benchmarks._peers.load", str(trace), str(out)]
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return [Outcome(**each) for each in json.loads(out.read_text())]


def draw(target: Target, count: int = 16) -> Images:
    """Samples [4 * count, 1, 28, 28] by 20 steps."""

    async def ask() -> list[Images]:
        async with Client(target) as client:
            replies = [await client.ask(Request(0.0, 4, 20, 1000 + each, 60.0)) for each in range(count)]
            if lost := [reply.text for reply in replies if reply.samples is None]:
                raise RuntimeError(f"expected samples, got: {lost[0]}")
            return [reply.samples for reply in replies if reply.samples is not None]

    return np.concatenate(asyncio.run(ask()))


def machine() -> str:
    """The processor and its cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def versions() -> str:
    names = ("onnxruntime", "torch", "diffusers", "ray", "grpcio")
    ours = [f"{name} {version(name)}" for name in names]
    pins = [line for file in REQUIREMENTS.glob("*.txt") for line in file.read_text().split()]
    theirs = [pin.replace("==", " ") for pin in pins if pin.startswith(("kserve=", "litserve=", "nvidia-pytriton="))]
    return ", ".join([f"Python {platform.python_version()}", *ours, *theirs])


def batchings() -> list[str]:
    """All that a peer could do."""
    return ["ragged:0:0", *(f"{strategy}:{batch}:5" for batch in BATCHES for strategy in STRATEGIES)]


def parse(text: str) -> Batching:
    """`STRATEGY:ROWS:DELAY_MS`."""
    strategy, batch, delay = text.split(":")
    if strategy not in STRATEGIES:
        raise typer.BadParameter(f"expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
    return Batching(strategy, int(batch), float(delay))


@dataclass(frozen=True)
class Plan:
    """What to measure: a system, and for peers how they batch under load and when all comes at once."""

    label: str
    name: str
    batching: Batching = BEST
    at_once: Batching = BEST_AT_ONCE


def plans(names: Sequence[str], ways: Sequence[str]) -> list[Plan]:
    """Each peer in each of `ways`, or at its best if there are none."""
    found = []
    for name in names:
        if ways and name != "tiltserve":
            found += [Plan(f"{NAMES[name]} {way}", name, parse(way), parse(way)) for way in ways]
        else:
            found.append(Plan(NAMES[name], name))
    return found


def main(
    names: Annotated[list[str] | None, typer.Option("--system", "-s", help=", ".join(NAMES))] = None,
    loads: Annotated[list[float] | None, typer.Option("--load", "-l", help="Shares of the bare rows/s.")] = None,
    seconds: Annotated[float, typer.Option(help="Of arrivals in a run.")] = 20.0,
    repeats: Annotated[int, typer.Option(help="Runs with other arrivals; the tables have medians.")] = 3,
    threads: Annotated[int, typer.Option(help="Of each system's network; 0: the cores.")] = 0,
    seed: int = 0,
    factor: Annotated[float, typer.Option(help="Clients wait for this multiple of the request's time alone,")] = 10.0,
    least: Annotated[float, typer.Option(help="and at least for these seconds.")] = 1.0,
    ways: Annotated[list[str] | None, typer.Option("--batching", help="STRATEGY:ROWS:DELAY_MS, not the best.")] = None,
    tune: Annotated[bool, typer.Option(help="Every batching of every peer.")] = False,
    quick: Annotated[bool, typer.Option(help="One short run at each of two loads.")] = False,
) -> None:
    """Print a table for each load, and one for equal requests all at once."""
    os.chdir(ROOT)
    if quick:
        seconds, repeats, loads = 5.0, 1, loads or [0.8, 1.2]
    chosen = names or list(NAMES)
    if unknown := [name for name in chosen if name not in NAMES]:
        raise typer.BadParameter(f"expected systems among {', '.join(NAMES)}, got {unknown[0]!r}")
    threads = threads or len(os.sched_getaffinity(0))
    speed, best = capacity(NETWORK, threads)
    patience = Patience(factor, least)
    loads = loads or [0.5, 0.8, 1.0, 1.2]
    traces = {load: [poisson(load, speed, seconds, seed + each, patience) for each in range(repeats)] for load in loads}
    print(f"{machine()}; {threads} threads a system; {versions()}")
    print(f"`tiltserve bench peers {shlex.join(sys.argv[1:])}`")
    print(
        f"bare network: {speed:.0f} rows/s at batch {best}; a request is {MEAN_ROWS:.1f} rows on average, its client "
        f"waits {factor:g} times what the bare network would take for it alone, and {least:g} s at least"
    )
    workload = {**traces, BURSTS: [burst(BURST, BURST_STEPS, seed + each) for each in range(repeats)]}
    runs: dict[str, dict[float, Summary]] = {}
    notes: list[str] = []
    for plan in plans(chosen, batchings() if tune else ways or []):
        found = runs[plan.label] = {}
        speed_now, _ = capacity(NETWORK, threads)
        once = plan.name != "tiltserve" and plan.at_once != plan.batching
        parts = [(plan.batching, list(traces)), (plan.at_once, [BURSTS])] if once else [(plan.batching, list(workload))]
        try:
            for how, part in parts:
                with start(plan.name, how, threads) as system:
                    share = legible(JUDGE, draw(system.target))
                    for load in part:
                        found[load] = median([run(system, trace, speed) for trace in workload[load]])
                        print(f"{load:g}", found[load].row(plan.label), file=sys.stderr, flush=True)
            notes.append(f"{plan.label}: {speed_now / speed:.2f}, {share:.2f}")
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            notes.append(f"{plan.label}: not measured to the end: {error}")
        print(notes[-1], file=sys.stderr, flush=True)
    for load, trace_s in traces.items():
        rate = load * speed / MEAN_ROWS
        print(f"\nload {load:g}: {rate:.2f} requests/s, {sum(map(len, trace_s))} requests\n\n{HEADER}")
        _print(runs, load)
        for label, order in ORDERS.items():
            print(median([summary(trace, ideal(trace, speed, order), speed) for trace in trace_s]).row(label))
    print(f"\n{BURST} requests of one sample by {BURST_STEPS} steps, all at once\n\n{HEADER}")
    _print(runs, BURSTS)
    print("\nthe bare network's speed before each system over the first; share of samples that the judge reads:\n")
    print("\n".join(f"- {note}" for note in notes))
    raise typer.Exit(0 if all(len(found) == len(workload) for found in runs.values()) else 1)


def _print(runs: Mapping[str, Mapping[float, Summary]], load: float) -> None:
    for label, found in runs.items():
        if load in found:
            print(found[load].row(label))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    typer.run(main)
