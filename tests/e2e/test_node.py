"""The client in another language: Node's own gRPC against a real front and replica."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import networks
from tests.serving.live import MODE, Live, running, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"
STEERED: dict[str, Any] = {"reward": "nearness", "reward_mode": MODE, "beta": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with the packages it needs."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm reaches no registry")
    if installed.returncode:
        pytest.skip(f"npm ci: {installed.stderr.strip()[-200:]}")
    return folder


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("models")
    networks.write_rings(root)
    networks.write_nearness(root)
    with running(root) as live:
        yield live


def test_it_draws_watches_and_cancels(folder: Path, live: Live):
    command = ["node", "client.js", live.address, "rings", json.dumps(STEERED)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    drawn, *stages, done, cancelled = ran.stdout.splitlines()
    outputs, _ = live.infer(samples=4, seed=1, **STEERED)
    assert drawn == f"drawn: samples [4,2], mean reward {outputs['rewards'].mean():.3f}, seed 1"
    assert [re.sub(r"byte \d+\.\d$", "", each) for each in stages] == [
        f"stage {stage} of 20: denoised [1,2], mean " for stage in (5, 10, 15, 20)
    ]
    assert done == "done: samples [1,2], 20 network rows"
    assert cancelled == "cancelled after the first preview"
    until(lambda: live.replicas[0]._engine.backlog_rows == 0, 2)


def test_errors_are_lines(folder: Path, live: Live):
    command = ["node", "client.js", live.address, "dogs", "{}"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "unknown model 'dogs'" in ran.stderr
