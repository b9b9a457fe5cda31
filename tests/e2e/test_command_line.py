"""`tiltserve serve` with something wrong: exit code 2 and one line, before anything is started."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import tiltserve

pytestmark = pytest.mark.e2e


def refusal(ended: "subprocess.CompletedProcess[str]") -> str:
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr.removesuffix("\n")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("flag", ["--grpc-port", "--metrics-port"])
def test_a_taken_port(small_models: Path, taken: int, flag: str):
    other = {"--grpc-port": "--metrics-port", "--metrics-port": "--grpc-port"}[flag]
    text = refusal(tiltserve("serve", "--models", str(small_models), flag, str(taken), other, "0"))
    assert text == f"error: {flag}: expected a free port on 127.0.0.1, got {taken}: Address already in use"


@pytest.mark.parametrize(("flag", "host"), [("--host", "192.0.2.7"), ("--metrics-host", "no-such-host.invalid")])
def test_a_host_that_is_not_this_machine(small_models: Path, flag: str, host: str):
    """The text names the host: no port of it would do."""
    text = refusal(tiltserve("serve", "--models", str(small_models), "--insecure", flag, host))
    assert text.startswith(f"error: {flag}: expected an address of this machine, got {host}: ")


def test_a_missing_models_folder(tmp_path: Path):
    text = refusal(tiltserve("serve", "--models", str(tmp_path / "none")))
    assert text == f"error: --models: expected a folder of models, got '{tmp_path}/none', which does not exist"


def test_a_folder_without_models(tmp_path: Path):
    (tmp_path / "notes").mkdir()
    text = refusal(tiltserve("serve", "--models", str(tmp_path), "--grpc-port", "0", "--metrics-port", "0"))
    assert text == f"error: --models: expected folders NAME/VERSION/model.onnx in {tmp_path}, got none"


def test_an_unknown_key_names_the_nearest(tmp_path: Path):
    config = tmp_path / "settings.yaml"
    config.write_text(f"models: {tmp_path}\nreplcas: 2\n")
    text = refusal(tiltserve("serve", "--config", str(config)))
    assert text == f"error: {config}: unknown key 'replcas', did you mean 'replicas'?"
