"""The demo, as a newcomer runs it: the real server, the real digits, and what its summary promises."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_demo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.demo", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        seen: set[psutil.Process] = set()
        assert process.stdout is not None
        for line in process.stdout:
            if "judging" in line:  # the server is up and has served
                seen = set(psutil.Process(process.pid).children(recursive=True))
        assert process.wait() == 0
    assert seen, "expected the server's processes while it runs, got none"
    assert not [each for each in seen if each.is_running()]

    summary = json.loads((tmp_path / "summary.json").read_text())
    plain, steered, rows = summary["plain"], summary["steered"], summary["network_rows_per_sample"]
    assert rows["steered"] == rows["plain"] == 20
    assert plain["share"] < 0.3
    assert steered["share"] >= 0.8
    assert steered["mean_reward"] > plain["mean_reward"] + 5
    # steered samples are digits of the wanted kind, not adversarial noise
    assert summary["distance_to_real"]["steered"] < 0.3 * summary["distance_to_real"]["plain"]
    with Image.open(tmp_path / "samples.png") as picture:
        assert min(picture.size) > 400
