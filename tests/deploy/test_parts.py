"""`tiltserve directory` and `tiltserve front` as processes, with replicas of this process."""

import contextlib
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy import app, directories
from deploy.replica_deployment import ReplicaDeployment
from deploy.settings import Settings, SettingsError, settings_elsewhere
from serving.access.guards import FrontGuards, Inside, ReplicaGuards
from serving.fleet.remote import RemoteDirectory
from tests import networks
from tests.serving.live import running, until

TOKEN = "0123456789abcdef"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("TILTSERVE_", "GRPC_"))}
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextlib.contextmanager
def part(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "deploy", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as ran:
        try:
            yield ran
        finally:
            if ran.poll() is None:
                ran.kill()


def line(ran: "subprocess.Popen[str]") -> str:
    assert ran.stdout is not None
    return ran.stdout.readline()


def port_besides(ran: "subprocess.Popen[str]", *others: str) -> int:
    """The port on which a process listens besides these addresses."""
    listening = [each for each in psutil.Process(ran.pid).net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    (port,) = {each.laddr.port for each in listening} - {int(each.rpartition(":")[2]) for each in others}
    return int(port)


def probed(port: int, path: str) -> int:
    try:
        return int(urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10).status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_front_and_a_directory_of_their_own(tmp_path: Path):
    """A front that is told to stop says so while it still serves; told again, it ends with nothing under way."""
    networks.write_rings(tmp_path / "models")
    file = tmp_path / "token"
    file.write_text(TOKEN)
    token = ["--internal-token-file", str(file), "--release", "mine"]
    with part("directory", "--directory-port", "0", *token) as directory:
        found = re.fullmatch(r"ready directory=(127\.0\.0\.1:\d+)\n", line(directory))
        assert found
        inside = Inside(TOKEN)
        client = RemoteDirectory([found[1]], release="mine", inside=inside)
        guards = FrontGuards(inside=inside), ReplicaGuards(inside=inside)
        config = tmp_path / "shared.yaml"
        config.write_text("models: /not/here\nreplicas: 7\ndirectory_port: 9\nmetrics_port: 0\ngrpc_port: 0\n")
        options = ["--directory", found[1], "--config", str(config), "--lame-duck-seconds", "600", *token]
        options += ["--health-port", "0"]
        with running(tmp_path / "models", guards=guards, directory=client) as live, part("front", *options) as front:
            ready = re.fullmatch(r"ready grpc=(\S+) metrics=(\S+) models=rings,rings\.network\n", line(front))
            assert ready
            health_port = port_besides(front, ready[1], ready[2])
            with psutil.Process(front.pid).oneshot():
                assert psutil.Process(front.pid).memory_info().rss < 150 * 2**20
            quiet = live.infer(seed=1, steps=2)[0]["samples"]
            with triton.InferenceServerClient(ready[1]) as asked, grpc.insecure_channel(ready[1]) as channel:

                def drawn() -> bool:
                    answer = asked.infer("rings", [], parameters={"seed": 1, "steps": 2}).as_numpy("samples")
                    return bool(np.array_equal(answer, quiet))

                assert drawn()
                assert asked.is_server_ready()
                assert probed(health_port, "live") == probed(health_port, "ready") == 200
                front.terminate()
                health = health_pb2_grpc.HealthStub(channel)
                until(lambda: health.Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING)
                assert drawn()
                assert not asked.is_server_ready()
                assert (probed(health_port, "live"), probed(health_port, "ready")) == (200, 503)
            front.terminate()  # and does not wait for the rest of ten minutes
            assert front.wait(60) == 0
            assert front.stderr is not None
            assert "Traceback" not in front.stderr.read()
        directory.terminate()
        assert directory.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["front"], "error: directory: expected HOST:PORT (--directory) of a `tiltserve directory`, got none\n"),
        (["front", "--directory", "here"], "error: --directory: expected HOST:PORT, got 'here'\n"),
        (
            ["front", "--directory", "127.0.0.1:1"],
            "error: --directory: expected --internal-token-file with it, got none: fronts, directories and replicas "
            "know each other by what it holds\n",
        ),
        (
            ["directory", "--directory-host", "0.0.0.0"],
            "error: --directory-host: expected a loopback address, or --internal-tls, or --insecure, got 0.0.0.0: who "
            "is where would be readable on the way, and everybody could write it\n",
        ),
        (
            ["directory", "--directory-host", "192.0.2.1", "--insecure"],
            "error: directory: expected a free port, 192.0.2.1:8004 cannot be listened on\n",
        ),
        (
            ["directory"],
            "error: internal_token_file: expected a file (--internal-token-file), or --insecure, got none: whoever "
            "reaches the directory could have requests sent to replicas of his own\n",
        ),
        (["directory", "--release", "A_b"], "error: --release: string should match pattern"),
    ],
)
def test_a_start_that_fails_is_one_line(arguments: list[str], told: str):
    with part(*arguments) as ran:
        _, errors = ran.communicate(timeout=60)
    assert ran.returncode == 2
    assert errors.startswith(told)
    assert errors.count("\n") == 1


ARGS: dict[str, Any] = {
    "models": "/not/here",
    "directory": ["directory:8004"],
    "internal_token_file": "/not/here/token",
    "internal_tls": "/not/here/keys",
    "threads_per_replica": 4,
    "replicas": 2,
    "replica_host": "0.0.0.0",
    "replica_port": 8005,
    "release": "mine",
}


def test_replicas_of_a_configuration_of_serve():
    made = app.replicas(ARGS)._bound_deployment
    assert made.func_or_class is ReplicaDeployment
    options = made.ray_actor_options
    assert options is not None
    assert (made.num_replicas, options["num_cpus"]) == (2, 4)
    assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "1"
    assert made._deployment_config.max_ongoing_requests == 1000
    settings, internal, *_ = list[Any](made.init_args)
    assert isinstance(settings, Settings)
    assert (settings.inner_ports, internal) == ((8005, 8005), "")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"models": None}, "args: models: expected a folder, got none"),
        ({"directory": []}, "args: directory: expected HOST:PORT of a `tiltserve directory`, got none"),
        ({"threads_per_replica": None}, "args: threads_per_replica: expected a number, got none"),
        ({"replica_hosts": "x"}, "args: unknown key 'replica_hosts', did you mean 'replica_host'?"),
        ({"replica_host": "127.0.0.1"}, "replica_host: expected an address that fronts elsewhere reach"),
        ({"internal_tls": None}, "args: replica_host: expected a loopback address, or --internal-tls, or --insecure"),
        ({"replica_ports": "1-2"}, "args: replica_port: expected no --replica-ports with it, got both"),
    ],
)
def test_what_is_wrong_with_such_a_configuration(change: dict[str, Any], told: str):
    with pytest.raises(SettingsError) as caught:
        app.replicas(ARGS | change)
    assert str(caught.value).startswith(told)


def test_the_address_that_others_are_told(monkeypatch: pytest.MonkeyPatch):
    settings = settings_elsewhere(ARGS)
    assert directories.announced(settings, "10.0.0.1") == "10.0.0.1"
    here = settings.model_copy(update={"directory": ("127.0.0.1:8004",)})
    assert directories.announced(here, "0.0.0.0") == "127.0.0.1"
    told = settings.model_copy(update={"announce": "pod.example"})
    assert directories.announced(told, "0.0.0.0") == "pod.example"
    monkeypatch.setenv("TILTSERVE_ANNOUNCE", "10.9.8.7")
    assert directories.announced(settings, "0.0.0.0") == "10.9.8.7"


def test_names_of_two_releases_differ():
    assert directories.named(settings_elsewhere(ARGS), "front") == "mine-front"
    assert directories.named(settings_elsewhere(ARGS | {"release": "tiltserve"}), "front") == "front"
