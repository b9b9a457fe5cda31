"""The commands that ask a running server, before a real one."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from deploy.pages import Growth, Labels, Page
from tests.serving.live import MODE, Live, nearness

STEERED = ("--reward", "nearness", "--reward-mode", str(MODE))


@pytest.fixture
def live(served: Live) -> Live:
    return served


def run(live: Live, *arguments: str, code: int = 0, **environment: str) -> Result:
    result = CliRunner().invoke(app, [*arguments, "--address", live.address], env=environment)
    assert result.exit_code == code, result.output
    return result


def refusal(live: Live, *arguments: str, code: int = 2, **environment: str) -> str:
    """The one line on standard error of a command that must fail with `code`."""
    result = run(live, *arguments, code=code, **environment)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").strip()


def test_sample(live: Live, tmp_path: Path):
    file = tmp_path / "out.npz"
    asked = ("sample", "rings", "-n", "3", "--seed", "1", "--steps", "4", *STEERED)
    shown = run(live, *asked, "-o", str(file), "--report")
    for text in ("3 of shape [2]", "mean reward", "written to", "no candidate had weight"):
        assert text in shown.stdout
    outputs, _ = live.infer(samples=3, seed=1, steps=4, reward="nearness", reward_mode=MODE)
    with np.load(file) as arrays:
        assert arrays["samples"].tobytes() == outputs["samples"].tobytes()
    said = json.loads(run(live, *asked, "--json").stdout)
    assert (said["seed"], said["shape"], said["steering"]) == (1, [3, 2], "doob")
    np.testing.assert_allclose(said["rewards"], outputs["rewards"], rtol=1e-6)
    assert said["report"]["distinct"] == 3
    assert "expected a .npz file, or samples of shape [h, w]" in refusal(live, "sample", "rings", "-o", "x.png")
    vector = run(
        live, "sample", "rings", "--reward", "2 * linear", "--reward-direction", "1,0", "--steps", "2", "--json"
    )
    assert len(json.loads(vector.stdout)["rewards"]) == 1


@pytest.mark.parametrize(
    ("arguments", "expected", "code"),
    [
        (["rnigs"], "NOT_FOUND: unknown model 'rnigs'", 2),
        (["rings", "--steps", "0"], "INVALID_ARGUMENT: parameter steps: expected", 2),
        (["rings", "--parameter", "stpes=3"], "INVALID_ARGUMENT: unknown parameter 'stpes', did you mean 'steps'?", 2),
        (["rings", "--reward", "nan"], "FAILED_PRECONDITION", 1),
        (["rings", "--token-file", "/no/such"], "--token-file: expected a readable file, got '/no/such'", 2),
        (["rings", "--tls-ca", "/no/such"], "--tls-ca, --tls-cert and --tls-key: expected a readable file for ca", 2),
        (["rings", "--tls-cert", "x"], "--tls-ca, --tls-cert and --tls-key: expected cert and key together", 2),
    ],
)
def test_refusals_of_sample(live: Live, arguments: list[str], expected: str, code: int):
    assert refusal(live, "sample", *arguments, code=code).startswith(expected)


def test_score(live: Live, tmp_path: Path):
    x = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    file = tmp_path / "x.npz"
    np.savez(file, samples=x)
    np.save(tmp_path / "x.npy", x)
    for each in (file, tmp_path / "x.npy"):
        said = json.loads(run(live, "score", "nearness", str(each), "-a", f"mode={MODE}", "--json").stdout)
        np.testing.assert_allclose(said, nearness(x), rtol=1e-4)
    assert "4 of shape [2]" in run(live, "score", "nearness", str(file), "--argument", "mode=1").stdout
    assert "No such file" in refusal(live, "score", "nearness", str(tmp_path / "none.npy"))
    np.savez(file, images=x)
    assert refusal(live, "score", "nearness", str(file)).endswith("expected an array samples, got images")
    file.write_text("no array")
    assert "expected a .npy or .npz file" in refusal(live, "score", "nearness", str(file))


def test_models(live: Live):
    said = json.loads(run(live, "models", "--json").stdout)
    assert {"name", "kind", "versions", "state", "reason"} == {*said["models"][0]}
    assert {"id", "address", "pid", "backlog_rows", "draining", "fingerprints"} == {*said["replicas"][0]}
    assert "rings.network" in run(live, "models").stdout


def test_a_token_comes_from_a_file_or_the_environment_and_is_never_shown(live: Live, tmp_path: Path):
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    for result in (
        run(live, "sample", "rings", "--steps", "2", "--token-file", str(file)),
        run(live, "sample", "rings", "--steps", "2", TILTSERVE_TOKEN="s3cret"),
    ):
        assert "s3cret" not in result.output
    file.write_text("two words")
    assert "two words" not in refusal(live, "models", "--token-file", str(file))
    file.write_text("")
    assert refusal(live, "models", "--token-file", str(file)).startswith("--token-file: expected a token in ")


def test_the_address_may_come_from_the_environment(live: Live):
    result = CliRunner().invoke(app, ["models", "--json"], env={"TILTSERVE_ADDRESS": f"grpc://{live.address}"})
    assert result.exit_code == 0, result.output


def test_top(live: Live):
    metrics = ("--metrics", live.front.metrics_address)
    asking = threading.Thread(target=lambda: [live.infer(samples=4, steps=10) for _ in range(40)])
    asking.start()
    shown = run(live, "top", "--once", "--every", "0.3", *metrics).stdout
    asking.join()
    assert "requests/s" in shown
    rings = next(line.split() for line in shown.splitlines() if line.startswith("rings "))
    assert rings[1] == "READY"
    assert float(rings[2]) > 0
    assert 0 < float(rings[4]) <= float(rings[5])
    assert float(rings[6]) >= 0
    idle = run(live, "top", "--once", "--every", "0.1", *metrics).stdout
    assert "0.0 requests/s, 0.0 failed/s, 0 rows to do" in idle
    row = next(line.split() for line in idle.splitlines() if line.startswith(live.replicas[0].id[:12]))
    assert row[-1] == "0%"  # busy
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{nobody.getsockname()[1]}"
        text = refusal(live, "top", "--once", "--metrics", where, code=1)
    assert text.startswith(f"--metrics: expected a metrics page at http://{where}/metrics, got: ")


def test_top_in_a_pipe(live: Live):
    """Frames come one by one, and a reader that leaves ends it without a traceback."""
    asked = [sys.executable, "-m", "deploy", "top", "--every", "0.1"]
    asked += ["--address", live.address, "--metrics", live.front.metrics_address]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        heads = 0
        while heads < 2:
            heads += "requests/s" in running.stdout.readline()
        running.stdout.close()
        assert running.wait(30) == 1
        assert running.stderr.read() == ""


def test_a_disk_that_is_full(live: Live):
    asked = [sys.executable, "-m", "deploy", "models", "--json", "--address", live.address]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(asked, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_trace(live: Live):
    said = json.loads(run(live, "trace", "rings", "-n", "4", *STEERED, "--parameter", "steps=8", "--json").stdout)
    assert {"queue", "network", "reward", "total"} <= {*said["times"]}
    assert said["times"]["network"]["rows"] > 0
    assert said["times"]["total"]["ms"] <= 1e3 * said["seconds"]
    shown = run(live, "trace", "rings").stdout
    assert [line.split()[0] for line in shown.splitlines()][-1] == "client"
    assert refusal(live, "trace", "rings", "--parameter", "steps=0").startswith("INVALID_ARGUMENT: parameter steps")


def test_quantiles_of_a_histogram():
    def page(at: float, *counts: float) -> Page:
        bounds = ("0.1", "1.0", "+Inf")
        values: dict[tuple[str, Labels], float] = {("h_sum", ()): counts[-1] * 3, ("h_count", ()): counts[-1]}
        for bound, count in zip(bounds, counts, strict=True):
            values["h_bucket", (("le", bound), ("model", "m"))] = count
        return Page(at, values)

    growth = Growth(page(0, 1, 1, 1), page(2, 1, 11, 11))
    assert growth.quantile(0.5, "h", model="m") == pytest.approx(0.55)
    assert growth.quantile(0.5, "h", model="other") is None
    assert growth.mean("h") == 3
    assert growth.rate("h_count") == 5
    assert Growth(page(0, 0, 0, 0), page(1, 0, 0, 4)).quantile(0.99, "h") == 1.0
    assert Growth(page(0, 1, 1, 1), page(1, 1, 1, 1)).quantile(0.5, "h") is None


def test_what_a_server_does_not_serve_is_its_line(live: Live):
    for arguments in (["load", "rings"], ["unload", "rings"]):
        text = refusal(live, *arguments, code=1)
        assert text.partition(":")[0] in ("UNIMPLEMENTED", "PERMISSION_DENIED")


def test_completion():
    environment = {
        **os.environ,
        "_TILTSERVE_COMPLETE": "complete_bash",
        "COMP_WORDS": "tiltserve sam",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "deploy"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["sample"]
