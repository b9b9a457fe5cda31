"""The 3-D example at tiny sizes: it replays and resumes to the same bytes, by the server's gradients."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image, ImageSequence

import tiltserve
from exporters.scenes.render import render
from tests.examples.test_examples import run
from tests.serving.live import Live, running
from tiltserve import Client

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "distill3d.py"
SMALL = ["--kinds", "mug", "--iterations", "2", "--views", "1", "--every", "1", "--members", "12", "--draws", "16"]


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """A server of the models that ship."""
    with running(ROOT / "deploy" / "scene_models", answer_s=60.0, max_queue_rows=200_000) as live:
        yield live


@pytest.fixture
def client(live: Live) -> Iterator[Client]:
    with Client(live.address, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distill3d", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["distill3d"] = module  # which its dataclasses look for
    spec.loader.exec_module(module)
    return module


def plain(example: ModuleType, **changed: Any) -> Any:
    asked = {"mode": "sds", "seed": 3, "schedule": {"preset": "coarse", "scale": 0.55, "i_end": 6}, "kind": 0}
    given = {"name": "x", "kind": "chair", "asked": asked, "iterations": 6, "views": 2, "seed": 3, "rate": 0.05}
    return example.Run(**{**given, **changed})


class Interrupted(Exception):  # noqa: N818
    pass


def test_a_run_replays_and_resumes_to_the_same_bytes(example: ModuleType, client: Client, tmp_path: Path):
    wanted, seen = plain(example), list[float]()
    files = [tmp_path / name / "scene.pt" for name in ("whole", "again", "resumed")]
    for file in files:
        file.parent.mkdir()
    for file in files[:2]:
        example.made(wanted, client, file, 4, lambda answer: seen.append(answer.norm))
    assert seen[:6] == seen[6:]
    assert len(set(seen)) == 6

    def stop(answer: Any) -> None:
        stop.left -= 1  # type: ignore[attr-defined]
        if stop.left == 0:  # type: ignore[attr-defined]
            raise Interrupted

    stop.left = 5  # type: ignore[attr-defined] # after a step that no checkpoint has
    with pytest.raises(Interrupted):
        example.made(wanted, client, files[2], 4, stop)
    assert torch.load(files[2], weights_only=True)["iteration"] == 4
    seen.clear()
    scene, fingerprint = example.made(wanted, client, files[2], 4, lambda answer: seen.append(answer.norm))
    assert (len(seen), scene.iteration) == (2, 6)
    assert fingerprint
    whole, again, resumed = (file.read_bytes() for file in files)
    assert whole == again == resumed
    with pytest.raises(SystemExit, match=r"expected .* to be of these settings, got .*; choose --out"):
        example.made(plain(example, seed=4), client, files[2], 4, print)


def test_its_steps_are_those_of_distill_loss(example: ModuleType, client: Client):
    """The field's gradient through the renderer is the server's answer times the renderer's derivative."""
    wanted = plain(example)
    scene, camera = example.Scene(3), example.views_of(wanted, 0)
    views = render(scene.field, camera)
    tiltserve.distill_loss(views, client, "scenes", iteration=0, camera=camera, **wanted.asked).backward()
    raw = client.distill("scenes", views.detach().numpy(), iteration=0, camera=camera.numpy(), **wanted.asked)
    other = example.Scene(3)
    (render(other.field, camera) * torch.from_numpy(raw.gradient)).sum().backward()
    for found, expected in ((scene.density, other.density), (scene.colour, other.colour)):
        assert torch.equal(found.grad, expected.grad)
        assert float(found.grad.abs().max()) > 0


def test_cameras_are_a_function_of_seed_and_iteration(example: ModuleType):
    wanted = plain(example)
    assert torch.equal(example.views_of(wanted, 3), example.views_of(wanted, 3))
    several = {tuple(example.views_of(wanted, i).flatten().tolist()) for i in range(8)}
    assert len(several) > 4


def test_as_its_reader_runs_it(live: Live, tmp_path: Path):
    """Plain and steered."""
    command = [sys.executable, str(EXAMPLE), "--url", live.address, "--out", str(tmp_path), *SMALL]
    said = run(*command)
    assert "mug, plain" in said
    assert "mug, toward" in said
    assert "redness" in said
    assert "by 320 network rows" in said
    checkpoints = sorted(tmp_path.glob("*.pt"))
    assert [each.name for each in checkpoints] == ["mug-plain.pt", "mug-toward-redness.pt"]
    fields = [torch.load(each, weights_only=True)["colour"] for each in checkpoints]
    assert not torch.equal(*fields)
    with Image.open(tmp_path / "scenes.gif") as turning:
        assert turning.size == (192, 96)
        assert len(list(ImageSequence.Iterator(turning))) == 24
    with Image.open(tmp_path / "scenes.png") as sheet:
        assert sheet.width > 2 * 6 * 64


def test_wrong_options_are_refused(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for wrong, said in (
        (["--views", "13"], "--views: expected 1 to 12, got 13"),
        (["--iterations", "0"], "--iterations: expected at least 1, got 0"),
        (["--every", "0"], "--every: expected at least 1, got 0"),
        (["--members", "1"], "--members: expected at least 2, got 1"),
    ):
        monkeypatch.setattr(sys, "argv", ["distill3d.py", *wrong])
        with pytest.raises(SystemExit):
            example.options()
        assert said in capsys.readouterr().err
