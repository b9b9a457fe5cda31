"""Small models of the other kinds of dynamics: an SDE of each form, a CDE, maps and a fixed point.

Their graphs are written in ONNX's text syntax, which takes no time. All are float64.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from protos.card import Card, dump_card

COLUMNS = """
    c0 = Constant <value_ints = [0]> ()
    c1 = Constant <value_ints = [1]> ()
    z0 = Gather <axis = 1> (z, c0)
    z1 = Gather <axis = 1> (z, c1)
"""
"""The columns [B, 1] of z."""

ORNSTEIN = """ornstein (double[B, 2] z, double[B] rate) => (double[B, 2] f, double[B, 2] g) {
    axis = Constant <value_ints = [1]> ()
    one = Constant <value = double {1.0}> ()
    rates = Unsqueeze (rate, axis)
    pulled = Mul (rates, z)
    f = Neg (pulled)
    zero = Sub (z, z)
    g = Add (zero, one)
}"""
"""dz = -rate z dt + dW, of two numbers."""

GROWTH = """growth (double[B, 2] z) => (double[B, 2] f, double[B, 2] g) {
    half = Constant <value = double {0.5}> ()
    two = Constant <value = double {2.0}> ()
    zero = Sub (z, z)
    f = Add (zero, half)
    g = Add (zero, two)
}"""
"""dz / z = dt / 2 + 2 dW."""

MIXED = f"""mixed (double[B, 2] z) => (double[B, 2] f, double[B, 2, 2] g) {{
    {COLUMNS}
    zero = Sub (z0, z0)
    first = Concat <axis = 1> (z1, zero)
    second = Concat <axis = 1> (zero, z0)
    row = Unsqueeze (first, c1)
    other = Unsqueeze (second, c1)
    g = Concat <axis = 1> (row, other)
    nought = Constant <value = double {{0.0}}> ()
    nan = Div (nought, nought)
    most = Constant <value = double {{1000000.0}}> ()
    rate = Constant <value = double {{-0.5}}> ()
    size = Abs (z)
    beyond = Greater (size, most)
    lost = Where (beyond, nan, nought)
    pulled = Mul (z, rate)
    f = Add (lost, pulled)
}}"""
"""dz = -z dt / 2 + (z_2 dW_1, z_1 dW_2), and NaN beyond |z| = 1e6."""

TURNED = f"""turned (double[B, 2] z, double[B, 2] dx) => (double[B, 2] f) {{
    {COLUMNS}
    minus = Neg (z1)
    aside = Concat <axis = 1> (minus, z0)
    angle = Gather <axis = 1> (dx, c1)
    f = Mul (aside, angle)
}}"""
"""dz turns z by what the second channel changes."""

CELL = """cell (double[B, 2] h, double[B, 2] x, double[B, 1] dt) => (double[B, 2] out) {
    back = Neg (dt)
    kept = Exp (back)
    left = Mul (h, kept)
    out = Add (left, x)
}"""
"""h_next = h exp(-dt) + x."""

LEAKING = """leaking (double[B, 6] c) => (double[B, 6] out) {
    order = Constant <value_ints = [1, 2, 3, 4, 5, 0]> ()
    share = Constant <value = double {0.5005}> ()
    moved = Gather <axis = 1> (c, order)
    both = Add (c, moved)
    out = Mul (both, share)
}"""
"""Mass goes to the next cell, and grows by 1 part in 1000 which it must not."""

EQUILIBRIUM = f"""equilibrium (double[B, 2] z, double[B, 2] x) => (double[B, 2] out) {{
    {COLUMNS}
    left = Constant <value = double[2] {{0.5, 0.4}}> ()
    right = Constant <value = double[2] {{0.4, 0.5}}> ()
    a = Mul (z0, left)
    b = Mul (z1, right)
    both = Add (a, b)
    out = Add (both, x)
}}"""
"""z = A z + x, of spectral radius 0.9."""


def write(
    root: Path, name: str, graph: str, dynamics: Mapping[str, Any], conditions: Mapping[str, Any] | None = None
) -> Path:
    """A model's folder: its graph and its card."""
    folder = root / name
    (folder / "1").mkdir(parents=True)
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]>\n{graph}')
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "1" / "model.onnx")
    card = Card.model_validate({"name": name, "dynamics": dict(dynamics), "conditions": dict(conditions or {})})
    dump_card(card, folder / "card.yaml")
    return folder


def write_sdes(root: Path) -> None:
    both = {"drift": "f", "diffusion": "g"}
    card: dict[str, Any] = {"kind": "sde", "state": [2], "inputs": {"y": "z"}, "outputs": both}
    rate = {"rate": {"dtype": "float64", "null": 1.0}}
    write(root, "ornstein", ORNSTEIN, {**card, "noise": "additive", "solver": {"dt": 0.05}}, rate)
    write(root, "growth", GROWTH, {**card, "noise": "diagonal", "form": "geometric"})
    write(root, "mixed", MIXED, {**card, "noise": "general"})


def write_cdes(root: Path) -> None:
    card = {"kind": "cde", "state": [2], "inputs": {"y": "z"}, "outputs": {"drift": "f"}}
    for name, interpolation in (("turned", "hermite"), ("stepped", "rectilinear")):
        write(root, name, TURNED, {**card, "control": {"input": "dx", "channels": 2, "interpolation": interpolation}})


def write_maps(root: Path) -> None:
    card: dict[str, Any] = {
        "kind": "map", "state": [2], "inputs": {"y": "h", "dt": "dt"}, "outputs": {"next": "out"},
        "control": {"input": "x", "channels": 2},
    }  # fmt: skip
    write(root, "cell", CELL, card)
    card = {
        "kind": "map", "state": [6], "inputs": {"y": "c"}, "outputs": {"next": "out"},
        "conserve": {"weights": "area.npy"}, "solver": {"dt": 1.0},
    }  # fmt: skip
    folder = write(root, "leaking", LEAKING, card)
    np.save(folder / "1" / "area.npy", np.linspace(1, 2, 6))


def write_equilibrium(root: Path) -> None:
    card = {"kind": "fixed_point", "state": [2], "inputs": {"y": "z"}, "outputs": {"next": "out"}}
    write(root, "equilibrium", EQUILIBRIUM, card, {"x": {"dtype": "float64", "shape": [2]}})
