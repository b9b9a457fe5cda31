"""A server from start to drained: the applications on a Ray cluster of their own, or on one that exists."""

import contextlib
import errno
import io
import os
import secrets
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import grpc

from deploy.access import check_guards, internal_token
from deploy.cluster import (
    GONE_S,
    OBJECT_STORE_BYTES,
    StartError,
    cluster,
    delete,
    deploy,
    heads_alive,
    joined,
    kill,
    marked,
    nodes,
    taken,
)
from deploy.cores import cores
from deploy.deployments import FRONT, HTTP, REPLICAS, applications
from deploy.directories import DIRECTORY, named
from deploy.log_lines import log_lines
from deploy.private_port import check_ray
from deploy.rays_lines import RaysLines
from deploy.scratch import Scratch, scratch
from deploy.settings import Settings, SettingsError
from deploy.stores import artifacts, fetched, mirror
from protos.tiltserve.v1 import fleet_pb2, fleet_pb2_grpc
from serving.access.gate import INTERNAL
from serving.fleet.actor import RayDirectory
from serving.front import unix
from serving.models.folders import survey
from serving.models.object_store import StoreError
from serving.watching.logs import Format, said
from serving.wire import channels
from serving.wire.channels import address

START_S = 300.0
AGAIN_S, LOOK_S = 0.02, 1.0
SIGNAL, CHANGE = b"s", b"c"


def serve(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM, then drain; the exit code.

    Prints `ready grpc=HOST:PORT metrics=HOST:PORT models=a,b` on standard output once every model answers, and after it
    ` http=HOST:PORT` where that was asked for; what is not served of the folder is named on standard error, with the
    reason. A signal before that ends everything at once.

    Raises:
        SettingsError: a port is taken, the folder holds no model, Ray has no place for its files, or its version is not
            one this works with.
        StartError: what was right when it was looked at is not any more, or Ray does not start.
    """
    check_ray()
    check_guards(settings)
    settings.check_reachable()
    try:
        _look(fetched(settings, mirror(settings)), settings.log_format)
        artifacts(settings)  # its address, at least
    except StoreError as error:
        raise SettingsError(str(error)) from None
    with contextlib.ExitStack() as held:
        wanted = {"metrics_port": "host" if settings.metrics_host is None else "metrics_host"}
        if settings.socket is None:
            wanted = {"grpc_port": "host", **wanted}
        if settings.http_port is not None:
            wanted["http_port"] = "host"
        ports = {port: held.enter_context(held_port(settings, host, port)) for port, host in wanted.items()}
        if settings.address is None:
            place = held.enter_context(scratch(OBJECT_STORE_BYTES))
        else:
            own = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="tiltserve-")))
            place = Scratch(own, own)
        orderly = _Server(settings.model_copy(update=ports), place).run()
    if not orderly:  # Ray would look for its head for a minute when Python exits
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _look(models: Path, form: Format) -> None:
    """Name what is not served of the repository; SettingsError if that is all."""
    try:
        folders, passed = survey(models)
    except OSError as error:
        raise SettingsError(f"--models: expected a readable folder, got {str(models)!r}: {error.strerror}") from None
    if not folders:
        why = "; ".join(str(each) for each in passed if not each.empty)
        raise SettingsError(
            f"--models: expected folders NAME/VERSION/model.onnx in {models}, got none" + (f": {why}" if why else "")
        )
    for each in passed:
        print(said(form, str(each)), file=sys.stderr)


@contextlib.contextmanager
def held_port(settings: Settings, host_key: str, port_key: str) -> Iterator[int]:
    """The port that two settings name, or any free one for 0, kept from others within the context.

    It is bound, not listened on: who sets SO_REUSEADDR, as the front's servers do, can still listen on it, and it is
    given to nobody who asks for any port.

    Raises:
        SettingsError: it cannot be listened on; the text names the setting at fault.
    """
    host, port = getattr(settings, host_key), getattr(settings, port_key)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((host, port))
        except OSError as error:
            elsewhere = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
            key, expected = (
                (host_key, f"an address of this machine, got {host}")
                if elsewhere
                else (port_key, f"a free port on {host}, got {port}")
            )
            flag = key.replace("_", "-")
            raise SettingsError(f"--{flag}: expected {expected}: {error.strerror}") from None
        yield int(holder.getsockname()[1])


class _Server:
    """The server from start to drained."""

    def __init__(self, settings: Settings, place: Scratch) -> None:
        self._settings, self._place = settings, place
        self._mark = uuid.uuid4().hex
        self._internal = internal_token(settings) or secrets.token_hex(32)
        self._own = settings.address is None  # the cluster
        self._private = place.sessions / f"front-{self._mark[:16]}"
        self._stop, self._ready = threading.Event(), threading.Event()
        self._up = False  # Ray runs, and is needed for the start
        self._orderly = True
        self._waiting, self._waking = os.pipe()
        os.set_blocking(self._waking, False)

    def run(self) -> bool:
        """Start, serve, and drain when a signal says so. False if Ray did not end by itself: its threads are left.

        All of it is done by a second thread. The first one waits for signals, which Python handles there, and so can
        end a start at whatever point it is.
        """

        def work() -> None:
            try:
                self._serve()
                ended.set_result(None)
            except BaseException as error:
                ended.set_exception(error)
            self._wake(CHANGE)

        ended = Future[None]()
        threading.Thread(target=work, name="server", daemon=True).start()
        looked = time.monotonic()
        while not ended.done():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: self._wake(SIGNAL))
            # when it starts and when it ends, Ray takes the signals away from Python without a word
            patience = None if self._ready.is_set() and not self._stop.is_set() else AGAIN_S
            came, _, _ = select.select([self._waiting], [], [], patience)
            if came and os.read(self._waiting, 1) == SIGNAL:
                self._stop.set()
                if not self._ready.is_set():
                    self._abandon()
                    return False
            if self._up and not self._ready.is_set() and time.monotonic() > looked + LOOK_S:
                looked = time.monotonic()
                if self._own and not heads_alive() and self._up:  # Serve would wait for ever
                    self._abandon()
                    raise StartError("Ray: expected its processes to run, one has ended while the server started")
        ended.result()
        return self._orderly

    def _wake(self, why: bytes) -> None:
        with contextlib.suppress(BlockingIOError):  # it was woken 65,536 times
            os.write(self._waking, why)

    def _serve(self) -> None:
        settings, out, verbose = self._settings, sys.stdout, self._settings.log_level == "debug"
        # Ray reports processes that it lost on standard output; of a start that fails one line is enough
        with (
            contextlib.redirect_stdout(sys.stderr if verbose else io.StringIO()),
            log_lines(self._place.sessions) as sink,
            self._cluster(verbose) as node,
        ):
            self._up = True
            try:
                for name, application in applications(settings, self._internal, self._private, sink, node).items():
                    deploy(name, application)
                private = unix.address(self._private)
                names = _wait_for_models(private, self._internal, settings, self._stop)
            finally:
                self._up = False
            self._ready.set()
            self._wake(CHANGE)
            public = settings.socket and unix.address(settings.socket)
            grpc_address = public or address(settings.host, settings.grpc_port)
            metrics = address(settings.metrics_host or settings.host, settings.metrics_port)
            http = "" if settings.http_port is None else f" http={address(settings.host, settings.http_port)}"
            ready = f"ready grpc={grpc_address} metrics={metrics} models={','.join(names)}{http}"
            with contextlib.suppress(OSError):  # nobody reads it
                print(ready, file=out, flush=True)
            with contextlib.redirect_stdout(RaysLines(settings.log_format)):
                self._stop.wait()
                draining = threading.Thread(target=_drain, args=[settings], daemon=True)
                draining.start()
                while draining.is_alive() and self._rays():  # a signal to the whole process group also ends Ray
                    draining.join(0.2)
                self._orderly = self._rays()

    @contextlib.contextmanager
    def _cluster(self, verbose: bool) -> Iterator[str | None]:
        """Ray, and in a cluster of others the address of this node, with a directory of our own there.

        Raises:
            StartError: see `cluster` and `joined`; a server of this release is there already.
            SettingsError: replicas on other nodes would be out of reach.
        """
        settings = self._settings
        if settings.address is None:
            cpus = max(cores(), settings.most_replicas * settings.threads)
            with cluster(self._mark, self._place, host=settings.inner_host, cpus=cpus, verbose=verbose):
                yield None
            return
        with joined(settings.address, verbose=verbose) as node:
            if there := taken(named(settings, name) for name in (REPLICAS, FRONT, HTTP)):
                raise StartError(
                    f"--release: expected a name that is free in this cluster, {', '.join(there)} is there"
                )
            if (count := nodes()) > 1 and settings.inner_host in ("127.0.0.1", "::1", "localhost"):
                raise SettingsError(
                    f"--replica-host: expected an address that {count} nodes reach, such as 0.0.0.0, got "
                    f"{settings.inner_host}"
                )
            own = None if settings.directory else RayDirectory(named(settings, DIRECTORY), here=True)
            try:
                yield node
            finally:
                if own is not None:
                    own.end()

    def _rays(self) -> bool:
        """Whether Ray is there."""
        return not self._own or heads_alive()

    def _abandon(self) -> None:
        """End a start: nobody was promised anything yet."""
        if not self._own:
            _drain(self._settings, wait=False)
            return
        told = os.dup(2)
        with Path(os.devnull).open("wb") as nowhere:  # what Ray says of lost processes tells nobody anything
            os.dup2(nowhere.fileno(), 2)
        end = time.monotonic() + GONE_S
        while (found := marked(self._mark)) and time.monotonic() < end:  # the other thread may still start some
            kill(found)
        os.dup2(told, 2)


def _drain(settings: Settings, *, wait: bool = True) -> None:
    """Delete the applications, each after what asks it: it finishes what it took on."""
    for name in (FRONT, REPLICAS) if settings.http_port is None else (HTTP, FRONT, REPLICAS):
        delete(named(settings, name), wait=wait)


def _wait_for_models(private: str, internal: str, settings: Settings, stop: threading.Event) -> list[str]:
    """The names of the models that answer, once all replicas have loaded what they can. Asked at the front's socket for
    its own processes: at the public port we have no token and no certificate."""
    replicas, form = settings.replicas, settings.log_format
    deadline = time.monotonic() + START_S
    with grpc.insecure_channel(private, options=channels.CHANNEL) as channel:
        stub = fleet_pb2_grpc.FleetStub(channel)
        while not stop.is_set():
            with contextlib.suppress(grpc.RpcError):
                reply = stub.ListModels(fleet_pb2.ListModelsRequest(), timeout=5.0, metadata=((INTERNAL, internal),))
                if len(reply.replicas) >= replicas and settings.ready_with_bank:
                    deadline = time.monotonic() + START_S  # a bank may take longer
                if len(reply.replicas) >= replicas and all(model.state != "LOADING" for model in reply.models):
                    for model in reply.models:
                        if model.state != "READY":
                            print(said(form, f"model {model.name!r} is not served: {model.reason}"), file=sys.stderr)
                    return [model.name for model in reply.models if model.state == "READY"]
            if time.monotonic() > deadline:
                raise StartError(f"expected {replicas} replicas within {START_S:g} s, got fewer: see Ray's logs")
            stop.wait(0.2)
    return []
