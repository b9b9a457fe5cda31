"""The input tensors of a request for samples, checked against the model's card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protos.complaint import unknown
from serving.backends import Array
from serving.models.model import Sampler
from serving.rewards import PREFIX
from serving.wire import errors
from serving.wire.kserve import InferRequest
from steering.paths import MeanReverting


@dataclass(frozen=True)
class Tensors:
    """The input tensors of a request for n samples.

    Attributes:
        x_init: the state at the plan's first node [n, *event].
        mean: what a mean-reverting process reverts to [n, *event].
        known, mask: values [n, *event] to keep where the mask [*event] is true.
        condition, null: tensors [n, ...] and null tensors [1, ...] by name; a condition that was not sent is null.
        reward: inputs that are arguments of the reward.
    """

    x_init: Tensor | None
    mean: Tensor | None
    known: Tensor | None
    mask: Tensor | None
    condition: dict[str, Tensor]
    null: dict[str, Tensor]
    reward: dict[str, Array]


def tensors_of(request: InferRequest, model: Sampler, n: int, guidance: float) -> Tensors:
    """The inputs of a request.

    Raises:
        RequestError: INVALID_ARGUMENT, naming the input, what was expected and what came.
    """
    event, inputs = model.card.event_shape, request.inputs
    reverts = isinstance(model.path, MeanReverting)
    names = {"x_init", "known", "mask", *(["mean"] if reverts else []), *model.card.conditions}
    reward = {name: value for name, value in inputs.items() if name.startswith(PREFIX)}
    for name in inputs:
        if name not in names and name not in reward:
            raise errors.invalid(unknown("input", name, names))
    if ("known" in inputs) != ("mask" in inputs):
        raise errors.invalid("known and mask: expected both inputs or neither, got one")
    if reverts and "mean" not in inputs:
        raise errors.invalid(f"input 'mean': expected FP32 {_rows(n, event)} for a mean-reverting path, got none")
    x_init = _tensor(inputs, "x_init", "FP32", np.float32, [(n, *event)])
    either = [(n, *event), (1, *event)]
    mean, known = (_tensor(inputs, name, "FP32", np.float32, either) for name in ("mean", "known"))
    mask = _tensor(inputs, "mask", "BOOL", np.bool_, [event, (1, *event)])
    condition, null = _conditions(inputs, model, n, guidance)
    return Tensors(
        x_init,
        None if mean is None else mean.expand(n, *event),
        None if known is None else known.expand(n, *event),
        None if mask is None else mask.reshape(event),
        condition,
        null,
        reward,
    )


def _tensor(
    inputs: Mapping[str, Array], name: str, datatype: str, dtype: type[np.generic], shapes: Sequence[tuple[int, ...]]
) -> Tensor | None:
    value = inputs.get(name)
    if value is None:
        return None
    if value.dtype != dtype or value.shape not in shapes:
        wanted = " or ".join(dict.fromkeys(str(list(shape)) for shape in shapes))
        raise errors.invalid(
            f"input {name!r}: expected {datatype} {wanted} (samples, then the event), got {came(value)}"
        )
    return torch.from_numpy(value.copy())


def _conditions(
    inputs: Mapping[str, Array], model: Sampler, n: int, guidance: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    condition: dict[str, Tensor] = {}
    null: dict[str, Tensor] = {}
    for name, spec in model.card.conditions.items():
        if (rows := spec.null_rows) is not None:
            null[name] = torch.from_numpy(rows)
        value = inputs.get(name)
        if value is None:
            if spec.null is None:
                raise errors.invalid(f"condition {name!r}: expected {spec.dtype} [{n}, ...] or [1, ...], got none")
            condition[name] = null[name].expand(n, *spec.shape)
            continue
        if value.dtype != spec.dtype or value.shape not in ((n, *spec.shape), (1, *spec.shape)):
            raise errors.invalid(f"condition {name!r}: expected {spec.dtype} {_rows(n, spec.shape)}, got {came(value)}")
        condition[name] = torch.from_numpy(value.copy()).expand(n, *spec.shape)
    if guidance != 1 and set(null) != set(condition):
        lacking = ", ".join(sorted(set(condition) - set(null)))
        raise errors.invalid(f"guidance {guidance}: expected a null value for {lacking} in the model's card, got none")
    if guidance != 1 and not condition:
        raise errors.invalid(f"guidance: model {model.name!r} has no conditions, expected 1.0, got {guidance}")
    return condition, null


def _rows(n: int, row: tuple[int, ...]) -> str:
    return f"{[n, *row]} or {[1, *row]}"


def came(value: Array) -> str:
    return f"{value.dtype} {list(value.shape)}"
