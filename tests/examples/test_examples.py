"""Every example runs as its reader would run it, against a server of the demo's models."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.process import Running
from tests.deploy.http.test_endpoint import endpoint
from tests.serving.live import Live, running

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
ELSEWHERE = {
    "reward_service.py",
    "interactive.py",
    "black_box.py",
    "export_checkpoint.py",
    "distill3d.py",
    "dynamics.py",
}
"""Scripts of tests of their own: of rewards outside of the server, of dynamics, and below."""
CLIENTS = {"sample.py", "stream.py", "score.py", "many_requests.py", "triton_client.py", "interpolate.py"}


def run(*command: str, folder: Path = ROOT, **environment: str) -> str:
    """What a command prints; it must end well."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run() -> None:
    scripts = {file.name for file in EXAMPLES.glob("*.py")}
    assert scripts == CLIENTS | ELSEWHERE | {"notebook.py", "text_to_image.py", "images_api.py"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sample.py", "a mistake: unknown parameter 'stpes', did you mean 'steps'?"),
        ("stream.py", "its rows are off the server"),
        ("score.py", "of a steered one"),
        ("many_requests.py", "10 samples of 6 requests in"),
        ("triton_client.py", "samples (4, 1, 28, 28) rewards"),
        ("interpolate.py", "again: the same bytes"),
    ],
)
def test_client_developers(demo_server: Running, name: str, expected: str) -> None:
    assert expected in run(sys.executable, str(EXAMPLES / name), demo_server.grpc)


def test_pictures_of_prompts(pictured: Live, tmp_path: Path) -> None:
    """Before a small pipeline, whose pictures say nothing."""
    said = run(sys.executable, str(EXAMPLES / "text_to_image.py"), pictured.address, "tiny", "redness", folder=tmp_path)
    assert "toward redness: [" in said
    assert "as diffusers has it: (8, 8) seed 1" in said
    assert {"heart.png", "heart-at-2-of-5.png", "changed.png"} <= {
        each.name for each in (tmp_path / "pictures").iterdir()
    }
    with endpoint(pictured, pictured.address) as caller:
        url = f"http://127.0.0.1:{caller.port}"
        said = run(sys.executable, str(EXAMPLES / "images_api.py"), url, "tiny", folder=tmp_path)
    assert "pipelines: filling tiny" in said
    assert "event: image_generation.completed" in said
    assert "a mistake: 400 unknown parameter 'stpes', did you mean 'steps'?" in said
    assert (tmp_path / "heart-1.png").is_file()


def test_operators(demo_server: Running) -> None:
    shown = run(str(EXAMPLES / "operate.sh"), demo_server.metrics, TILTSERVE_ADDRESS=demo_server.grpc)
    for text in ("replicas", "corrections", "mean", '"network_rows": 10', "queue", "requests/s"):
        assert text in shown


def test_researchers(tmp_path: Path) -> None:
    """The checkpoint is exported, served, and steered by a black box."""
    assert "wrote" in run(sys.executable, str(EXAMPLES / "export_checkpoint.py"), str(tmp_path / "models"))
    (tmp_path / "models" / "spiral.pt").unlink()
    with running(tmp_path / "models", answer_s=30.0) as server:
        said = run(sys.executable, str(EXAMPLES / "black_box.py"), server.address)
    plain, steered, _ = map(float, re.findall(r"[01]\.\d+", said))
    assert plain + 0.2 < steered  # how near it comes to the exact law depends on whether the bank is made yet


def test_the_notebook_without_a_server() -> None:
    source = (EXAMPLES / "notebook.py").read_text().replace("(1024, 8)", "(64, 8)")  # 64 samples show the same
    assert "energy distance to the exact tilted law" in run(sys.executable, "-c", source)
