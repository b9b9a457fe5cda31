"""ONNX Runtime reports to its vendor unless it is told not to before it is imported."""

import os
import subprocess
import sys

import pytest

ENTRIES = (
    "serving.backends.ort",
    "serving.replica",
    "exporters.export",
    "deploy.replica_deployment",
    "benchmarks._server",
)


@pytest.mark.parametrize("module", ENTRIES)
def test_it_is_off_before_the_import(module: str):
    """`onnxruntime` here is one that only shows what it would have read."""
    code = f"""
import importlib.abc, importlib.machinery, os, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            print("ORT_DISABLE_TELEMETRY =", os.environ.get("ORT_DISABLE_TELEMETRY"))
            raise SystemExit
sys.meta_path.insert(0, Finder())
import {module}
"""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout == "ORT_DISABLE_TELEMETRY = 1\n"
