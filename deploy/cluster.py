"""A Ray cluster on this machine, for one server: started, and ended with every process that it has."""

import contextlib
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator

# before Ray is imported: it reads its environment once
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # the name notwithstanding: listen on loopback only
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 would let any shell job slow the replicas
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else every handshake that fails is a line: strangers fill the log
if not os.environ.get("RAY_AUTH_TOKEN"):  # Ray would write one into HOME, which may be read-only or missing
    os.environ["RAY_AUTH_TOKEN"] = os.environ["RAY_TILTSERVE_TOKEN"] = secrets.token_hex(32)

import psutil
import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import ProxyLocation

from deploy.private_dashboard import leave_out
from deploy.scratch import Scratch

OBJECT_STORE_BYTES = 128 * 2**20  # heartbeats and settings are all that Ray carries
GONE_S = 10.0
_MARK = "RAY_TILTSERVE_CLUSTER"
_ERROR = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception)): (.*)$", re.MULTILINE)


class StartError(RuntimeError):
    """The server could not be started; the text is one line."""


@contextlib.contextmanager
def cluster(mark: str, place: Scratch, *, host: str, cpus: int, verbose: bool) -> Iterator[None]:
    """A local Ray cluster with Serve's controller; on leaving, every process that was started has ended.

    Args:
        mark: unlike that of any other server; its processes carry it in their environment.
        verbose: show what the processes of the cluster print.

    Raises:
        SettingsError: Ray's version is not one this works with.
        StartError: Ray did not start.
    """
    os.environ[_MARK] = mark
    # Ray would give OpenMP a thread for each of a replica's cores, in each of its threads: torch's small operations
    # would wait for them while a network has the cores. ONNX Runtime has threads of its own, so a number that the
    # shell may have set is not for this process
    os.environ["OMP_NUM_THREADS"] = "1"
    # Ray's agents would look for other processes of this machine behind a proxy, and nothing of ours asks one
    for name in ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy"):
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    for name, level in (("ray", logging.ERROR), ("ray.serve", logging.WARNING)):
        logging.getLogger(name).setLevel(level)
    leave_out()
    try:
        try:
            ray.init(
                address="local",
                namespace="tiltserve",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=verbose,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                _plasma_directory=str(place.memory),
                _temp_dir=str(place.sessions),
                _node_ip_address=host if host not in ("0.0.0.0", "::") else "127.0.0.1",
            )
            serve.start(proxy_location=ProxyLocation.Disabled)
        except Exception as error:
            raise StartError(f"Ray: {reason(f'{type(error).__name__}: {error}')}") from error
        yield
    finally:
        started = marked(mark)
        if orderly := heads_alive():
            ray.shutdown()
        _, alive = psutil.wait_procs(started, timeout=GONE_S if orderly else 1.0)
        kill(alive)


@contextlib.contextmanager
def joined(address: str, *, verbose: bool) -> Iterator[str]:
    """A Ray cluster that somebody else started, and which this machine is a node of: this node's address. On leaving
    nothing of it is ended.

    Raises:
        StartError: there is none, or it lets us not in.
    """
    if os.environ.pop("RAY_TILTSERVE_TOKEN", None) == os.environ.get("RAY_AUTH_TOKEN"):  # that cluster has its own
        del os.environ["RAY_AUTH_TOKEN"]
    for name, level in (("ray", logging.ERROR), ("ray.serve", logging.WARNING)):
        logging.getLogger(name).setLevel(level)
    try:
        ray.init(address=address, namespace="tiltserve", log_to_driver=verbose, logging_level=logging.ERROR)
        serve.start(proxy_location=ProxyLocation.Disabled)
    except (Exception, SystemExit) as error:
        told = reason(f"{type(error).__name__}: {error}").partition("\n")[0]
        raise StartError(f"Ray: expected a cluster at {address}, which this machine is a node of: {told}") from error
    try:
        yield str(ray.util.get_node_ip_address())
    finally:
        ray.shutdown()


def taken(names: Iterable[str]) -> list[str]:
    """Which of these applications run in the cluster."""
    return sorted(set(names) & serve.status().applications.keys())


def nodes() -> int:
    """How many nodes of the cluster are alive."""
    return sum(each["Alive"] for each in ray.nodes())


def deploy(name: str, application: Application) -> None:
    """Run an application of Serve's, and wait until it is up; `StartError` with the reason if it does not come up."""
    try:
        serve.run(application, name=name, route_prefix=None)
    except Exception as error:
        told = str(error)
        with contextlib.suppress(Exception):  # Ray may be gone; Serve keeps what a constructor raised to itself
            deployments = serve.status().applications[name].deployments
            told = "\n".join([told, *(each.message for each in deployments.values())])
        raise StartError(f"{name}: {reason(told)}") from error


def delete(name: str, *, wait: bool = True) -> None:
    """End an application of Serve's, and wait until it has drained."""
    with contextlib.suppress(Exception):
        serve.delete(name, _blocking=wait)


def heads_alive() -> bool:
    """Whether the cluster's own processes run."""
    with contextlib.suppress(psutil.NoSuchProcess):
        heads = [each for each in psutil.Process().children() if each.name() in ("gcs_server", "raylet")]
        return len(heads) == 2 and all(each.status() != psutil.STATUS_ZOMBIE for each in heads)
    return False


def marked(mark: str) -> list[psutil.Process]:
    """The processes that inherited this mark, wherever they hang in the process tree, and those that came of them, but
    not this one. Those that take a title, as Ray's agents do, overwrite what they inherited."""
    running, found = {}, set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            running[process.pid] = process, process.ppid()
            if process.environ().get(_MARK) == mark:
                found.add(process.pid)
    found.discard(os.getpid())
    while more := {pid for pid, (_, parent) in running.items() if parent in found} - found:
        found |= more
    return [running[pid][0] for pid in found]


def kill(processes: list[psutil.Process]) -> None:
    """End processes at once, and wait until they have."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=GONE_S)


def reason(told: str) -> str:
    """The last error that is told of on a page of traces of several processes, in one line."""
    found = _ERROR.findall(told)
    kind, text = found[-1] if found else ("", told)
    return text if kind in ("", "PortError") else f"{kind}: {text}"
