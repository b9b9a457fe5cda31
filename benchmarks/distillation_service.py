"""What a gradient of distillation costs beside its rows, one a call or on a stream, and how many optimisations share.

    make bench ARGS="distillation_service"

First the gradient alone, in this process. Then a server with one replica, over loopback. The first table has one
client at a time, whose next call waits for the last one's answer: four views of 3 x 32 x 32 in float32, four latents of
4 x 64 x 64 in float16, and four pictures of 3 x 512 x 512 in float16, of networks that cost next to nothing. `network`
are the milliseconds of the calls of the network, `beside` those of all else: client, front, replica, noise, the
gradient itself; `least` are those of the quickest calls, which a busy machine delays least: of streamed ones, whose
network's times are not told, the whole. `echo` is a call of a plain network with as many rows, for what the two hops
take. The second has 1 and 8 optimisations at a time, of four views each, on the digits' U-Net: rows a second, and their
share of those of the bare network in this process.
"""

import math
import statistics
import tempfile
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any

import grpc
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

import steering
from benchmarks._load import Closed, Driver, Request, infer_body, percentile
from benchmarks._server import MODELS, machine
from deploy.process import running_server
from protos.tiltserve.v1 import distillation_pb2 as pb
from protos.tiltserve.v1.distillation_pb2_grpc import DistillationStub
from serving.backends.ort import OrtNetwork
from serving.watching.record import TIMES, TIMING, TRAILING
from serving.watching.times import milliseconds
from serving.wire.tensors import tensor
from steering.sampling.rows import answered
from tests import gaussians

VIEWS, MB = 4, 2**20
SHAPES: dict[str, tuple[tuple[int, ...], type[np.floating[Any]]]] = {
    "views": ((3, 32, 32), np.float32),
    "latents": ((4, 64, 64), np.float16),
    "pictures": ((3, 512, 512), np.float16),
}
GRADIENT = "/tiltserve.v1.Distillation/Gradient"
WARM = 20
OPTIONS = [("grpc.max_receive_message_length", 256 * MB), ("grpc.max_send_message_length", 256 * MB)]
ROWS = (8, 16, 32)
"""Sizes of calls of the bare network."""

HEADS = (("p50", 8), ("p99", 8), ("network", 9), ("beside", 8), ("least", 8))

Times = list[tuple[float, float | None]]
"""Milliseconds of calls: the whole, and the network's where they are told."""


def request(model: str, mode: str, iteration: int, x: NDArray[Any] | None) -> pb.GradientRequest:
    sent = None if x is None else tensor(x)
    return pb.GradientRequest(model=model, mode=mode, iteration=iteration, seed=1, input=sent)


def views(name: str) -> NDArray[Any]:
    event, dtype = SHAPES[name]
    return np.random.default_rng(0).normal(size=(VIEWS, *event)).astype(dtype)


def unary(stub: DistillationStub, model: str, mode: str, count: int) -> Times:
    """Calls one after another."""
    x, found = views(model), Times()
    for k in range(WARM + count):
        message = request(model, mode, k, x)
        begin = time.perf_counter()
        _, call = stub.Gradient.with_call(message, metadata=[(TIMING, TRAILING)])
        took = 1000 * (time.perf_counter() - begin)
        told = dict(call.trailing_metadata())[TIMES]
        found.append((took, milliseconds(told)["network"]))
    return found[WARM:]


def streamed(stub: DistillationStub, model: str, mode: str, count: int) -> Times:
    """Requests of one stream, each sent when the last one is answered; the network's times are not told there."""
    x, found = views(model), Times()
    outgoing: SimpleQueue[pb.SessionRequest | None] = SimpleQueue()
    replies = stub.Session(iter(outgoing.get, None))
    outgoing.put(pb.SessionRequest(common=request(model, mode, 0, None)))
    for k in range(WARM + count):
        message = pb.SessionRequest(gradient=pb.GradientRequest(iteration=k, input=tensor(x)))
        begin = time.perf_counter()
        outgoing.put(message)
        reply = next(replies)
        found.append((1000 * (time.perf_counter() - begin), None))
        if reply.HasField("error"):
            raise RuntimeError(reply.error.message)
    outgoing.put(None)
    return found[WARM:]


def echo(channel: grpc.Channel, count: int) -> Times:
    """Calls of one row of a network that costs next to nothing."""
    event = SHAPES["views"][0]
    row = {"x": np.zeros((VIEWS, *event), np.float32), "t": np.full(VIEWS, 0.5, np.float32)}
    body = service_pb2.ModelInferRequest.FromString(infer_body("views.network", {}, row))
    stub, found = service_pb2_grpc.GRPCInferenceServiceStub(channel), Times()
    for _ in range(WARM + count):
        begin = time.perf_counter()
        _, call = stub.ModelInfer.with_call(body, metadata=[(TIMING, TRAILING)])
        took = 1000 * (time.perf_counter() - begin)
        found.append((took, milliseconds(dict(call.trailing_metadata())[TIMES])["network"]))
    return found[WARM:]


def alone(name: str, mode: str) -> float:
    """Milliseconds of a core that the gradient of four views takes beside the network, in the quickest of some runs."""
    torch.set_num_threads(1)
    x = torch.from_numpy(views(name).astype(np.float32))
    path = steering.paths.rectified_flow(t_min=0.001, t_max=0.999)
    plan = steering.distillation.prior(path, "velocity")
    problem = steering.Problem(plan=plan, event=SHAPES[name][0])
    settings, best, end = steering.distillation.Settings(mode=mode), math.inf, time.perf_counter() + 2.0
    while time.perf_counter() < end:
        asking = steering.distillation.gradient(problem, x, settings, iteration=1, seed=1)
        begin = time.perf_counter()
        answered(asking, lambda rows: rows.x)
        best = min(best, 1000 * (time.perf_counter() - begin))
    return best


def bare(seconds: float) -> float:
    """Rows a second of the digits' network in this process, at the best size of a call."""
    network, best = OrtNetwork(MODELS / "digits" / "1" / "model.onnx", 1), 0.0
    for rows in ROWS:
        feeds = {"x": np.zeros((rows, 1, 28, 28), np.float32), "t": np.full(rows, 0.5, np.float32)}
        calls, end = 0, time.perf_counter() + seconds / len(ROWS)
        begin = time.perf_counter()
        while time.perf_counter() < end:
            network.run(feeds, ["v"])
            calls += 1
        best = max(best, calls * rows / (time.perf_counter() - begin))
    return best


def sharing(driver: Driver, address: str, mode: str, clients: int, seconds: float) -> float:
    """Network rows a second of so many optimisations."""
    x = np.random.default_rng(0).normal(size=(VIEWS, 1, 28, 28)).astype(np.float32)
    calls = [
        Request("gradient", request("digits", mode, k, x).SerializeToString(), method=GRADIENT) for k in range(256)
    ]
    driver.start(address, calls, Closed(clients), 1.0).result()
    records = driver.start(address, calls, Closed(clients), seconds).result()
    if failed := [each for each in records if each.status != "OK"]:
        raise RuntimeError(f"a gradient failed: {failed[0].status}: {failed[0].detail}")
    span = max(each.ended for each in records) - min(each.sent for each in records)
    return len(records) * VIEWS * (2 if mode == "cds" else 1) / span


def tell(name: str, mode: str, how: str, found: Times) -> None:
    """Print a line."""
    whole, beside = [each for each, _ in found], [each - its for each, its in found if its is not None]
    line = f"{name:10} {mode:5} {how:9} {percentile(whole, 50):8.2f} {percentile(whole, 99):8.2f}"
    if beside:
        network = statistics.median(its for _, its in found if its is not None)
        line += f" {network:9.2f} {statistics.median(beside):8.2f} {percentile(beside, 2):8.2f}"
    else:
        line += f" {'-':>9} {'-':>8} {percentile(whole, 2):8.2f}"
    print(line, flush=True)


def main(
    count: Annotated[int, typer.Option(help="Calls of each line of the first table.")] = 300,
    seconds: Annotated[float, typer.Option(help="Of each line of the second.")] = 6.0,
    rounds: Annotated[int, typer.Option(help="Turns of the second table, whose medians count.")] = 5,
) -> None:
    """Print both tables; times are in milliseconds."""
    print(machine())
    for name in SHAPES:
        told = ", ".join(f"{mode} {alone(name, mode):.2f}" for mode in ("sds", "cds"))
        print(f"the gradient of four {name} without its network: {told} ms of a core")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, (event, _) in SHAPES.items():
            gaussians.write(root, name, event=event, bank=False, calibration={"t": [0.01, 0.9], "mse": [0.1, 0.2]})
        (root / "digits").symlink_to(MODELS / "digits")
        options = ["--threads-per-replica=1"]
        with running_server(root, replicas=1, options=options) as server, Driver() as driver:
            print(
                f"\n{'views':10} {'mode':5} {'how':9} {'p50':>8} {'p99':>8} {'network':>9} {'beside':>8} {'least':>8}"
            )
            with grpc.insecure_channel(server.grpc, options=OPTIONS) as channel:
                stub = DistillationStub(channel)
                tell("views", "-", "echo", echo(channel, count))
                for name in SHAPES:
                    fewer = count if name != "pictures" else count // 10
                    for mode in ("sds", "cds"):
                        tell(name, mode, "unary", unary(stub, name, mode, fewer))
                        tell(name, mode, "streamed", streamed(stub, name, mode, fewer))
            print(f"\n{'optimisations':14} {'mode':5} {'rows/s':>8} {'bare':>8} {'share':>6}")
            for mode in ("sds", "cds"):
                for clients in (1, 8):
                    rates, bares = [], []
                    for _ in range(rounds):
                        bares.append(bare(seconds / 2))
                        rates.append(sharing(driver, server.grpc, mode, clients, seconds))
                    share = statistics.median(a / b for a, b in zip(rates, bares, strict=True))
                    told = f"{statistics.median(rates):8.0f} {statistics.median(bares):8.0f} {share:6.2f}"
                    print(f"{clients:14d} {mode:5} {told}", flush=True)


if __name__ == "__main__":
    typer.run(main)
