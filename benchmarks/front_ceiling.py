"""Requests per second through the front with a network that costs next to nothing, with one replica and with two.

    make bench ARGS="front_ceiling"

A two-dimensional network: one row of it raw (`rings.network`), and one sample of one step. `ServerLive` is what the
front answers by itself. 1, 8 and 32 clients in one process, each with a connection of its own; what front, replicas and
clients take of the cores says who is the bound. `front alone` is requests per CPU second of the front: what it would
do with a core of its own and everybody else elsewhere. `direct` are the same calls at the replica's own address, as
`tiltserve models --json` lists it: what the front costs.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tritonclient.grpc import service_pb2 as pb

from benchmarks._load import Closed, Driver, Request, infer_body, percentile
from benchmarks._server import Cpu, machine, replica_address
from deploy.process import Running, running_server
from tests.networks import write_rings

LIVE = "/inference.GRPCInferenceService/ServerLive"
WARM_S = 1.0
CALLS = {
    "ServerLive": Request("ServerLive", pb.ServerLiveRequest().SerializeToString(), method=LIVE),
    "raw row": Request(
        "raw row", infer_body("rings.network", {}, {"x": np.ones((1, 2), np.float32), "t": np.full(1, 0.5, np.float32)})
    ),
    "one step": Request("one step", infer_body("rings", {"steps": 1, "solver": "euler", "seed": 1})),
}


def measure(
    server: Running, address: str, driver: Driver, replicas: int, clients: int, call: Request, seconds: float
) -> tuple[float, float]:
    """Print one line, and give the requests per second and those per CPU second of the front (0 without it)."""
    driver.start(address, [call], Closed(clients), WARM_S).result()
    cpu = Cpu(server, [driver.pid])
    cpu.start()
    begin = time.monotonic()
    records = driver.start(address, [call], Closed(clients), seconds).result()
    end, cores = time.monotonic(), cpu.cores()
    failed = [record for record in records if record.status != "OK"]
    if failed:
        raise RuntimeError(f"a request failed: {failed[0].status}: {failed[0].detail}")
    rate = len(records) / (end - begin)
    latency = [1000 * record.seconds for record in records]
    used = " ".join(f"{cores[part]:9.2f}" for part in ("front", "replicas", "clients", "others"))
    direct = address != server.grpc
    ceiling = 0.0 if direct else rate / cores["front"]
    print(
        f"{call.kind + direct * ' direct':16} {replicas:9d} {clients:8d} {rate:11.0f} {percentile(latency, 50):8.2f} "
        f"{percentile(latency, 99):8.2f} {used} {ceiling:11.0f}",
        flush=True,
    )
    return rate, ceiling


def main(
    seconds: Annotated[float, typer.Option(help="Of each line.")] = 8.0,
    replicas: Annotated[list[int] | None, typer.Option(help="Again for more. [1, 2]")] = None,
    option: Annotated[list[str] | None, typer.Option(help="Passed to `tiltserve serve`, as --option=--flag=x.")] = None,
) -> None:
    """Print the table; latencies are in milliseconds, the last columns in cores."""
    print(machine())
    print(
        f"{'call':16} {'replicas':>9} {'clients':>8} {'requests/s':>11} {'p50':>8} {'p99':>8} "
        f"{'front':>9} {'replicas':>9} {'clients':>9} {'others':>9} {'front alone':>11}"
    )
    best: dict[tuple[str, int], tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as temporary, Driver() as driver:
        write_rings(Path(temporary))
        for number in replicas or [1, 2]:
            flags = ["--threads-per-replica=1", *(option or [])]
            with running_server(Path(temporary), replicas=number, options=flags) as server:
                direct = {f"{name} direct": replica_address(server) for name in CALLS} if number == 1 else {}
                for name, address in {**dict.fromkeys(CALLS, server.grpc), **direct}.items():
                    call = CALLS[name.removesuffix(" direct")]
                    best[name, number] = max(
                        measure(server, address, driver, number, clients, call, seconds) for clients in (1, 8, 32)
                    )
    for (name, number), (rate, ceiling) in best.items():
        print(f"most of {name}, {number} replica{'s' * (number > 1)}: {rate:.0f} requests/s, front alone {ceiling:.0f}")


if __name__ == "__main__":
    typer.run(main)
