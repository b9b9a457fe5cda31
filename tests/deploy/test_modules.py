"""Exporting a user's own file: what is found, what is refused, and a real export end to end."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import steering
from deploy.cli import app
from deploy.modules import SourceError, examples_of, load_network
from protos.card import Card, Condition, load_card
from serving.models.offline import open_sampler, solve

MINE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
    def forward(self, x, t):
        return self.layer(torch.cat([x, t[:, None]], dim=1))

def network():
    return Net()

def classifier():
    return nn.Linear(4, 2), {"input": torch.randn(3, 4)}

module = Net()
nothing = 3

def broken():
    raise RuntimeError("no weights here")

def positional():
    return Net(), (torch.zeros(2, 2), torch.zeros(2))
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def test_a_factory_a_module_and_a_pair(mine: Path) -> None:
    for source in (f"{mine}", f"{mine}:network", f"{mine}:module"):
        network, examples = load_network(source)
        assert isinstance(network, torch.nn.Module)
        assert examples is None
    _, examples = load_network(f"{mine}:classifier")
    assert examples is not None
    assert examples["input"].shape == (3, 4)


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("absent", "expected 'absent' in it, got a module without"),
        ("nothing", "expected a torch module or \\(module, examples\\), got 3"),
        ("broken", "expected a network, got RuntimeError: no weights here"),
        ("positional", "expected examples as {input name: tensor}, got "),
    ],
)
def test_refusals(mine: Path, factory: str, expected: str) -> None:
    with pytest.raises(SourceError, match=expected):
        load_network(f"{mine}:{factory}")


def test_examples_follow_the_card() -> None:
    card = Card(
        name="m",
        path={"kind": "vp_cosine"},
        prediction="eps",
        event_shape=(1, 4),
        conditions={"label": Condition(dtype="int64"), "text": Condition(dtype="float32", shape=(5,))},
    )
    examples = examples_of(card)
    assert {name: tuple(value.shape) for name, value in examples.items()} == {
        "x": (2, 1, 4),
        "t": (2,),
        "label": (2,),
        "text": (2, 5),
    }
    assert examples["label"].dtype == torch.int64
    with pytest.raises(SourceError, match="expected a path in the card, or examples"):
        examples_of(Card(name="classifier"))


def test_export_writes_a_folder_that_a_server_can_load(mine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "mine"
    options = [
        "--path",
        "edm:sigma_min=0.02,sigma_max=80",
        "--prediction",
        "x0",
        "--event-shape",
        "2",
        "--time",
        "sigma",
    ]
    result = CliRunner().invoke(app, ["export", str(mine), str(folder), *options])
    assert result.exit_code == 0, result.output
    assert (folder / "1" / "model.onnx").is_file()
    card = load_card(folder / "card.yaml")
    assert (card.name, card.event_shape, card.inputs.time) == ("mine", (2,), "sigma")
    assert card.path == {"kind": "edm", "sigma_min": 0.02, "sigma_max": 80}


@pytest.mark.parametrize(
    ("path", "expected"),
    [("vp_cosin", "unknown path 'vp_cosin', did you mean 'vp_cosine'?"), ("edm:sigma_mix=1", "path: ")],
)
def test_a_wrong_path_is_named(mine: Path, tmp_path: Path, path: str, expected: str) -> None:
    options = ["--path", path, "--prediction", "x0", "--event-shape", "2"]
    result = CliRunner().invoke(app, ["export", str(mine), str(tmp_path / "m"), *options])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {expected}")
    assert result.stderr.count("\n") == 1


def test_examples_have_free_lengths_and_masks():
    """What the card leaves open is short, what it fills up is as long as the graph is to take it."""
    words = {"dtype": "int64", "shape": [-1], "longest": 77}
    conditions = {"free": words, "few": {**words, "longest": 3}, "filled": {**words, "pad": 0, "mask": "there"}}
    card = Card.model_validate(
        {"name": "m", "path": {"kind": "edm"}, "prediction": "x0", "event_shape": [2], "conditions": conditions}
    )
    shapes = {name: tuple(each.shape) for name, each in examples_of(card).items()}
    assert shapes == {"x": (2, 2), "t": (2,), "free": (2, 8), "few": (2, 3), "filled": (2, 77), "there": (2, 77)}


HALF = """
import torch


class Flow(torch.nn.Module):
    # the velocity of one point, toward it: x0 - eps = (c - x) / t, and then a variance
    def __init__(self):
        super().__init__()
        self.point = torch.nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, x, t, mask):
        velocity = (self.point - x) / (1 - t)[:, None] + mask.to(x.dtype).sum(dim=1, keepdim=True)
        return torch.cat([velocity, velocity * 0 + 5], dim=1)


network = Flow().half()
"""


def test_export_takes_what_a_card_says_of_a_network(tmp_path: Path) -> None:
    """In float16, with a mask, time and velocity the other way round, and a learned variance."""
    source, card = tmp_path / "half.py", tmp_path / "start.yaml"
    source.write_text(HALF)
    card.write_text(
        "name: x\npath: {kind: rectified_flow}\nprediction: velocity\nevent_shape: [2]\n"
        "conditions: {mask: {dtype: bool, shape: [3], null: false}}\n"
    )
    folder = tmp_path / "models" / "half"
    options = ["--card", str(card), "--time", "1-t", "--output-scale", "-1", "--learned-variance", "--clip", "-3,1.5"]
    result = CliRunner().invoke(app, ["export", str(source), str(folder), *options])
    assert result.exit_code == 0, result.output
    written = load_card(folder / "card.yaml")
    assert (written.inputs.time, written.output_scale, written.clip) == ("1-t", -1, (-3, 1.5))
    assert written.learned_variance
    sampler = open_sampler(tmp_path / "models", "half", threads=1)
    condition = {"mask": torch.zeros(8, 3, dtype=torch.bool)}
    problem = steering.Problem(plan=sampler.plan("ddim", 10), event=(2,), dtype=torch.float32, condition=condition)
    samples, _ = solve(steering.sample(problem, steering.Noise(1, range(8))), sampler)
    torch.testing.assert_close(samples, torch.tensor([[1.0, -2.0]]).expand(8, 2), rtol=0, atol=0.02)


def test_bfloat16_is_not_exported(tmp_path: Path) -> None:
    source = tmp_path / "half.py"
    source.write_text(HALF.replace("half()", "bfloat16()"))
    options = ["--path", "rectified_flow", "--prediction", "velocity", "--event-shape", "2", "--learned-variance"]
    result = CliRunner().invoke(app, ["export", str(source), str(tmp_path / "m"), *options])
    assert result.exit_code == 2
    assert "input 'x': expected float16, float32 or float64 (module.float()), got bfloat16" in result.stderr
