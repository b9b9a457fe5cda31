"""Fields as folders: graphs beside the field, precisions, and modules that cannot be served."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters.dynamics import Beside, export_dynamics
from exporters.export import ExportError
from exporters.parity import ParityError
from protos.card import Card
from serving.backends.ort import OrtNetwork
from serving.models.dynamics import Dynamics
from serving.models.folders import scan
from serving.models.repository import load
from steering.dynamics.tableaus import TSIT5
from tests.dynamics import Decay, Decoder, Encoder

CARD = Card.model_validate(
    {
        "name": "decay",
        "conditions": {"rate": {"dtype": "float32", "null": 1.0, "min": 0.0}},
        "dynamics": {
            "kind": "ode", "state": [2], "inputs": {"y": "z", "t": "t"}, "outputs": {"drift": "f"}
        },
    }
)  # fmt: skip


def other(module: nn.Module, **changes: object) -> Card:
    assert CARD.dynamics is not None
    return CARD.model_copy(update={"conditions": {}, "dynamics": CARD.dynamics.model_copy(update=changes)})


def test_a_folder_of_four_graphs(tmp_path: Path) -> None:
    folder = tmp_path / "decay"
    report = export_dynamics(
        Decay(),
        folder,
        CARD,
        dtype=torch.float64,
        encoder=Beside(Encoder(), {"record": torch.randn(3, 3)}),
        decoder=Beside(Decoder(), {"state": torch.randn(3, 2)}),
        step=True,
    )
    assert max(report.error.values()) <= 1e-15
    files = {each.name for each in (folder / "1").iterdir()}
    assert files == {"model.onnx", "encoder.onnx", "decoder.onnx", "step.onnx"}
    (found,) = scan(tmp_path)
    model = load(found, lambda file: OrtNetwork(file, 1))
    assert isinstance(model, Dynamics)
    assert model.step is not None
    assert model.encoder is not None
    assert model.precision == torch.float64
    z, h, rate = np.array([[1.0, -2.0], [3.0, 0.5]]), np.array([0.1, 0.2]), np.array([1.0, 2.0])
    feeds = {"z": z, "t": np.zeros(2), "h": h, "k1": -rate[:, None] * z, "rate": rate}
    dz, error, slopes = model.step.network.backend.run(feeds, ["dz", "error", "slopes"])
    exact = z * np.exp(-rate * h)[:, None]
    assert np.abs(z + dz - exact).max() < 1e-5
    assert np.abs(error).max() < 1e-4
    assert slopes.shape == (2, len(TSIT5.c), 2)


class Jacobian(nn.Module):
    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        jacobian = torch.func.vmap(torch.func.jacrev(lambda x: torch.tanh(x)))(z)
        return jacobian.sum(dim=2) + 0 * t[:, None]


def test_gradients_inside_a_module_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="without gradients inside") as refused:
        export_dynamics(Jacobian(), tmp_path / "decay", other(Jacobian()))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "decay").exists()


class Mixing(nn.Module):
    """A cell whose step is the mean of the batch's."""

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return z * t.mean() + 0 * t[:, None]


def test_rows_that_mix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="depends on the other rows"):
        export_dynamics(Mixing(), tmp_path / "decay", other(Mixing()))


def test_arguments_are_those_of_the_card(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"arguments called as the card's inputs \(z, t\), got z, t, rate"):
        export_dynamics(Decay(), tmp_path / "decay", other(Decay()))
    with pytest.raises(ExportError, match="expected dynamics in the card"):
        export_dynamics(Decay(), tmp_path / "decay", Card(name="decay"))
