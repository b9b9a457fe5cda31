"""A server on one machine: a local Ray cluster with the applications, from start to drained."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator

# before Ray is imported: it reads its environment once
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # the name notwithstanding: listen on loopback only
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 would let any shell job slow the replicas

import grpc
import psutil
import ray
from ray import serve as ray_serve
from ray.serve.config import ProxyLocation

from deploy.deployments import applications
from deploy.private_port import check_ray
from deploy.settings import Settings, SettingsError
from protos.tiltserve.v1 import fleet_pb2, fleet_pb2_grpc
from serving.wire.channels import address

START_S = 300.0
OBJECT_STORE_BYTES = 128 * 2**20  # heartbeats and settings are all that Ray carries
GONE_S = 10.0
_MARK = "RAY_TILTSERVE_CLUSTER"


def serve(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM, then drain; the exit code.

    Prints `ready grpc=HOST:PORT metrics=HOST:PORT models=a,b` on standard output once every model answers; models
    that cannot be loaded are named on standard error, and the others are served.

    Raises:
        SettingsError: a port is taken, the folder holds no model, or Ray's version is not one this works with.
    """
    check_ray()
    settings = settings.model_copy(
        update={
            "grpc_port": free_port(settings.host, settings.grpc_port, "grpc-port"),
            "metrics_port": free_port(settings.host, settings.metrics_port, "metrics-port"),
        }
    )
    if not any(path.is_dir() for folder in settings.models.iterdir() if folder.is_dir() for path in folder.iterdir()):
        raise SettingsError(f"--models: expected folders NAME/VERSION/model.onnx in {settings.models}, got none")
    stop = threading.Event()
    out = sys.stdout
    with (
        contextlib.redirect_stdout(sys.stderr),
        _cluster(settings, stop) as heads_alive,
    ):  # Ray reports dead workers on stdout
        for name, application in applications(settings).items():
            if not stop.is_set():
                ray_serve.run(application, name=name, route_prefix=None)
        grpc_address = address(settings.host, settings.grpc_port)
        names = _wait_for_models(grpc_address, settings.replicas, stop)
        if not stop.is_set():
            metrics = address(settings.host, settings.metrics_port)
            print(f"ready grpc={grpc_address} metrics={metrics} models={','.join(names)}", file=out, flush=True)
        stop.wait()
        draining = threading.Thread(target=_drain, args=(settings,), daemon=True)
        draining.start()
        while draining.is_alive() and heads_alive():  # a signal to the whole process group also ends Ray
            draining.join(0.2)
    return 0


def _drain(settings: Settings) -> None:
    """Delete the applications, the front first: it finishes what it took on."""
    for name in reversed(applications(settings)):
        with contextlib.suppress(Exception):
            ray_serve.delete(name)


def free_port(host: str, port: int, flag: str) -> int:
    """`port`, or any free one for 0; SettingsError when it cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(f"--{flag}: expected a free port on {host}, got {port}: {error.strerror}") from None
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _cluster(settings: Settings, stop: threading.Event) -> Iterator[Callable[[], bool]]:
    """A local Ray cluster with Serve's controller; on leaving, every process that was started has ended.

    Gives a function that tells whether the cluster's own processes are alive.
    """
    os.environ[_MARK] = mark = uuid.uuid4().hex
    # Ray would give OpenMP a thread for each of a replica's cores, in each of its threads: torch's small operations
    # would wait for them while a network has the cores. ONNX Runtime has threads of its own, so a number that the
    # shell may have set is not for this process
    os.environ["OMP_NUM_THREADS"] = "1"

    def heads_alive() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            heads = [each for each in psutil.Process().children() if each.name() in ("gcs_server", "raylet")]
            return len(heads) == 2 and all(each.status() != psutil.STATUS_ZOMBIE for each in heads)
        return False

    ray.init(
        address="local",
        namespace="tiltserve",
        num_cpus=max(len(os.sched_getaffinity(0)), settings.replicas * settings.threads),
        include_dashboard=False,
        log_to_driver=settings.log_level == "debug",
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
        _node_ip_address=settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1",
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # after ray.init, which sets handlers of its own
        signal.signal(number, lambda *_: stop.set())
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        ray_serve.start(proxy_location=ProxyLocation.Disabled)
        yield heads_alive
    finally:
        started = _marked(mark)
        if orderly := heads_alive():
            ray.shutdown()
        _, alive = psutil.wait_procs(started, timeout=GONE_S if orderly else 1.0)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=GONE_S)
        if not orderly and stop.is_set():  # Ray would look for its head for a minute, here or when Python exits
            sys.stderr.flush()
            os._exit(0)


def _marked(mark: str) -> list[psutil.Process]:
    """The processes that inherited this server's mark, wherever they hang in the process tree, but not this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(_MARK) == mark:
                found.append(process)
    return found


def _wait_for_models(grpc_address: str, replicas: int, stop: threading.Event) -> list[str]:
    """The names of the models that answer, once all replicas have loaded what they can."""
    deadline = time.monotonic() + START_S
    with grpc.insecure_channel(grpc_address) as channel:
        stub = fleet_pb2_grpc.FleetStub(channel)
        while not stop.is_set():
            with contextlib.suppress(grpc.RpcError):
                reply = stub.ListModels(fleet_pb2.ListModelsRequest(), timeout=5.0)
                if len(reply.replicas) >= replicas and all(model.state != "LOADING" for model in reply.models):
                    for model in reply.models:
                        if model.state != "READY":
                            print(f"warning: model {model.name!r} is not served: {model.reason}", file=sys.stderr)
                    return [model.name for model in reply.models if model.state == "READY"]
            if time.monotonic() > deadline:
                raise RuntimeError(f"expected {replicas} replicas within {START_S:g} s, see Ray's logs")
            stop.wait(0.2)
    return []
