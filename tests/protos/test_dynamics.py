"""The card's part for dynamics: what is taken, and what is refused with one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from protos.card import CardError, dump_card, load_card

ODE: dict[str, Any] = {"kind": "ode", "state": [2, 3], "inputs": {"y": "z", "t": "t"}, "outputs": {"drift": "f"}}
SDE = {**ODE, "kind": "sde", "outputs": {"drift": "f", "diffusion": "g"}, "noise": "diagonal", "calculus": "ito"}


def written(folder: Path, dynamics: dict[str, Any], **others: Any) -> Path:
    file = folder / "card.yaml"
    file.write_text(yaml.safe_dump({"name": "m", "dynamics": dynamics, **others}))
    return file


@pytest.mark.parametrize(
    "dynamics",
    [
        ODE,
        SDE,
        {
            **ODE,
            "encode": {"graph": "e.onnx", "inputs": ["x"]},
            "decode": {"graph": "d.onnx"},
            "step": {"graph": "s.onnx"},
        },
        {**ODE, "kind": "cde", "control": {"input": "dx", "channels": 3, "interpolation": "rectilinear"}},
        {**ODE, "kind": "map", "outputs": {"next": "out"}, "conserve": {"weights": "area.npy"}},
        {**ODE, "kind": "fixed_point", "outputs": {"next": "out"}, "solver": {"name": "anderson", "options": {"m": 5}}},
        {**ODE, "state": [], "solver": {"rtol": "1e-7", "max_steps": 50}},
    ],
)
def test_a_card_comes_back_as_it_was(tmp_path: Path, dynamics: dict[str, Any]) -> None:
    card = load_card(written(tmp_path, dynamics))
    assert card.is_dynamics
    dump_card(card, tmp_path / "again.yaml")
    assert load_card(tmp_path / "again.yaml") == card


@pytest.mark.parametrize(
    ("dynamics", "others", "said"),
    [
        ({**ODE, "kind": "pde"}, {}, "dynamics.kind: expected"),
        ({**ODE, "state": [0]}, {}, "axes >= 1"),
        ({**ODE, "state": [2**20, 2**20]}, {}, "axes >= 1"),
        ({**ODE, "inputs": {"t": "t"}}, {}, "dynamics.inputs.y"),
        ({**ODE, "inputs": {"y": "z", "time": "t"}}, {}, "unknown key 'time'"),
        ({**ODE, "inputs": {"y": "z", "t": "z"}}, {}, "an input for each role"),
        ({**ODE, "outputs": {}}, {}, "outputs: expected drift"),
        ({**ODE, "outputs": {"drift": "f", "diffusion": "g"}}, {}, "outputs: expected drift of kind ode"),
        ({**ODE, "noise": "diagonal"}, {}, "noise: expected none beside kind ode"),
        ({**ODE, "kind": "cde"}, {}, "control: expected one"),
        ({**SDE, "step": {"graph": "s.onnx"}}, {}, "step: expected none"),
        ({**ODE, "decode": {"graph": "../d.onnx"}}, {}, "a file beside the graph"),
        ({**ODE, "solver": {"rtol": -1}}, {}, "dynamics.solver.rtol"),
        (ODE, {"path": {"kind": "rectified_flow"}}, "dynamics: expected none beside a path"),
        (ODE, {"event_shape": [2]}, "event_shape: expected none beside dynamics"),
        (ODE, {"conditions": {"z": {"dtype": "float32"}}}, "no condition, got 'z'"),
        (ODE, {"conditions": {"c": {"dtype": "int64", "shape": [-1], "pad": 0}}}, "no pad"),
    ],
)
def test_refusals(tmp_path: Path, dynamics: dict[str, Any], others: dict[str, Any], said: str) -> None:
    with pytest.raises(CardError) as refused:
        load_card(written(tmp_path, dynamics, **others))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
