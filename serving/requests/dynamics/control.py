"""The path that drives a CDE, or what a map reads at each step: inputs `control` and `control_t` of a request."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serving.requests.dynamics.admission import MOST_HELD, NUMBER
from serving.requests.dynamics.asked import Asked
from serving.requests.dynamics.piece import Piece
from serving.requests.tensors import came
from serving.wire import errors
from serving.wire.solving import CONTROL, CONTROL_TIMES
from steering.dynamics.control import control
from steering.errors import PlanError

MOST_NUMBERS = 2**24
"""Of a control, at most, all rows together: it is held several times over while it is read."""


def _pose(asked: Asked) -> Mapping[str, Any]:
    spec = asked.model.spec.control
    if spec is None:
        return {}
    values = _floats(asked, CONTROL, f"[n, L, {spec.channels}]", 3)
    times = _floats(asked, CONTROL_TIMES, "[n, L] or [L]", 1, 2)
    times = times[None] if times.ndim == 1 else times
    if values.shape[2] != spec.channels:
        raise errors.invalid(
            f"input {CONTROL!r}: expected FP64 or FP32 [n, L, {spec.channels}], got {list(values.shape)}"
        )
    rows, length = max(len(times), len(values)), values.shape[1]
    if rows * length * spec.channels > MOST_NUMBERS:
        raise errors.invalid(
            f"input {CONTROL!r}: expected at most {MOST_NUMBERS} numbers, got {rows} rows of {length} observations of "
            f"{spec.channels}"
        )
    state = max(1, asked.y0[0].numel())
    if not asked.solver.adaptive and asked.n * (asked.times + 2 * length) * state * NUMBER > MOST_HELD:
        raise errors.invalid(
            f"input {CONTROL!r}: expected states at its observations of at most {MOST_HELD} bytes, where "
            f"{asked.solver.name!r} ends its steps, got {asked.n} trajectories of {state} numbers at {length}"
        )
    try:
        return {"control": control(times, values, spec.interpolation, n=asked.n)}
    except PlanError as error:
        raise errors.invalid(str(error)) from None


def _floats(asked: Asked, name: str, shape: str, *axes: int) -> Tensor:
    wanted = f"input {name!r}: expected FP64 or FP32 {shape}"
    value = asked.inputs.get(name)
    if value is None:
        raise errors.invalid(f"{wanted}, got none")
    if value.dtype not in (np.float32, np.float64) or value.ndim not in axes:
        raise errors.invalid(f"{wanted}, got {came(value)}")
    return torch.from_numpy(value.astype(np.float64))  # a copy: what came over the wire is not to be written to


PIECE = Piece(name="control", kinds=("cde", "map"), pose=_pose)
