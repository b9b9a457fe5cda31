"""One Gaussian's exact denoiser as an ONNX graph, in the many forms that other people's graphs have.

The data are N(MEAN, STD^2) on the rectified flow, so the law of samples is known, whatever the graph takes and gives.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests import networks

MEAN, STD = 1.5, 0.5
PATH = {"kind": "rectified_flow"}
T_RANGE = (0.001, 0.999)
RHO: Mapping[str, Sequence[tuple[str, Any]]] = {
    "t": [],
    "1000*t": [("Div", 1000.0)],
    "999*t": [("Div", 999.0)],
    "1-t": [("Neg", None), ("Add", 1.0)],
    "1000*(1-t)": [("Div", -1000.0), ("Add", 1.0)],
    "sigma": [],
    "1000*sigma": [("Div", 1000.0)],
    "alpha": [("Neg", None), ("Add", 1.0)],
    "rho": [("rho", None)],
    "log(rho)/4": [("Mul", 4.0), ("Exp", None), ("rho", None)],
    "log_snr": [("Neg", None), ("Exp", None), ("rho", None)],
    "2*log_snr": [("Div", -2.0), ("Exp", None), ("rho", None)],
    "atan(rho)": [("Tan", None), ("rho", None)],
}
"""By time input: how the graph finds the flow's t in it. "rho" is rho -> t = rho / (1 + rho)."""


class _Nodes:
    """Nodes of a graph as they are written, with their constants."""

    def __init__(self, dtype: int) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.dtype = dtype

    def constant(self, value: Any, dtype: int | None = None) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(value, helper.tensor_dtype_to_np_dtype(dtype or self.dtype))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def time(self, given: str, formula: str) -> str:
        for kind, value in RHO[formula]:
            if kind == "rho":
                given = self("Div", given, self("Add", given, self.constant(1.0)))
            else:
                given = self(kind, given, *([] if value is None else [self.constant(value)]))
        return given


def write(
    root: Path,
    name: str,
    *,
    event: tuple[int, ...] = (2,),
    prediction: str = "velocity",
    time: str = "t",
    sign: float = 1.0,
    dtype: int = TensorProto.FLOAT,
    inside: int | None = None,
    time_dtype: int | None = None,
    time_shape: Sequence[str | int] = ("n",),
    variance: int | None = None,
    shift: tuple[int, Sequence[str | int]] | None = None,
    wild: float = 0.0,
    bank: bool = True,
    rows: str | int = "n",
    **card: Any,
) -> Path:
    """A model folder: the graph, its card, and a small bank.

    Args:
        sign: what the output is multiplied by.
        dtype: of x and the output; `inside`: of what is computed (None: the same); `time_dtype`: of t.
        variance: an axis of the sample along which something else follows the prediction.
        shift: type and shape of a side input that moves the data's mean by its sum.
        wild: added to the denoised estimate in its first number, for what limits shall cut.
        bank: beside the graph, so that a server has none to make.
        rows: the first axis of x and the output.
    """
    inside = inside or dtype
    make = _Nodes(inside)
    x = make("Cast", "x", to=inside)
    t = make.time(make("Cast", "t", to=inside), time)
    t = make("Reshape", t, make.constant([-1, *(1 for _ in event)], TensorProto.INT64))
    alpha = make("Sub", make.constant(1.0), t)
    mean = make.constant(MEAN)
    inputs = [
        helper.make_tensor_value_info("x", dtype, [rows, *event]),
        helper.make_tensor_value_info("t", time_dtype or dtype, list(time_shape)),
    ]
    if shift is not None:
        kind, axes_of = shift
        inputs.append(helper.make_tensor_value_info("shift", kind, list(axes_of)))
        number = make("Cast", "shift", to=inside)
        axes = [i for i, axis in enumerate(axes_of) if axis != "n"]
        if axes:
            number = make("ReduceSum", number, make.constant(axes, TensorProto.INT64), keepdims=0)
        number = make("Reshape", number, make.constant([-1, *(1 for _ in event)], TensorProto.INT64))
        mean = make("Add", mean, number)
    square = make.constant(STD**2)
    total = make("Add", make("Mul", make("Mul", alpha, alpha), square), make("Mul", t, t))
    off = make("Sub", x, make("Mul", alpha, mean))
    denoised = make("Add", mean, make("Mul", make("Div", make("Mul", alpha, square), total), off))
    if wild:
        extra = np.zeros(event)
        extra.flat[0] = wild
        denoised = make("Add", denoised, make.constant(extra))
    eps = make("Div", make("Sub", x, make("Mul", alpha, denoised)), t)
    given = {
        "x0": lambda: denoised,
        "eps": lambda: eps,
        "velocity": lambda: make("Sub", eps, denoised),
        "score": lambda: make("Neg", make("Div", eps, t)),
    }[prediction]()
    given = make("Mul", given, make.constant(sign))
    shape: list[str | int] = [rows, *event]
    if variance is not None:
        more = make("Add", make("Mul", given, make.constant(0.0)), make.constant(7.0))
        given = make("Concat", given, more, axis=variance + 1)
        shape[variance + 1] = 2 * event[variance]
    make.nodes.append(helper.make_node("Cast", [given], ["output"], to=dtype))
    output = [helper.make_tensor_value_info("output", dtype, shape)]
    graph = helper.make_graph(make.nodes, name, inputs, output, make.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder = root / name
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "card.yaml").write_text("{}")
    content = {
        "format": 1, "name": name, "path": PATH, "t_range": list(T_RANGE), "prediction": prediction,
        "event_shape": list(event), "inputs": {"time": time},
        "calibration": {"t": [0.001, 0.5, 0.999], "mse": [1e-6, 0.1, STD**2]},
    }  # fmt: skip
    networks.edit_card(folder, **content | card)
    if bank:  # too few for more than a Gaussian to be fitted to them
        samples = MEAN + STD * torch.randn(15, *event, generator=torch.Generator().manual_seed(0))
        np.savez(folder / "1" / "bank.npz", allow_pickle=False, x=samples.numpy())
    return folder
