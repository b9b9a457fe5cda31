"""Requests lost, and the slowest, while hosts, cables, heads, directories and fronts of a cluster fail: three hosts.

    make e2e-cluster

The hosts are network namespaces of this machine. Ray runs over them as in Kubernetes: a head without cores on the first
host, a node with one replica on each of the other two, started by a PUT of `deploy.app:replicas` to the head's
dashboard. A directory runs on the first and the second host, a front on each of the first two, outside Ray. Eight
clients ask both fronts, by gRPC's own round robin with health checks, and try nothing again. Every answer to a seed
must have the bytes of the first one.

Each line is a fault under load, from some seconds before it until all is well again: requests that were answered and
that were not, the slowest answer, and how often an answer had other bytes. What ended is started again as a kubelet and
KubeRay would.
"""

import collections
import contextlib
import hashlib
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tritonclient.grpc as triton
import typer
from tritonclient.utils import InferenceServerException

from benchmarks._hosts import ROOT, Host, Pod, environment, hosts, missing, until
from protos.tiltserve.v1 import fleet_pb2, fleet_pb2_grpc

DRAIN_S, LAME_DUCK_S = 20.0, 5.0
CALM_S = 3.0
MIN_READY_S = 5.0
"""As `minReadySeconds` of a Deployment: clients find a new front before the next old one stops."""
SEEDS = 8
GCS, DASHBOARD, REDIS, FRONT, DIRECTORY, REPLICA = 6379, 8265, 6380, 8001, 8004, 8005
START_S = 240.0
POLICY = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}


@dataclass
class Load:
    """Clients that ask all the time, each for the next of a few seeds."""

    fronts: str
    clients: int = 8
    answered: int = 0
    lost: collections.Counter[str] = field(default_factory=collections.Counter)
    slowest: float = 0.0
    differ: int = 0
    hashes: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=[k]) for k in range(self.clients)]
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()

    def begin(self) -> None:
        """Count anew; hashes stay."""
        with self._lock:
            self.answered, self.slowest, self.differ = 0, 0.0, 0
            self.lost.clear()

    def _ask(self, k: int) -> None:
        options = [
            ("grpc.service_config", json.dumps(POLICY)),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        with triton.InferenceServerClient(self.fronts, channel_args=options) as client:
            while not self._stop.is_set():
                k += 1
                begin = time.monotonic()
                try:
                    parameters = {"samples": 2, "steps": 10, "seed": k % SEEDS}
                    answer = client.infer("digits", [], parameters=parameters, client_timeout=90)
                except InferenceServerException as error:
                    with self._lock:
                        self.lost[f"{error.status()} {error.message()[:150]}"] += 1
                    time.sleep(0.2)
                    continue
                digest = hashlib.sha256(answer.as_numpy("samples").tobytes()).hexdigest()
                with self._lock:
                    self.answered += 1
                    self.slowest = max(self.slowest, time.monotonic() - begin)
                    self.differ += self.hashes.setdefault(k % SEEDS, digest) != digest


class Cluster:
    """The server over three hosts, and what would start its pods again."""

    def __init__(self, made: list[Host], folder: Path, models: Path, *, redis: bool) -> None:
        self.first, self.second, self.third = made
        self._models, self._redis = models, redis
        self._token = folder / "token"
        self._token.write_text("0123456789abcdef")
        self._environment = environment(RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=f"{DRAIN_S:g}")
        if redis:
            command = ["redis-server", "--port", str(REDIS), "--bind", self.first.address, "--protected-mode", "no"]
            self.first.start("redis", [*command, "--save", "", "--dir", str(folder)], environment())
        self.directories = {host.number: self.directory(host) for host in (self.first, self.second)}
        self.fronts = {host.number: self.front(host) for host in (self.first, self.second)}
        self.head = self.ray_head()
        self.nodes = {host.number: self.node(host) for host in (self.second, self.third)}
        self.deploy()

    @property
    def _directories(self) -> list[str]:
        return [f"{host.address}:{DIRECTORY}" for host in (self.first, self.second)]

    @property
    def addresses(self) -> str:
        return "ipv4:" + ",".join(f"{host.address}:{FRONT}" for host in (self.first, self.second))

    def directory(self, host: Host) -> Pod:
        made = self._part(host, "directory", "--directory-host", host.address, "--directory-port", str(DIRECTORY))
        made.wait_for("ready directory=", START_S)
        return made

    def front(self, host: Host) -> Pod:
        named = [word for each in self._directories for word in ("--directory", each)]
        options = ["--host", host.address, "--grpc-port", str(FRONT), "--drain-seconds", str(DRAIN_S)]
        return self._part(host, "front", *named, *options, "--lame-duck-seconds", str(LAME_DUCK_S))

    def _part(self, host: Host, name: str, *options: str) -> Pod:
        command = ["tiltserve", name, *options, "--internal-token-file", str(self._token), "--insecure"]
        return host.start(name, ["python", "-m", "deploy", *command[1:]], environment())

    def ray_head(self) -> Pod:
        more = {"RAY_REDIS_ADDRESS": f"{self.first.address}:{REDIS}"} if self._redis else {}
        dashboard = ["--include-dashboard", "true", "--dashboard-host", self.first.address]
        made: Pod | None = None
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if made is None or not made.running:  # a kubelet starts it again, too
                made = self._ray(self.first, more, "--head", "--port", str(GCS), "--num-cpus", "0", *dashboard)
            if "will now block forever" in made.told():
                return made
            time.sleep(0.2)
        raise RuntimeError(f"Ray's head: not within {START_S:g} s")

    def node(self, host: Host) -> Pod:
        return self._ray(host, {}, "--address", f"{self.first.address}:{GCS}", "--num-cpus", "1")

    def _ray(self, host: Host, more: dict[str, str], *options: str) -> Pod:
        command = ["ray", "start", "--node-ip-address", host.address, "--object-store-memory", str(2**27), *options]
        return host.start("ray", [*command, "--block"], self._environment | more)

    def deploy(self) -> None:
        """As KubeRay does: the configuration is put to the dashboard."""
        args = {
            "models": str(self._models), "directory": self._directories, "replicas": 2, "threads_per_replica": 1,
            "replica_host": "0.0.0.0", "replica_port": REPLICA, "internal_token_file": str(self._token),
            "insecure": True, "drain_seconds": DRAIN_S,
        }  # fmt: skip
        application = {"name": "replicas", "import_path": "deploy.app:replicas", "route_prefix": None, "args": args}
        body = json.dumps({"applications": [application], "proxy_location": "Disabled"}).encode()

        def put() -> bool:
            url = f"http://{self.first.address}:{DASHBOARD}/api/serve/applications/"
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="PUT")
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=60):
                return True
            return False

        until(put, START_S, "the dashboard")

    def replicas(self, host: Host) -> list[str]:
        """Addresses of ready replicas, as a host's front knows them."""
        import grpc

        with grpc.insecure_channel(f"{host.address}:{FRONT}") as channel, contextlib.suppress(grpc.RpcError):
            reply = fleet_pb2_grpc.FleetStub(channel).ListModels(fleet_pb2.ListModelsRequest(), timeout=5)
            return sorted(each.address for each in reply.replicas if each.fingerprints.get("digits"))
        return []

    def whole(self) -> None:
        """Wait until both fronts know both replicas."""
        wanted = [f"{host.address}:{REPLICA}" for host in (self.second, self.third)]
        for host in (self.first, self.second):
            until(partial(self._knows, host, wanted), START_S, f"two replicas at {host.address}")

    def _knows(self, host: Host, wanted: list[str]) -> bool:
        self.mend()
        return self.replicas(host) == wanted

    def mend(self) -> None:
        """Start nodes again that have ended, as a kubelet does."""
        for host in (self.second, self.third):
            if not self.nodes[host.number].running:
                self.nodes[host.number] = self.node(host)

    # faults

    def host_terminated(self) -> None:
        """SIGTERM to a node with a replica, as an eviction sends it; another node takes its place."""
        self.nodes[self.third.number].stop(DRAIN_S + 15)
        self.nodes[self.third.number] = self.node(self.third)

    def host_killed(self) -> None:
        """A node with a replica ends at once."""
        self.nodes[self.third.number].kill()
        self.nodes[self.third.number] = self.node(self.third)

    def cable_pulled(self) -> None:
        """A node with a replica is not reached for 30 s."""
        self.third.cable(plugged=False)
        time.sleep(30)
        self.third.cable(plugged=True)
        time.sleep(20)  # Ray has given the node up by then; it finds that out, and ends

    def head_killed(self) -> None:
        """Ray's head ends at once and is back; nodes that ended with it too."""
        self.head.kill()
        time.sleep(10)
        self.head = self.ray_head()
        time.sleep(20)
        self.mend()
        self.deploy()

    def directories_killed(self) -> None:
        """Both directories end at once, one after the other, and are back."""
        for host in (self.first, self.second):
            self.directories[host.number].kill()
            time.sleep(2)
            self.directories[host.number] = self.directory(host)

    def fronts_replaced(self) -> None:
        """Each front is stopped by SIGTERM and another takes its place, one after the other."""
        for host in (self.first, self.second):
            self.fronts[host.number].stop(LAME_DUCK_S + DRAIN_S + 5)
            self.fronts[host.number] = self.front(host)
            self.fronts[host.number].wait_for("ready grpc=", START_S)
            time.sleep(MIN_READY_S)

    def front_killed(self) -> None:
        """A front ends at once: what it had under way is lost, and a client's to repeat."""
        self.fronts[self.second.number].kill()
        self.fronts[self.second.number] = self.front(self.second)
        self.fronts[self.second.number].wait_for("ready grpc=", START_S)


FAULTS: dict[str, Callable[[Cluster], None]] = {
    "node stopped": Cluster.host_terminated,
    "node killed": Cluster.host_killed,
    "cable pulled": Cluster.cable_pulled,
    "directories killed": Cluster.directories_killed,
    "fronts replaced": Cluster.fronts_replaced,
    "front killed": Cluster.front_killed,
    "head killed": Cluster.head_killed,
}


@contextlib.contextmanager
def models(folder: Path) -> Iterator[Path]:
    """The digits alone."""
    shutil.copytree(ROOT / "deploy/models/digits", folder / "models/digits")
    yield folder / "models"


def main(
    faults: Annotated[list[str] | None, typer.Option("--fault", help="One of the faults; may be repeated.")] = None,
    clients: Annotated[int, typer.Option(help="Clients that ask all the time.")] = 8,
    redis: Annotated[bool, typer.Option(help="Ray's head keeps its state in Redis.")] = True,
    keep: Annotated[Path | None, typer.Option(help="Folder for the pods' output.")] = None,
) -> None:
    """Print a line for each fault; exit code 1 where an answer had other bytes."""
    if lacking := missing() or ("redis-server" if redis and shutil.which("redis-server") is None else ""):
        typer.echo(f"error: expected {lacking}, found none", err=True)
        raise typer.Exit(2)
    differ = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="tiltserve-hosts-") as made:
        folder = keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        with models(Path(made)) as repository, hosts(3, folder) as three:
            cluster = Cluster(three, folder, repository, redis=redis)
            cluster.whole()
            load = Load(cluster.addresses, clients)
            try:
                time.sleep(CALM_S)
                print(f"{'fault':20} {'answered':>9} {'lost':>5} {'slowest s':>10} {'other bytes':>12} {'s':>6}")
                for name in faults or FAULTS:
                    differ += one(name, FAULTS[name], cluster, load)
            finally:
                load.stop()
    raise typer.Exit(int(differ > 0))


def one(name: str, fault: Callable[[Cluster], None], cluster: Cluster, load: Load) -> int:
    """Run a fault and print its line; how many answers had other bytes."""
    load.begin()
    begin = time.monotonic()
    time.sleep(CALM_S)
    told = ""
    try:
        fault(cluster)
        cluster.whole()
        time.sleep(CALM_S)
    except RuntimeError as error:
        told = f"  not whole again: {error}"
    seconds, lost = time.monotonic() - begin, sum(load.lost.values())
    print(
        f"{name:20} {load.answered:9d} {lost:5d} {load.slowest:10.1f} {load.differ:12d} {seconds:6.0f}{told}",
        flush=True,
    )
    for text, count in load.lost.most_common(3):
        print(f"    {count} {text}", flush=True)
    return load.differ


if __name__ == "__main__":
    typer.run(main)
