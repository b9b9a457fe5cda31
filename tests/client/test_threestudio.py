"""The guidance for threestudio, in a stand-in of threestudio and before a real server."""

import copy
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters.export import export_model
from protos.card import Card
from tests.client import threestudio_stand_in as threestudio
from tests.networks import TIMES
from tests.serving.live import Live, running
from tiltserve import Client, InvalidArgument

SOURCE = Path(__file__).parents[2] / "client" / "threestudio" / "tiltserve_threestudio.py"


class Pictured(nn.Module):
    """Exact denoiser of pictures [3, 8, 8] of width .5 about a mean that text [2, 4] and camera [3] say."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.by_text = nn.Parameter(torch.randn(8, 192, generator=generator) / 3)
        self.by_camera = nn.Parameter(torch.randn(3, 192, generator=generator) / 3)

    def forward(self, x: Tensor, t: Tensor, text: Tensor, camera: Tensor) -> Tensor:
        mean = torch.tanh(text.flatten(1) @ self.by_text + camera @ self.by_camera).reshape(-1, 3, 8, 8)
        sigma = t[:, None, None, None]
        alpha = 1 - sigma
        return mean + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x - alpha * mean)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    given: dict[str, Any] = {
        "name": "pictured",
        "path": {"kind": "rectified_flow"},
        "prediction": "x0",
        "t_range": [0.001, 0.999],
        "event_shape": [3, 8, 8],
        "output": "x0",
        "conditions": {
            "text": {"dtype": "float32", "shape": [2, 4], "null": 0.0},
            "camera": {"dtype": "float32", "shape": [3], "null": 0.0},
        },
    }
    root = tmp_path_factory.mktemp("models")
    examples = {
        "x": torch.randn(4, 3, 8, 8), "t": TIMES, "text": torch.randn(4, 2, 4), "camera": torch.randn(4, 3),
    }  # fmt: skip
    export_model(
        Pictured(), root / "pictured", Card.model_validate(given), examples=examples, outputs=["x0"], sizes=(1, 5)
    )
    with running(root) as live:
        yield live


@pytest.fixture
def guidance(live: Live) -> Any:
    """Makes guidances of a configuration."""
    with threestudio.installed():
        spec = importlib.util.spec_from_file_location("tiltserve_threestudio", SOURCE)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    kind: Any = threestudio.REGISTERED["tiltserve-guidance"]
    usual = {"url": live.address, "model": "pictured", "text": "", "size": 8, "half": False, "guidance_scale": 0.0}
    return lambda **config: kind({**usual, **config})


def batch(step: int, views: int = 3) -> dict[str, Any]:
    """As threestudio's cameras come: a function of the step here, so that a resumed run has the same."""
    generator = torch.Generator().manual_seed(step)
    return {
        "elevation": 40 * torch.rand(views, generator=generator),
        "azimuth": 360 * torch.rand(views, generator=generator),
        "camera_distances": torch.full((views,), 1.5),
        "mvp_mtx": torch.eye(4).repeat(views, 1, 1),
    }


def prompts(views: int = 3, negatives: bool = False) -> threestudio.Prompts:
    generator = torch.Generator().manual_seed(9)
    made = threestudio.Prompts(
        torch.randn(views, 2, 4, generator=generator), torch.randn(views, 2, 4, generator=generator)
    )
    if negatives:
        made.negatives = torch.randn(views, 2, 2, 4, generator=generator)
        made.weights = -torch.rand(views, 2, generator=generator)
    return made


def asked(live: Live, rgb: Tensor, **wanted: Any) -> np.ndarray:
    """The gradient with respect to rgb [B, H, W, 3] of 0..1 that the server's answer means."""
    with Client(live.address) as client:
        views = rgb.detach().permute(0, 3, 1, 2).numpy() * 2 - 1
        found = client.distill("pictured", views, schedule="coarse", **wanted).gradient
    return 2 * found.transpose(0, 2, 3, 1)


def told(guidance: Any, rgb: Tensor, said: Any, cameras: dict[str, Any]) -> np.ndarray:
    rgb = rgb.detach().requires_grad_()
    out = guidance(rgb, said, **cameras, rgb_as_latents=False)
    out["loss_sds"].backward()
    assert rgb.grad is not None
    assert out["min_step"] < out["max_step"]
    found: np.ndarray = rgb.grad.numpy()
    return found


RGB = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(4))


def test_cameras_and_schedules_of_numbers(guidance: Any, live: Live):
    made = guidance(camera="camera", conditions={"text": np.zeros((1, 2, 4))}, seed=5, grad_clip=[0, 2.0, 0.5, 10])
    made.do_update_step(0, 5)
    cameras = batch(0) | {"azimuth": torch.tensor([0.0, 90.0, 180.0]), "elevation": torch.tensor([0.0, 0.0, 30.0])}
    unit = [[1, 0, 0], [0, 1, 0], [-np.cos(np.pi / 6), 0, 0.5]]
    expected = asked(live, RGB, camera=np.array(unit), text=np.zeros((2, 4)), seed=5, iteration=5, clip=1.25)
    np.testing.assert_allclose(told(made, RGB, None, cameras), expected, atol=1e-6)


def test_texts_with_guidance(guidance: Any, live: Live):
    said = prompts()
    made = guidance(text="text", guidance_scale=6.0)
    expected = asked(
        live, RGB, iteration=0, seed=0, guidance=7.0,
        conditions={"text": said.embeddings, "null_text": said.null, "camera": np.zeros(3)},
    )  # fmt: skip
    made.cfg.conditions = {"camera": [0.0, 0.0, 0.0]}
    np.testing.assert_allclose(told(made, RGB, said, batch(0)), expected, atol=1e-6)


def test_perpendicular_negatives(guidance: Any, live: Live):
    """null + w (pos + sum of w_i neg_i perpendicular to pos), each less the null, as threestudio has it: in closed
    form, since each text moves the denoised estimate by a multiple of its mean."""
    said, plain, nowhere = prompts(negatives=True), prompts(), [0.0, 0.0, 0.0]
    made = guidance(text="text", guidance_scale=6.0, conditions={"camera": nowhere})
    moved = told(made, RGB, said, batch(0)) - told(made, RGB, plain, batch(0))
    with Client(live.address) as client:
        views = RGB.permute(0, 3, 1, 2).numpy()
        told_texts = {"text": said.embeddings, "null_text": said.null, "camera": nowhere}
        t = client.distill("pictured", views, iteration=0, guidance=7.0, conditions=told_texts).t1
    alpha, sigma = 1 - t, t
    share = 1 - alpha**2 * 0.25 / (alpha**2 * 0.25 + sigma**2)  # of its mean in the estimate
    network = Pictured()
    assert said.negatives is not None
    assert said.weights is not None

    def mean(text: Tensor) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = torch.tanh(text.flatten(1) @ network.by_text).double().numpy()
        return found

    pos = mean(said.embeddings) - mean(said.null)
    push = np.zeros_like(pos)
    for i in range(2):
        neg = mean(said.negatives[:, i]) - mean(said.null)
        along = (neg * pos).sum(1, keepdims=True) / (pos * pos).sum(1, keepdims=True)
        push += said.weights[:, i : i + 1].double().numpy() * (neg - along * pos)
    eps = -7 * push * (share * alpha / sigma)[:, None]
    expected = 2 * eps.reshape(3, 3, 8, 8).transpose(0, 2, 3, 1) / 3
    np.testing.assert_allclose(moved, expected, atol=1e-4 * float(np.abs(expected).max()) + 1e-5)


def double(images: Tensor) -> Tensor:
    """Stands for an encoder."""
    return 2 * images


def test_encoders_and_latents(guidance: Any, live: Live):
    made = guidance(encoder=f"{__name__}:double", conditions={"text": np.zeros((1, 2, 4)), "camera": [0.0, 0, 0]})
    rgb = RGB.clone().requires_grad_()
    made(rgb, None, **batch(0))["loss_sds"].backward()
    with Client(live.address) as client:
        views = 2 * (RGB.permute(0, 3, 1, 2).numpy() * 2 - 1)
        given: dict[str, Any] = {"text": np.zeros((2, 4)), "camera": np.zeros(3), "iteration": 0}
        raw = client.distill("pictured", views, schedule="coarse", **given)
        assert rgb.grad is not None
        np.testing.assert_allclose(rgb.grad.numpy(), 4 * raw.gradient.transpose(0, 2, 3, 1), atol=1e-6)
        latents = RGB.clone().requires_grad_()
        out = made(latents, None, **batch(0), rgb_as_latents=True)
        out["loss_sds"].backward()
        raw = client.distill("pictured", RGB.permute(0, 3, 1, 2).numpy(), schedule="coarse", **given)
        assert latents.grad is not None
        np.testing.assert_allclose(latents.grad.numpy(), raw.gradient.transpose(0, 2, 3, 1), atol=1e-6)
        assert float(out["grad_norm"]) == pytest.approx(3 * raw.norm, rel=1e-5)


@pytest.mark.parametrize("mode", ["sds", "cds"])
def test_a_run_replays_and_resumes_to_the_same_bytes(guidance: Any, mode: str):
    """From a checkpoint that holds nothing of the guidance."""

    def system() -> threestudio.System:
        made = guidance(mode=mode, camera="camera", conditions={"text": np.ones((1, 2, 4))}, seed=3)
        return threestudio.System(made, None, batch)

    whole, again, resumed = system(), system(), system()
    for step in range(6):
        whole.step()
        again.step()
        if step == 2:
            saved = copy.deepcopy(whole.checkpoint())
    assert set(saved["state_dict"]) == {"field"}
    resumed.resume(saved)
    for _ in range(3):
        resumed.step()
    assert torch.equal(whole.field, again.field)
    assert torch.equal(whole.field, resumed.field)
    assert not torch.equal(saved["state_dict"]["field"], whole.field)


def test_no_prior_is_on_this_side(guidance: Any):
    made = guidance(camera="camera")
    assert not [each for each in vars(made).values() if isinstance(each, nn.Module | Tensor)]
    with pytest.raises(InvalidArgument, match="did you mean 'weighting'"):
        guidance(ask={"weightin": "sds"}, conditions={"text": np.zeros((1, 2, 4))})(RGB, None, **batch(0))
