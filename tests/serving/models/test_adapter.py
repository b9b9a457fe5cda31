"""Other people's graphs, adapted by their cards: the samples are those of the plain form, whose law is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import Tensor

import steering
from serving.models import offline
from tests import gaussians

FLOAT, HALF, BFLOAT16, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE
INT64, INT32, BOOL = TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL
SAMPLES, STEPS = 64, 10


def drawn(root: Path, name: str, guidance: float = 1.0, **condition: Tensor) -> Tensor:
    """Samples by the offline reader, which asks the graph as the server does."""
    sampler = offline.open_sampler(root, name, threads=1)
    plan = sampler.plan("dpmpp_2m", STEPS)
    null = {
        key: torch.from_numpy(spec.null_rows)
        for key, spec in sampler.card.conditions.items()
        if spec.null_rows is not None
    }
    problem = steering.Problem(
        plan=plan,
        event=sampler.card.event_shape,
        dtype=torch.float32,
        condition=condition,
        guidance=guidance,
        null=null,
    )
    samples, _ = offline.solve(steering.sample(problem, steering.Noise(1, range(SAMPLES))), sampler)
    return samples


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """Samples of the plain form: velocity, float32, t a row."""
    root = tmp_path_factory.mktemp("plain")
    gaussians.write(root, "plain")
    return drawn(root, "plain")


def test_the_plain_form_has_the_law_it_should(tmp_path: Path):
    gaussians.write(tmp_path, "plain", event=(64,))
    samples = drawn(tmp_path, "plain")
    assert float(samples.mean()) == pytest.approx(gaussians.MEAN, abs=0.03)
    assert float(samples.std()) == pytest.approx(gaussians.STD, rel=0.05)


@pytest.mark.parametrize("time", gaussians.RHO)
def test_time_inputs(tmp_path: Path, plain: Tensor, time: str):
    gaussians.write(tmp_path, "model", time=time)
    torch.testing.assert_close(drawn(tmp_path, "model"), plain, rtol=0, atol=1e-3)


FORMS: dict[str, dict[str, Any]] = {
    "x0": {"prediction": "x0"},
    "eps": {"prediction": "eps"},
    "a velocity toward the data": {"sign": -1.0, "output_scale": -1},
    "t runs the other way": {"time": "1-t", "sign": -1.0, "output_scale": -1},
    "t alone runs the other way": {"time": "1-t"},
    "minus the score": {"prediction": "score", "sign": -1.0, "output_scale": -1},
    "a scaled output": {"sign": 0.25, "output_scale": 4},
    "learned variance": {"variance": 0, "learned_variance": True},
    "float64": {"dtype": DOUBLE},
    "float64, but for t": {"dtype": DOUBLE, "time_dtype": FLOAT},
    "float16 outside": {"dtype": HALF, "inside": FLOAT},
    "float16": {"dtype": HALF},
    "float16, but for t": {"dtype": HALF, "time_dtype": FLOAT},
    "bfloat16 outside": {"dtype": BFLOAT16, "inside": FLOAT},
    "bfloat16": {"dtype": BFLOAT16},
    "bfloat16 inside": {"inside": BFLOAT16},
    "scalar t": {"time_shape": []},
    "t [1]": {"time_shape": [1]},
    "t [1, 1]": {"time_shape": [1, 1]},
    "t [n, 1]": {"time_shape": ["n", 1]},
    "t [n, 1, 1]": {"time_shape": ["n", 1, 1]},
    "one row": {"rows": 1, "time_shape": [1]},
    "one row, scalar t": {"rows": 1, "time_shape": []},
    "scalar float16 t": {"dtype": HALF, "time_shape": []},
    "scalar bfloat16 t": {"dtype": BFLOAT16, "time_shape": []},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path: Path, plain: Tensor, form: str):
    gaussians.write(tmp_path, "model", **FORMS[form])
    near = 0.02 if FORMS[form].get("dtype") == HALF else 1e-3
    torch.testing.assert_close(drawn(tmp_path, "model"), plain, rtol=0, atol=near)


@pytest.mark.parametrize(("event", "axis"), [((3, 4, 4), 0), ((4, 4, 3), 2)])
def test_the_variance_may_follow_along_any_axis(tmp_path: Path, event: tuple[int, ...], axis: int):
    gaussians.write(tmp_path, "plain", event=event)
    gaussians.write(tmp_path, "model", event=event, variance=axis, learned_variance=True)
    torch.testing.assert_close(drawn(tmp_path, "model"), drawn(tmp_path, "plain"), rtol=0, atol=1e-6)
    gaussians.write(tmp_path, "unsaid", event=event, variance=axis)
    with pytest.raises(Exception, match="if its second half is a variance: learned_variance: true"):
        drawn(tmp_path, "unsaid")


SIDES: dict[str, tuple[int, list[str | int], dict[str, Any], Tensor]] = {
    "mask": (BOOL, ["n", 3], {"dtype": "bool", "shape": [3]}, torch.tensor([[True, False, True]])),
    "mask of a card in a float graph": (
        FLOAT, ["n", 3], {"dtype": "bool", "shape": [3]}, torch.tensor([[True, False, True]])
    ),
    "no batch axis": (FLOAT, [2], {"dtype": "float32", "shape": [2]}, torch.tensor([[0.5, 1.5]])),
    "a batch of one": (FLOAT, [1, 2], {"dtype": "float32", "shape": [2]}, torch.tensor([[0.5, 1.5]])),
    "a batch of one, said": (FLOAT, [1, 2], {"dtype": "float32", "shape": [1, 2]}, torch.tensor([[[0.5, 1.5]]])),
    "a scalar": (FLOAT, [], {"dtype": "float32"}, torch.tensor([2.0])),
    "a scalar mask": (BOOL, [1, 2], {"dtype": "bool", "shape": [2]}, torch.tensor([[True, True]])),
    "float16": (HALF, ["n"], {"dtype": "float32"}, torch.tensor([2.0])),
    "bfloat16": (BFLOAT16, ["n"], {"dtype": "float32"}, torch.tensor([2.0])),
    "int32": (INT32, ["n"], {"dtype": "int64"}, torch.tensor([2])),
    "uint8": (TensorProto.UINT8, ["n"], {"dtype": "int64"}, torch.tensor([2])),
}  # fmt: skip


@pytest.mark.parametrize("side", SIDES)
def test_side_inputs(tmp_path: Path, plain: Tensor, side: str):
    """All of them move the data by 2."""
    kind, shape, spec, value = SIDES[side]
    gaussians.write(tmp_path, "model", shift=(kind, shape), conditions={"shift": spec})
    samples = drawn(tmp_path, "model", shift=value.expand(SAMPLES, *value.shape[1:]))
    gaussians.write(tmp_path, "plain", shift=(FLOAT, ["n"]), conditions={"shift": {"dtype": "float32"}})
    torch.testing.assert_close(samples, drawn(tmp_path, "plain", shift=torch.full((SAMPLES,), 2.0)), rtol=0, atol=1e-5)
    assert float((samples - plain).mean()) == pytest.approx(2, abs=0.1)


def test_rows_with_different_shared_values_keep_their_bits(tmp_path: Path):
    """Samples among others, and alone."""
    gaussians.write(tmp_path, "model", shift=(FLOAT, []), time_shape=[], conditions={"shift": {"dtype": "float32"}})
    shifts = torch.arange(SAMPLES) % 3 * 1.0
    mixed = drawn(tmp_path, "model", shift=shifts)
    for shift in range(3):
        alone = drawn(tmp_path, "model", shift=torch.full((SAMPLES,), float(shift)))
        assert torch.equal(mixed[shift::3], alone[shift::3])


LIMITS: dict[str, tuple[dict[str, Any], float]] = {
    "clip": ({"clip": 1.25}, 1.25),
    "clip, both ends": ({"clip": [-3, 1]}, 1.0),
    "dynamic threshold": ({"dynamic_threshold": {"quantile": 1.0, "bound": 0.75}}, 0.75),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_limits_of_the_denoised_estimate(tmp_path: Path, limit: str):
    """An estimate that is far too large in its first number ends at the bound, but for the noise that is left."""
    card, bound = LIMITS[limit]
    gaussians.write(tmp_path, "model", wild=50.0, **card)
    samples = drawn(tmp_path, "model")
    np.testing.assert_allclose(samples[:, 0], bound, atol=0.02)
    if limit == "clip":
        assert float(samples[:, 1].max()) < bound + 0.01


def test_a_limit_holds_after_guidance(tmp_path: Path):
    """Guidance 5 between means 1.5 and 2.5 aims at 6.5; the limit keeps it, and would keep neither of the two."""
    spec = {"shift": {"dtype": "float32", "null": 0.0}}
    cards: dict[str, dict[str, Any]] = {"free": {}, "clipped": {"clip": 4}}
    for name, card in cards.items():
        gaussians.write(tmp_path, name, shift=(FLOAT, ["n"]), conditions=spec, **card)
    shift = torch.ones(SAMPLES)
    assert float(drawn(tmp_path, "free", guidance=5.0, shift=shift).mean()) == pytest.approx(6.5, abs=0.2)
    clipped = drawn(tmp_path, "clipped", guidance=5.0, shift=shift)
    assert float(clipped.max()) < 4.02
    assert float(clipped.mean()) == pytest.approx(4, abs=0.05)


def test_free_lengths_go_into_narrower_types(tmp_path: Path):
    """A padded condition of a float16 graph moves the data by the sum of what was sent."""
    spec = {"dtype": "float32", "shape": [-1], "longest": 4, "pad": 0}
    gaussians.write(tmp_path, "model", shift=(HALF, ["n", 4]), conditions={"shift": spec})
    adapter = offline.open_sampler(tmp_path, "model", threads=1).adapter
    filled = adapter.filled("shift", np.array([[0.5, 1.5]], np.float32))
    assert filled["shift"].tolist() == [[0.5, 1.5, 0, 0]]
    assert adapter.fault("shift", np.array([[1e6]], np.float32)).startswith("expected -65504..65504, as the graph's")
    gaussians.write(tmp_path, "plain", shift=(FLOAT, ["n"]), conditions={"shift": {"dtype": "float32"}})
    given = torch.from_numpy(filled["shift"]).expand(SAMPLES, 4)
    expected = drawn(tmp_path, "plain", shift=torch.full((SAMPLES,), 2.0))
    torch.testing.assert_close(drawn(tmp_path, "model", shift=given), expected, rtol=0, atol=1e-5)
