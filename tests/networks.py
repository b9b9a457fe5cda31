"""Small networks that need no training, and the folders they are served from."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from exporters.bank import draw_bank, write_bank
from exporters.calibrate import calibrate_model
from exporters.export import export_model
from exporters.network import OnnxNetwork
from protos.card import Calibration, Card, dump_card

MODES, RADIUS, SPREAD = 8, 2.0, 0.15
LABELS, NULL = 4, 4


def modes() -> Tensor:
    """[8, 2]: where the rings' components lie."""
    angle = torch.arange(MODES) * (2 * math.pi / MODES)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)


class Rings(nn.Module):
    """The exact E[x_0 | x_t] of eight round Gaussians on a circle, where alpha = 1 - t (or 1) and sigma = t."""

    means: Tensor

    def __init__(self, edm: bool = False) -> None:
        super().__init__()
        self.edm = edm
        self.register_buffer("means", modes())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha = torch.ones_like(t)[:, None] if self.edm else (1 - t)[:, None]
        variance = (alpha * SPREAD) ** 2 + t[:, None] ** 2
        offset = x[:, None] - alpha[:, :, None] * self.means
        weights = torch.softmax(-(offset**2).sum(dim=2) / (2 * variance), dim=1)
        posterior = self.means + (alpha * SPREAD**2 / variance)[:, :, None] * offset
        return (weights[:, :, None] * posterior).sum(dim=1)


class Stripes(nn.Module):
    """An untrained velocity of [1, 4, 4] images under a label: a convolution, a dense layer and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embed = nn.Embedding(LABELS + 1, 8)
            self.time = nn.Linear(1, 8)
            self.inside = nn.Conv2d(1, 8, 3, padding=1)
            self.outside = nn.Linear(8 * 16, 16)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        h = self.inside(x) + (self.embed(label) + self.time(t[:, None]))[:, :, None, None]
        return self.outside(torch.tanh(h).flatten(1)).reshape(-1, 1, 4, 4) + x


class Nearness(nn.Module):
    """-|x - m|^2 to the mode of the given number."""

    means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", modes())

    def forward(self, x: Tensor, mode: Tensor) -> Tensor:
        return -((x - self.means[mode]) ** 2).sum(dim=1)


RINGS = Card(
    name="rings",
    path={"kind": "rectified_flow"},
    prediction="x0",
    t_range=(0.001, 0.999),
    event_shape=(2,),
    output="x0",
)
STRIPES = Card.model_validate(
    {
        "name": "stripes",
        "path": {"kind": "rectified_flow"},
        "prediction": "velocity",
        "t_range": [0.01, 0.99],
        "event_shape": [1, 4, 4],
        "conditions": {"label": {"dtype": "int64", "shape": [], "null": NULL}},
    }
)
TIMES = torch.linspace(0.1, 0.9, 4)


def write_rings(root: Path, bank: int = 512) -> None:
    """A two-dimensional sampler with its calibration and its bank."""
    folder = root / "rings"
    examples = {"x": torch.randn(4, 2), "t": TIMES}
    export_model(Rings(), folder, RINGS, examples=examples, outputs=["x0"], sizes=(1, 5))
    network = OnnxNetwork(folder / "1" / "model.onnx", RINGS, rows=bank, threads=1)
    samples = draw_bank(network, samples=bank)
    dump_card(RINGS.model_copy(update={"calibration": calibrate_model(network, samples)}), folder / "card.yaml")
    write_bank(folder / "1" / "model.onnx", samples)


def write_stripes(root: Path) -> None:
    """A conditional sampler of images, without calibration and bank."""
    examples = {"x": torch.randn(4, 1, 4, 4), "t": TIMES, "label": torch.arange(4)}
    export_model(Stripes(), root / "stripes", STRIPES, examples=examples, outputs=["output"], sizes=(1, 5))


def write_nearness(root: Path) -> None:
    """A reward for the rings, with an integer argument that must lie in 0..7."""
    examples = {"x": torch.randn(4, 2), "mode": torch.arange(4)}
    export_model(Nearness(), root / "nearness", None, examples=examples, outputs=["reward"], sizes=(1, 5))


def write_stranger(root: Path) -> None:
    """Somebody else's EDM denoiser: torch's own export, names of its own, weights in a second file, no card."""
    folder = root / "stranger" / "1"
    folder.mkdir(parents=True)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Rings(edm=True).eval(),
            (torch.randn(3, 2), torch.linspace(0.1, 2, 3)),
            folder / "model.onnx",
            input_names=["noisy", "noise_level"],
            output_names=["denoised"],
            dynamic_shapes=({0: batch}, {0: batch}),
            verbose=False,
        )


STRANGER = """
name: stranger
path: {kind: edm, sigma_min: 0.02, sigma_max: 20}
prediction: x0
event_shape: [2]
inputs: {x: noisy, t: noise_level, time: sigma}
output: denoised
"""


def write_graph(folder: Path, graph: onnx.GraphProto) -> Path:
    """An ONNX graph as version 1 of the model in `folder`."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    file = folder / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    onnx.save(model, file)
    return file


def write_nan(root: Path) -> None:
    """A reward for the rings that is NaN everywhere: the logarithm of -|x|^2 - 1."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSumSquare", ["x", "last"], ["square"], keepdims=0),
            helper.make_node("Sub", ["minus", "square"], ["negative"]),
            helper.make_node("Log", ["negative"], ["reward"]),
        ],
        "nan",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("reward", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor("last", TensorProto.INT64, [1], [1]),
            helper.make_tensor("minus", TensorProto.FLOAT, [], [-1.0]),
        ],
    )
    write_graph(root / "nan", graph)


def write_scale(
    folder: Path,
    inputs: Mapping[str, tuple[int, list[str | int]]],
    output: tuple[str, list[str | int]] = ("output", ["n", 2]),
) -> Path:
    """A denoiser that doubles its first input and ignores the others: any names, types and shapes."""
    first = next(iter(inputs))
    graph = helper.make_graph(
        [helper.make_node("Add", [first, first], [output[0]])],
        "scale",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(output[0], inputs[first][0], output[1])],
    )
    return write_graph(folder, graph)


def edit_card(folder: Path, **changes: object) -> None:
    """Change keys of a card without its checks."""
    file = folder / "card.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def elsewhere(name: str, values: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", location: str) -> TensorProto:
    """A weight whose numbers lie in another file, from its beginning."""
    tensor = numpy_helper.from_array(values, name)
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def write_gains(folder: Path, location: str, gain: float = 0.5) -> Path:
    """A denoiser of two dimensions, gain x + 0 t, whose gain lies in a file of its own; the file."""
    gains = np.full(2, gain, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "gain"], ["scaled"]),
            helper.make_node("Unsqueeze", ["t", "last"], ["column"]),
            helper.make_node("Mul", ["column", "none"], ["nothing"]),
            helper.make_node("Add", ["scaled", "nothing"], ["x0"]),
        ],
        "gains",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, ["n"]),
        ],
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", 2])],
        [
            elsewhere("gain", gains, location),
            helper.make_tensor("last", TensorProto.INT64, [1], [1]),
            helper.make_tensor("none", TensorProto.FLOAT, [1], [0.0]),
        ],
    )
    file = folder / "1" / location
    file.parent.mkdir(parents=True)
    file.write_bytes(gains.tobytes())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (folder / "1" / "model.onnx").write_bytes(model.SerializeToString())
    card = RINGS.model_copy(update={"name": folder.name, "calibration": Calibration(t=[0.1, 0.9], mse=[0.1, 0.9])})
    dump_card(card, folder / "card.yaml")
    return file


def write_mixing(folder: Path, weight: float = 1.0) -> None:
    """A sampler whose denoiser, x - weight mean(x) + 0 t, takes the mean over the rows of a call."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x", "first"], ["mean"], name="over_rows", keepdims=1),
            helper.make_node("Mul", ["mean", "weight"], ["part"]),
            helper.make_node("Sub", ["x", "part"], ["x0"]),
        ],
        "mixing",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, ["n"]),
        ],
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_tensor("first", TensorProto.INT64, [1], [0]),
            helper.make_tensor("weight", TensorProto.FLOAT, [1], [weight]),
        ],
    )
    write_graph(folder, graph)
    dump_card(RINGS.model_copy(update={"name": folder.name}), folder / "card.yaml")


def write_noisy(folder: Path) -> None:
    """A reward, the sum of x and of noise."""
    graph = helper.make_graph(
        [
            helper.make_node("RandomNormalLike", ["x"], ["z"], name="noise"),
            helper.make_node("Add", ["x", "z"], ["y"]),
            helper.make_node("ReduceSum", ["y", "last"], ["reward"], keepdims=0),
        ],
        "noisy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("reward", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("last", TensorProto.INT64, [1], [1])],
    )
    write_graph(folder, graph)
