"""What an exported folder holds, and that a failure leaves nothing behind."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from torch import Tensor, nn
from tritonclient.grpc import model_config_pb2

import steering
from exporters import export
from exporters.bank import draw_bank, write_bank
from exporters.calibrate import calibrate_model
from exporters.digits.networks import DigitClassifier, DigitDenoiser
from exporters.export import OPSET, ExportError, export_model
from exporters.network import OnnxNetwork, open_session, path_of
from protos import weights
from protos.card import Card, load_card
from protos.digest import sha256
from serving.backends.ort import OrtNetwork

VARIANCE = 0.25


class GaussianDenoiser(nn.Module):
    """The exact E[x_0 | x_t] of N(0, VARIANCE) at alpha = 1 - t, sigma = t; with dropout, to see evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = self.one - level[:, None], level[:, None]
        return self.dropout(noisy * alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2))


CARD = Card(
    name="gaussian",
    path={"kind": "rectified_flow"},
    prediction="x0",
    t_range=(0.01, 0.99),
    event_shape=(2,),
    inputs={"x": "noisy", "t": "level"},  # type: ignore[arg-type]
    output="clean",
)
EXAMPLES = {"noisy": torch.randn(4, 2), "level": torch.linspace(0.1, 0.9, 4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "gaussian"
    network = GaussianDenoiser().train()
    export_model(network, folder, CARD, examples=EXAMPLES, outputs=["clean"], version=3)
    assert network.training
    assert network.dropout.training
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_the_folder_is_complete_and_nothing_lies_beside_it(folder: Path):
    assert files(folder) == ["3/model.onnx", "card.yaml", "config.pbtxt"]
    assert [other.name for other in folder.parent.iterdir()] == ["gaussian"]
    assert load_card(folder / "card.yaml") == CARD


def test_the_graph_has_an_open_batch_and_no_traces_of_this_machine(folder: Path):
    model = onnx.load(folder / "3" / "model.onnx")
    assert [(o.domain, o.version) for o in model.opset_import if o.domain == ""] == [("", OPSET)]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param
    assert str(Path(__file__).parents[2]).encode() not in model.SerializeToString()
    assert "test_export" not in str(model)


def test_config_parses_as_tritons_own(folder: Path):
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("gaussian", "onnxruntime", 0)
    fp32 = model_config_pb2.DataType.Value("TYPE_FP32")
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("noisy", fp32, [-1, 2]),
        ("level", fp32, [-1]),
    ]
    assert [(o.name, list(o.dims)) for o in config.output] == [("clean", [-1, 2])]


def test_bank_and_calibration_are_the_models_own(folder: Path):
    model = folder / "3" / "model.onnx"
    network = OnnxNetwork(model, CARD, threads=1)
    samples = draw_bank(network, samples=512)
    assert samples.shape == (512, 2)
    assert abs(float(samples.var()) / VARIANCE - 1) < 0.15
    bank = np.load(write_bank(model, samples))
    assert bank["x"].dtype == np.float32
    assert np.array_equal(bank["x"], samples.numpy())
    assert str(bank["model_sha256"]) == sha256(model)

    curve = calibrate_model(network, samples)
    path = path_of(CARD)
    t = torch.tensor(curve.t, dtype=torch.float64)
    alpha, sigma = path.alpha(t), path.sigma(t)
    exact = VARIANCE * sigma**2 / (alpha**2 * VARIANCE + sigma**2)
    assert torch.allclose(torch.tensor(curve.mse, dtype=torch.float64), exact, rtol=0.2)


def test_the_slices_of_a_network_leave_bits_alone(folder: Path):
    x, t = torch.randn(37, 2), torch.rand(37) * 0.9 + 0.05
    whole = OnnxNetwork(folder / "3" / "model.onnx", CARD, rows=64, threads=1)(x, t)
    sliced = OnnxNetwork(folder / "3" / "model.onnx", CARD, rows=5, threads=1)(x, t)
    assert torch.equal(whole, sliced)


def test_a_bank_needs_a_deterministic_solver(folder: Path):
    network = OnnxNetwork(folder / "3" / "model.onnx", CARD, threads=1)
    with pytest.raises(steering.PlanError, match="unknown solver 'magic'"):
        draw_bank(network, samples=2, solver="magic")


def test_a_new_export_replaces_the_version_and_its_bank(tmp_path: Path):
    folder = tmp_path / "gaussian"
    for _ in range(2):
        export_model(GaussianDenoiser(), folder, CARD, examples=EXAMPLES, outputs=["clean"])
        assert files(folder) == ["1/model.onnx", "card.yaml", "config.pbtxt"]
        (folder / "1" / "bank.npz").write_bytes(b"of the old graph")
    assert [other.name for other in tmp_path.iterdir()] == ["gaussian"]


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_a_module_that_fails_leaves_no_folder(tmp_path: Path):
    with pytest.raises(ExportError, match="Unexportable: the ONNX exporter refused it") as refusal:
        export_model(Unexportable(), tmp_path / "net", None, examples={"x": torch.randn(4, 2)}, outputs=["y"])
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.round().sum(dim=1)


class Steps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).float().sum(dim=1)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (Rounded(), "gradients: expected some of 'y' in 'x' other than 0, got 0 everywhere"),
        (Steps(), "Steps: its gradient cannot be exported: ValueError: expected an output that depends on the input"),
    ],
)
def test_a_score_without_a_gradient_is_refused(tmp_path: Path, module: nn.Module, text: str):
    card, examples = Card(name="net"), {"x": torch.randn(4, 2)}
    with pytest.raises(ExportError, match=text):
        export_model(module, tmp_path / "net", card, examples=examples, outputs=["y"], sizes=(1,), gradients=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("examples", "outputs", "text"),
    [
        ({"x": torch.randn(4, 2)}, ["clean"], "inputs: expected those of the card (noisy, level), got x"),
        (EXAMPLES, ["dirty"], "outputs: expected the card's 'clean' among them, got dirty"),
        (
            EXAMPLES | {"noisy": torch.randn(4, 3)},
            ["clean"],
            "input 'noisy': expected ['n', 2] as its card says, got [4, 3]",
        ),
        (
            EXAMPLES | {"level": torch.rand(4, 1)},
            ["clean"],
            "input 'level': expected ['n'] as its card says, got [4, 1]",
        ),
        (
            EXAMPLES | {"noisy": torch.randn(1, 2)},
            ["clean"],
            "input 'noisy': expected an example [n, ...] with n >= 2, got [1, 2]",
        ),
    ],
)
def test_what_does_not_fit_the_card_is_refused_first(
    tmp_path: Path, examples: dict[str, Tensor], outputs: list[str], text: str
):
    with pytest.raises(ExportError) as refusal:
        export_model(GaussianDenoiser(), tmp_path / "gaussian", CARD, examples=examples, outputs=outputs)
    assert str(refusal.value) == text
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_has_two_outputs_and_no_card(tmp_path: Path):
    examples = {"x": torch.randn(4, 1, 28, 28), "label": torch.tensor([1, 2, 3, 9])}
    names = ["reward", "log_probabilities"]
    report = export_model(
        DigitClassifier(width=4), tmp_path / "c", None, examples=examples, outputs=names, sizes=(1, 5)
    )
    assert list(report.error) == names
    assert files(tmp_path / "c") == ["1/model.onnx", "config.pbtxt"]
    session = open_session(tmp_path / "c" / "1" / "model.onnx", threads=1)
    reward, table = session.run(names, {name: value.numpy() for name, value in examples.items()})
    assert reward.shape == (4,)
    assert np.array_equal(reward, table[np.arange(4), examples["label"].numpy()])


def test_the_digit_denoiser_exports_with_bits_free_of_neighbours(tmp_path: Path):
    card = Card(
        name="digits",
        path={"kind": "vp_cosine"},
        prediction="v",
        t_range=(0.001, 0.999),
        event_shape=(1, 28, 28),
        output="v",
    )
    torch.manual_seed(0)
    network = DigitDenoiser(width=16)
    for parameter in network.parameters():  # the zero-initialised ones hide what they multiply
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    examples = {"x": torch.randn(4, 1, 28, 28), "t": torch.linspace(0.1, 0.9, 4)}
    report = export_model(network, tmp_path / "digits", card, examples=examples, outputs=["v"])
    assert report.error["v"] < 1e-4
    assert report.mixing == 0


def test_weights_too_large_for_one_file_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "ONE_FILE", 1000)
    network, x = nn.Linear(64, 64), torch.randn(4, 64)
    export_model(network, tmp_path / "net", None, examples={"x": x}, outputs=["y"])
    graph = tmp_path / "net" / "1" / "model.onnx"
    assert graph.stat().st_size < 64 * 64 * 4
    assert [each.name for each in weights.files(graph)] == ["model.onnx", "model.onnx.data"]
    (y,) = OrtNetwork(graph, 1).run({"x": x.numpy()}, ["y"])
    assert np.allclose(y, network(x).detach().numpy(), atol=1e-5)
    assert str(tmp_path) not in str(onnx.load(graph, load_external_data=False))


class Quotient(nn.Module):
    """0 / (0 + 1e-15), as in linear attention."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) / (torch.relu(x) + 1e-15)


def test_a_tiny_number_that_keeps_a_quotient_finite_stays(tmp_path: Path):
    x = torch.tensor([[-1.0, 1.0], [0.0, 2.0]])
    export_model(Quotient(), tmp_path / "net", None, examples={"x": x}, outputs=["y"])
    (y,) = OrtNetwork(tmp_path / "net" / "1" / "model.onnx", 1).run({"x": x.numpy()}, ["y"])
    assert y.tolist() == [[0.0, 1.0], [0.0, 1.0]]
