"""The images' lock files: of what requirements.lock pins, and enough for what runs there."""

import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from deploy.locks import FRONT, LOCK, RUNTIME, locks, pinned


def test_they_are_what_the_program_writes():
    assert {path: path.read_text() for path in (RUNTIME, FRONT)} == locks()


def test_they_pin_what_the_whole_lock_pins():
    whole, runtime, front = (pinned(path) for path in (LOCK, RUNTIME, FRONT))
    assert front.items() <= runtime.items() <= whole.items()
    assert "torch" in runtime
    assert not {"pytest", "mypy", "ruff", "diffusers", "hypothesis"} & runtime.keys()
    assert not {"torch", "ray", "onnx", "onnxruntime", "onnxscript", "matplotlib"} & front.keys()


@pytest.mark.parametrize(
    "code",
    [
        "import deploy.parts, deploy.cli, serving.watching.spans, opentelemetry.exporter.otlp.proto.grpc",
        "import tiltserve, tiltserve.aio, deploy.commands.sample, deploy.commands.models",
    ],
)
def test_what_runs_in_the_fronts_image_is_in_its_lock(code: str):
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; old = {{*sys.modules}}; {code}; print(*({{*sys.modules}} - old))"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = packages_distributions()
    # a name that several distributions share, as google is one, counts where none of them is pinned
    names = {name.partition(".")[0] for name in run.stdout.split()} - {"grpc_tools"}  # which gRPC tries and can miss
    needed = [found[name] for name in names if name in found]
    front = pinned(FRONT)
    normal = [{each.lower().replace("_", "-") for each in group} for group in needed]
    ours = {"tiltserve", "tiltserve-client"}
    assert [group for group in normal if not group & (front.keys() | ours)] == []
