"""The stiff linear part of a field, a matrix that a request brings for solvers that take it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from serving.requests.dynamics.asked import Asked
from serving.requests.dynamics.piece import Piece
from serving.wire import errors
from serving.wire.solving import LINEAR


def _posed(asked: Asked) -> Mapping[str, Any]:
    value = asked.inputs.get(LINEAR)
    if value is None:
        return {}
    size = math.prod(asked.model.state)
    if value.dtype not in (np.float32, np.float64) or value.shape != (size, size):
        raise errors.invalid(f"input {LINEAR!r}: expected FP64 [{size}, {size}], got {value.dtype} {list(value.shape)}")
    return {"linear": torch.from_numpy(value.astype(np.float64))}


PIECE = Piece(name="linear part", kinds=("ode",), pose=_posed)
