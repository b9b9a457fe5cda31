"""An exported network as steering calls it: `network(x, t, **condition)`, on ONNX Runtime's CPU provider."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

import steering
from protos.card import Card


def path_of(card: Card) -> steering.Path:
    """The path a card describes, between the times its network may be asked at."""
    if card.path is None:
        raise ValueError(f"card {card.name!r}: expected a path, got none (a plain network has no times)")
    path = steering.paths.build(card.path, card.t_range)
    steering.paths.TIME_INPUTS[card.inputs.time](path, torch.ones(1))  # not every path counts steps
    return path


def open_session(file: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """A CPU session on a graph; `threads` 0 takes all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle cores stay free for others
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


class OnnxNetwork:
    """`(x [B, *event], t [B] path times, **condition [B, ...]) -> raw output [B, *event]`, evaluated in slices of rows.

    Slices bound the memory and leave every row's bits as they are: the convolutional and dense kernels of ONNX
    Runtime's CPU provider give a row the same bits in any batch.
    """

    def __init__(self, file: Path, card: Card, *, rows: int = 32, threads: int = 0) -> None:
        self.session = open_session(file, threads)
        self.card, self.rows = card, rows
        self.path = path_of(card)

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        time = steering.paths.TIME_INPUTS[self.card.inputs.time](self.path, t.to(torch.float64))
        feeds = {self.card.inputs.x: x.float().numpy(), self.card.inputs.t: time.float().numpy()}
        feeds |= {name: value.numpy() for name, value in condition.items()}
        slices = [slice(i, i + self.rows) for i in range(0, len(x), self.rows)]
        parts = [self.session.run([self.card.output], {k: v[rows] for k, v in feeds.items()})[0] for rows in slices]
        return torch.from_numpy(np.concatenate(parts))
