"""An exported network as steering calls it: `network(x, t, **condition)`, on ONNX Runtime's CPU provider."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

import steering
from protos.card import Card

TYPES: Mapping[str, np.dtype[np.generic]] = {
    f"tensor({name})": np.dtype(dtype)
    for name, dtype in {
        "float": np.float32, "double": np.float64, "float16": np.float16, "int64": np.int64, "int32": np.int32,
        "int8": np.int8, "uint8": np.uint8, "bool": np.bool_,
    }.items()
}  # fmt: skip
"""ONNX Runtime's names of types."""


def path_of(card: Card) -> steering.Path:
    """The path a card describes, between the times its network may be asked at."""
    if card.path is None:
        raise ValueError(f"card {card.name!r}: expected a path, got none (a plain network has no times)")
    path = steering.paths.build(card.path, card.t_range)
    steering.paths.time_input(card.inputs.time)(path, torch.ones(1))  # not every path counts steps
    return path


def open_session(file: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """A CPU session on a graph; `threads` 0 takes all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle cores stay free for others
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


class OnnxNetwork:
    """`(x [B, *event], t [B] path times, **condition [B, ...]) -> prediction [B, *event]`, evaluated in slices of rows.

    What the card says of the graph's inputs and output is done here: names, types, the time input, `output_scale` and
    `learned_variance`. Slices bound the memory and leave every row's bits as they are: the convolutional and dense
    kernels of ONNX Runtime's CPU provider give a row the same bits in any batch. Inputs without a batch axis, such as a
    scalar time, take one value a call.
    """

    def __init__(self, file: Path, card: Card, *, rows: int = 32, threads: int = 0) -> None:
        self.session = open_session(file, threads)
        self.card, self.rows = card, rows
        self._inputs = {each.name: each for each in self.session.get_inputs()}
        whole = TYPES.get(self._inputs[card.inputs.t].type, np.dtype(np.float32)).kind in "iu"
        path = path_of(card)
        self.path = path.asked_at(steering.paths.unrounded(card.inputs.time)) if whole else path
        self.limit = steering.limits.build(**card.limit)
        self._shared = {
            each.name: each.shape
            for each in self.session.get_inputs()
            if all(isinstance(axis, int) for axis in each.shape)
        }
        (shape,) = (each.shape for each in self.session.get_outputs() if each.name == card.output)
        row = [axis if isinstance(axis, int) else None for axis in shape[1:]]
        self._halved = card.doubled_axis(row) if card.learned_variance else None

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        time = steering.paths.time_input(self.card.inputs.time)(self.path, t.to(torch.float64))
        given = {self.card.inputs.x: x, self.card.inputs.t: time, **condition}
        feeds = {name: self._fed(name, value) for name, value in given.items()}
        groups: dict[bytes, list[int]] = {}
        for row in range(len(x)):
            groups.setdefault(b"".join(feeds[name][row].tobytes() for name in self._shared), []).append(row)
        parts, order = [], []
        for members in groups.values():
            for first in range(0, len(members), self.rows):
                rows = members[first : first + self.rows]
                parts.append(self._run({name: value[rows] for name, value in feeds.items()}))
                order += rows
        output = torch.empty_like(torch.from_numpy(found := np.concatenate(parts)))
        output[order] = torch.from_numpy(found)
        output = output.to(torch.float32)
        if self._halved is not None:
            output = output.tensor_split(2, dim=1 + self._halved)[0]
        return output if self.card.output_scale is None else output * self.card.output_scale

    def _run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """The output for rows with the same values of what is shared."""
        one = {name: np.asarray(feeds[name][0]).reshape(shape) for name, shape in self._shared.items()}
        found: np.ndarray = self.session.run([self.card.output], {**feeds, **one})[0]
        return found

    def _fed(self, name: str, value: Tensor) -> np.ndarray:
        here = self._inputs[name]
        dtype = TYPES.get(here.type, np.dtype(np.float32))
        if dtype.kind in "iu" and value.is_floating_point():
            value = value.round()
        if name == self.card.inputs.t:  # times [n, 1], and such
            value = value.reshape(-1, *(1 for _ in here.shape[1:]))
        return value.numpy().astype(dtype)
