"""A front's process holds no torch: it takes 0.3 s to import and 60 MB where it took 1.5 s and 260 MB."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "steering",
    "onnxruntime",
    "onnx",
    "serving.replica",
    "serving.requests",
    "serving.engine",
    "opentelemetry",
)


@pytest.mark.parametrize(
    "module",
    ["serving.front.server", "deploy.front_deployment", "deploy.http_deployment", "deploy.settings", "deploy.parts"],
)
def test_a_front_imports_nothing_heavy(module: str):
    code = f"import sys, {module}; print(*({HEAVY!r} & sys.modules.keys()))".replace("('", "{'").replace("')", "'}")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
