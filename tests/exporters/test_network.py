"""Graphs as steering calls them: whatever form a card says they have, the samples are those of the plain form."""

from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import TensorProto
from torch import Tensor

import steering
from exporters.bank import draw_bank
from exporters.calibrate import calibrate_model
from exporters.network import OnnxNetwork
from protos.card import load_card
from tests import conditional, gaussians

HALF, DOUBLE = TensorProto.FLOAT16, TensorProto.DOUBLE


def network(root: Path, name: str = "model", **form: Any) -> OnnxNetwork:
    folder = gaussians.write(root, name, **form)
    return OnnxNetwork(folder / "1" / "model.onnx", load_card(folder / "card.yaml"), threads=1)


def drawn(model: OnnxNetwork, **condition: Tensor) -> Tensor:
    return draw_bank(model, samples=40, steps=6, condition=condition)


FORMS: dict[str, dict[str, Any]] = {
    "another time": {"time": "log(rho)/4"},
    "reversed": {"time": "1-t", "sign": -1.0, "output_scale": -1},
    "learned variance": {"variance": 0, "learned_variance": True},
    "float16": {"dtype": HALF},
    "float64": {"dtype": DOUBLE},
    "scalar t": {"time_shape": []},
    "t [1]": {"time_shape": [1]},
    "t [n, 1]": {"time_shape": ["n", 1]},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path: Path, form: str):
    plain = drawn(network(tmp_path, "plain"))
    near = 0.02 if FORMS[form].get("dtype") == HALF else 1e-3
    torch.testing.assert_close(drawn(network(tmp_path, **FORMS[form])), plain, rtol=0, atol=near)


def test_times_and_side_inputs_of_many_values(tmp_path: Path):
    shape = (TensorProto.BOOL, [1, 3])
    spec = {"shift": {"dtype": "bool", "shape": [3]}}
    model = network(tmp_path, shift=shape, conditions=spec, time_shape=[])
    mask = torch.arange(40 * 3).reshape(40, 3) % 5 < 2
    given = {"x": torch.randn(40, 2), "t": torch.linspace(0.1, 0.9, 40), "shift": mask}
    one_by_one = torch.cat([model(**{name: value[i : i + 1] for name, value in given.items()}) for i in range(40)])
    torch.testing.assert_close(model(**given), one_by_one)


def test_banks_and_calibrations_keep_a_cards_limit(tmp_path: Path):
    model = network(tmp_path, wild=50.0, clip=1.25)
    samples = drawn(model)
    assert float(samples[:, 0].mean()) == pytest.approx(1.25, abs=0.02)
    assert max(calibrate_model(model, samples).mse) < 2
    free = network(tmp_path, "free", wild=50.0)
    assert max(calibrate_model(free, samples).mse) > 100
    assert isinstance(model.limit, steering.limits.Clip)


def test_a_calibration_under_conditions_is_the_mean_of_their_curves(tmp_path: Path):
    """Of Gaussians of two widths, whose errors are known."""
    conditional.write(tmp_path)
    model = OnnxNetwork(
        tmp_path / "gaussians" / "1" / "model.onnx", load_card(tmp_path / "gaussians" / "card.yaml"), threads=1
    )
    width = torch.tensor([0.5, 2.0]).repeat(128)
    condition = {"mean": torch.randn(256, 2, generator=torch.Generator().manual_seed(0)), "width": width}
    samples = condition["mean"] + width[:, None] * torch.randn(256, 2, generator=torch.Generator().manual_seed(1))
    curve = calibrate_model(model, samples, condition)
    t = torch.tensor(curve.t)[:, None]
    each = width[:2] ** 2 * t**2 / ((1 - t) ** 2 * width[:2] ** 2 + t**2)
    torch.testing.assert_close(torch.tensor(curve.mse), each.mean(dim=1), rtol=0.25, atol=1e-4)
    with pytest.raises(ValueError, match="expected conditions"):
        calibrate_model(model, samples)
    with pytest.raises(ValueError, match="expected a condition of each of 100 samples"):
        calibrate_model(model, samples[:100], condition)
