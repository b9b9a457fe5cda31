"""The examples of rewards outside of the server, as a reader would run them, against the whole server."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.e2e.conftest import ENVIRONMENT, Server, until
from tests.e2e.test_server import backlog, infer, page, refusal, total

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

EXAMPLES = Path(__file__).parents[2] / "examples"
STEERED: dict[str, Any] = {"samples": 8, "seed": 1, "steps": 8, "reward": "brightness", "beta": 0.1}


@pytest.fixture
def service(server: Server) -> Iterator["subprocess.Popen[str]"]:
    """The example's service, where the server expects it."""
    command = [sys.executable, str(EXAMPLES / "reward_service.py"), server.reward]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        yield process
        process.kill()


def test_a_service_of_ones_own(server: Server, client: triton.InferenceServerClient, service: "subprocess.Popen[str]"):
    plain, _ = infer(client, "rings", samples=64, seed=1)
    outputs, said = infer(client, "rings", **{**STEERED, "samples": 64}, reward_scale=2)
    samples, rewards = outputs["samples"], outputs["rewards"]
    np.testing.assert_allclose(rewards, 2 * samples.mean(axis=1), rtol=1e-5)
    assert rewards.mean() > 2 * plain["samples"].mean() + 2  # the ring's radius is 2
    assert said["fingerprint"].endswith("-remote")
    assert total(page(server), "tiltserve_rows_total", model="brightness", kind="reward") >= said["reward_rows"]


def test_a_service_that_is_not_there(
    server: Server, client: triton.InferenceServerClient, service: "subprocess.Popen[str]"
):
    service.kill()
    service.wait(10)
    assert refusal(lambda: infer(client, "rings", **STEERED, reward_scale=3)) == (
        "UNAVAILABLE",
        "reward 'brightness': expected scores of 512 candidates, its service cannot be reached",
    )
    assert infer(client, "rings", samples=2)[0]["samples"].shape == (2, 2)
    until(lambda: backlog(server) == 0, 10, "an empty backlog")


def interactive(server: Server) -> float:
    """SampleInteractive calls that went well."""
    return total(page(server), "tiltserve_requests_total", method="SampleInteractive", code="OK")


def test_the_client_as_the_reward(server: Server):
    command = [sys.executable, str(EXAMPLES / "interactive.py"), server.grpc, "rings"]
    before = interactive(server)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=90, env=ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("batch 1: 512 candidates")
    found = re.search(r"samples \(8, 2\) rewards \[(.+)\]", ended.stdout)
    assert found, ended.stdout
    assert np.mean([float(each) for each in found[1].split()]) > 18
    assert lines[-1].endswith("-client")
    until(lambda: interactive(server) == before + 1, 20, "the counted stream")
