"""What the wire costs: rows of `digits.network` from a bare session to the front, beside Triton, and tensors of 16 MB.

    make bench ARGS="wire_overhead"

The first table has requests of one row: ONNX Runtime in this process with its options as in a replica, a replica asked
directly, the front before it, and the real Triton server, whose Python backend runs the same graph. The second has a
network that gives 16 MB back as it takes them: in the message, and in shared memory. `copies` is how much larger a
process was at most during such a request than before, in times of the tensor: what it holds of it at once, both ways.
"""

import contextlib
import os
import shutil
import statistics
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import psutil
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
import typer
from onnx import TensorProto, helper

from benchmarks._load import Closed, Driver, Request, infer_body, percentile
from benchmarks._peers.environments import environment, packages
from benchmarks._server import MODELS, front, machine, processes, replica_address, replicas
from deploy.process import Running, running_server
from serving.backends.ort import OrtNetwork
from tests.triton_binary import TritonServer

ROW = {"x": np.zeros((1, 1, 28, 28), np.float32), "t": np.full(1, 0.5, np.float32)}
LARGE = np.zeros((1024, 4096), np.float32)
WARM_S, KEY = 1.0, f"tiltserve-overhead-{os.getpid()}"


def bare(seconds: float) -> tuple[float, float, float]:
    """Calls per second of one row in this process, and milliseconds: median and 99th percentile."""
    network = OrtNetwork(MODELS / "digits" / "1" / "model.onnx", 1)
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        network.run(ROW, ["v"])
        taken.append(1000 * (time.perf_counter() - begin))
    return len(taken) / (sum(taken) / 1000), percentile(taken, 50), percentile(taken, 99)


def asked(driver: Driver, address: str, model: str, clients: int, seconds: float) -> tuple[float, float, float]:
    """The same of requests of one row."""
    call = Request("row", infer_body(model, {}, ROW))
    driver.start(address, [call], Closed(clients), WARM_S).result()
    records = driver.start(address, [call], Closed(clients), seconds).result()
    if failed := [record for record in records if record.status != "OK"]:
        raise RuntimeError(f"{address}: a request failed: {failed[0].status}: {failed[0].detail}")
    span = max(record.ended for record in records) - min(record.sent for record in records)
    taken = [1000 * record.seconds for record in records]
    return len(records) / span, percentile(taken, 50), percentile(taken, 99)


@contextlib.contextmanager
def real_triton(work: Path) -> Iterator[str]:
    """Where the Triton server of nvidia-pytriton's wheel listens, with `digits` as a plain network."""
    work.mkdir()
    env = environment("triton")
    home, mine = packages(env) / "pytriton" / "tritonserver", work / "tritonserver"
    backend = mine / "backends" / "python"
    shutil.copytree(home / "backends" / "python", backend)
    stub = home / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(stub / "triton_python_backend_stub", backend)
    (mine / "bin").mkdir()
    binary = mine / "bin" / "tritonserver"
    binary.symlink_to(home / "bin" / "tritonserver")
    os.environ["LD_LIBRARY_PATH"] = f"{packages(env) / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    server = TritonServer(binary, MODELS, ["digits"], work)
    try:
        yield server.address
    finally:
        server.stop()


def write_copier(root: Path) -> None:
    """A network that gives what it takes, rows of 4096 numbers."""
    takes, gives = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4096]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "copier", [takes], [gives])
    (root / "copier" / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, root / "copier" / "1" / "model.onnx")


class Growth:
    """How many bytes processes grow by at most, sampled every millisecond."""

    def __init__(self, **watched: psutil.Process) -> None:
        self._watched = watched
        self.most: dict[str, int] = {}

    def during(self, work: Callable[[], object]) -> dict[str, int]:
        """Bytes by process while `work` runs."""
        before = {name: each.memory_info().rss for name, each in self._watched.items()}
        most, done = dict(before), threading.Event()

        def sample() -> None:
            while not done.wait(0.001):
                for name, each in self._watched.items():
                    most[name] = max(most[name], each.memory_info().rss)

        sampling = threading.Thread(target=sample)
        sampling.start()
        work()
        done.set()
        sampling.join()
        return {name: most[name] - before[name] for name in before}


def large(server: Running, client: Any, rounds: int) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Way of 16 MB there and back, milliseconds of a request (median), and copies by process."""
    replica = next(each for each in processes(server) if each.pid == replicas(server)[0].pid)
    growth = Growth(front=front(server), replica=replica)
    region = shm.create_shared_memory_region("large", KEY, 2 * LARGE.nbytes)
    client.register_system_shared_memory("large", KEY, 2 * LARGE.nbytes)
    shm.set_shared_memory_region(region, [LARGE])
    sent = [triton.InferInput("x", list(LARGE.shape), "FP32") for _ in range(2)]
    sent[0].set_data_from_numpy(LARGE)
    sent[1].set_shared_memory("large", LARGE.nbytes)
    wanted = triton.InferRequestedOutput("y")
    wanted.set_shared_memory("large", LARGE.nbytes, LARGE.nbytes)
    try:
        for name, tensor, outputs in (("in the message", sent[0], None), ("in shared memory", sent[1], [wanted])):

            def ask(tensor: Any = tensor, outputs: Any = outputs) -> None:
                client.infer("copier", [tensor], outputs=outputs)

            ask()
            taken, copies = [], list[dict[str, float]]()
            for _ in range(rounds):
                begin = time.perf_counter()
                grown = growth.during(ask)
                taken.append(1000 * (time.perf_counter() - begin))
                copies.append({who: size / LARGE.nbytes for who, size in grown.items()})
            yield name, statistics.median(taken), {who: max(each[who] for each in copies) for who in copies[0]}
    finally:
        client.unregister_system_shared_memory()
        shm.destroy_shared_memory_region(region)


def main(
    seconds: Annotated[float, typer.Option(help="Of each line.")] = 4.0,
    rounds: Annotated[int, typer.Option(help="Requests of 16 MB.")] = 10,
    beside_triton: Annotated[bool, typer.Option("--triton/--no-triton", help="Beside the real Triton.")] = True,
) -> None:
    """Print both tables; latencies are in milliseconds."""
    print(machine())
    print(f"{'one row of digits.network':28} {'clients':>8} {'requests/s':>11} {'p50':>8} {'p99':>8}")

    def line(name: str, clients: int, found: tuple[float, float, float]) -> None:
        print(f"{name:28} {clients:8d} {found[0]:11.0f} {found[1]:8.2f} {found[2]:8.2f}", flush=True)

    line("ONNX Runtime, bare", 1, bare(seconds))
    with tempfile.TemporaryDirectory() as folder, Driver() as driver:
        root = Path(folder)
        shutil.copytree(MODELS, root / "models")
        write_copier(root / "models")
        options = ["--threads-per-replica=1", "--allow-shared-memory"]
        with running_server(root / "models", replicas=1, options=options) as server:
            for clients in (1, 8):
                direct = replica_address(server)
                line("a replica, direct", clients, asked(driver, direct, "digits.network", clients, seconds))
                line("the front", clients, asked(driver, server.grpc, "digits.network", clients, seconds))
            with triton.InferenceServerClient(server.grpc) as client:
                sizes = list(large(server, client, rounds))
        if beside_triton:
            with real_triton(root / "triton") as address:
                for clients in (1, 8):
                    line("Triton, Python backend", clients, asked(driver, address, "digits", clients, seconds))
    print(f"\n{'16 MB there and back':28} {'ms':>8} {'copies: front':>14} {'replica':>8}")
    for name, milliseconds, copies in sizes:
        print(f"{name:28} {milliseconds:8.1f} {copies['front']:14.1f} {copies['replica']:8.1f}")


if __name__ == "__main__":
    typer.run(main)
