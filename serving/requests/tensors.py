"""The input tensors of a request for samples, checked against the model's card."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from protos.card import Condition
from protos.complaint import unknown
from serving.backends import Array
from serving.models.model import Sampler
from serving.rewards import PREFIX
from serving.wire import errors
from serving.wire.kserve import InferRequest
from serving.wire.parameters import GRID, MOST_STEPS, NULL, Parameters
from serving.wire.tensors import TEXTS, named
from steering.paths import MeanReverting


@dataclass(frozen=True)
class Tensors:
    """The input tensors of a request for n samples.

    Attributes:
        x_init: the state at the plan's first node, or with `strength` the data to start from, [n, *event].
        mean: what a mean-reverting process reverts to [n, *event].
        known, mask: values [n, *event] to keep where the mask [*event] is true.
        condition: tensors [n, ...] by name of the graph's input; a condition that was not sent is null.
        null: tensors [n, ...] or [1, ...] of those that guidance drops.
        grid: the nodes of an explicit grid [steps + 1].
        reward: inputs that are arguments of the reward.
    """

    x_init: Tensor | None
    mean: Tensor | None
    known: Tensor | None
    mask: Tensor | None
    condition: dict[str, Tensor]
    null: dict[str, Tensor]
    grid: Tensor | None
    reward: dict[str, Array]


@dataclass(frozen=True)
class Given:
    """What a request does not send itself, because it is made of what it sends.

    Attributes:
        condition, null: by name of the condition, [n, ...], and [n, ...] or [1, ...].
        kept: conditions that null rows have too.
        x_init, known, mask: as in `Tensors`; the first two have their values only when samples are drawn.
        names: of inputs that are read elsewhere.
    """

    condition: Mapping[str, Tensor] = field(default_factory=dict)
    null: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Collection[str] = ()
    x_init: Tensor | None = None
    known: Tensor | None = None
    mask: Tensor | None = None
    names: Collection[str] = ()


NOTHING = Given()


def tensors_of(request: InferRequest, model: Sampler, parameters: Parameters, given: Given = NOTHING) -> Tensors:
    """The inputs of a request.

    Args:
        given: what comes from elsewhere.

    Raises:
        RequestError: INVALID_ARGUMENT, naming the input, what was expected and what came.
    """
    event, inputs, n = model.card.event_shape, request.inputs, parameters.samples
    reverts = isinstance(model.path, MeanReverting)
    conditions = model.card.conditions
    names = {"x_init", "known", "mask", GRID, *(["mean"] if reverts else []), *conditions}
    names |= {NULL + name for name in conditions}
    reward = {name: value for name, value in inputs.items() if name.startswith(PREFIX)}
    for name, value in inputs.items():
        if name not in names and name not in reward:
            raise errors.invalid(unknown("input", name, names | {*given.names}))
        if value.dtype == TEXTS:
            raise errors.invalid(f"input {name!r}: expected numbers, got {came(value)}")
    ours = {name: value for name, value in inputs.items() if name not in conditions}  # a card's own names come first
    for name, other in (("x_init", given.x_init), ("known", given.known)):
        if other is not None and name in ours:
            raise errors.invalid(f"input {name!r}: expected none beside an image, got one")
    if ("known" in ours) != ("mask" in ours):
        raise errors.invalid("known and mask: expected both inputs or neither, got one")
    if reverts and "mean" not in ours:
        raise errors.invalid(f"input 'mean': expected FP32 {_rows(n, event)} for a mean-reverting path, got none")
    either = [(n, *event), (1, *event)]
    x_init = _tensor(ours, "x_init", "FP32", np.float32, either if parameters.strength is not None else either[:1])
    mean, known = (_tensor(ours, name, "FP32", np.float32, either) for name in ("mean", "known"))
    mask = _tensor(ours, "mask", "BOOL", np.bool_, [event, (1, *event)])
    condition, null = _conditions(inputs, model, parameters, given)
    x_init, known, mask = (
        one if other is None else other
        for one, other in ((x_init, given.x_init), (known, given.known), (mask, given.mask))
    )
    return Tensors(
        None if x_init is None else x_init.expand(n, *event),
        None if mean is None else mean.expand(n, *event),
        None if known is None else known.expand(n, *event),
        None if mask is None else mask.reshape(event),
        condition,
        null,
        _grid(ours, request, parameters),
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


def _grid(inputs: Mapping[str, Array], request: InferRequest, parameters: Parameters) -> Tensor | None:
    """The nodes of an explicit grid, whose values the plan checks."""
    value = inputs.get(GRID)
    if value is None:
        return None
    if value.dtype not in (np.float32, np.float64) or value.ndim != 1 or not 2 <= len(value) <= MOST_STEPS + 1:
        raise errors.invalid(f"input 'grid': expected FP64 or FP32 [2..{MOST_STEPS + 1}] nodes, got {came(value)}")
    if "grid" in request.parameters:
        raise errors.invalid("grid: expected it as an input or as a parameter, got both")
    if "steps" in request.parameters and parameters.steps != len(value) - 1:
        raise errors.invalid(
            f"steps: expected {len(value) - 1} beside an input grid of {len(value)} nodes, or none, "
            f"got {parameters.steps}"
        )
    return torch.from_numpy(value.astype(np.float64))


def _conditions(
    inputs: Mapping[str, Array], model: Sampler, parameters: Parameters, given: Given
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Conditions, and null tensors of those that guidance drops."""
    n, guidance, conditions = parameters.samples, parameters.guidance, model.card.conditions
    if guidance != 1 and not conditions:
        raise errors.invalid(f"guidance: model {model.name!r} has no conditions, expected 1.0, got {guidance}")
    dropped = {*_dropped(conditions, parameters)} - {*given.kept}
    condition: dict[str, Tensor] = {}
    null: dict[str, Tensor] = {}
    lacking = []
    for name, spec in conditions.items():
        if name in given.condition:
            if sent := [each for each in (name, NULL + name) if each in inputs and each not in {*conditions} - {name}]:
                raise errors.invalid(f"input {sent[0]!r}: expected none, it is made of what else was sent, got one")
            condition[name] = given.condition[name]
            if name in given.null and name in dropped:
                null[name] = given.null[name]
            continue
        value = _condition(model, name, inputs.get(name), n)
        if value is None and (value := spec.null_rows) is None:
            raise errors.invalid(f"condition {name!r}: expected {spec.dtype} [{n}, ...] or [1, ...], got none")
        other = None if NULL + name in conditions else _condition(model, name, inputs.get(NULL + name), n, NULL)
        if other is not None and guidance != 1 and name not in dropped:
            raise errors.invalid(f"{NULL}{name}: expected none for {name!r}, which guidance keeps, got one")
        other = spec.null_like(value.shape[1:]) if other is None else other
        condition |= {
            key: _copied(each).expand(n, *each.shape[1:]) for key, each in model.adapter.filled(name, value).items()
        }
        if other is None:
            lacking.append(name)
        elif name in dropped:
            null |= {key: _copied(each) for key, each in model.adapter.filled(name, other).items()}
    if guidance != 1 and (lacking := [name for name in lacking if name in dropped]):
        raise errors.invalid(
            f"guidance {guidance}: expected a null value for {', '.join(sorted(lacking))} in the model's card, "
            f"or an input {NULL}{min(lacking)}, got none"
        )
    if guidance != 1 and not dropped:
        raise errors.invalid(f"guidance {guidance}: expected a condition that is dropped, got all of them kept")
    return condition, null


def _dropped(conditions: Mapping[str, Condition], parameters: Parameters) -> Collection[str]:
    """The conditions that null rows have not."""
    drop, keep = parameters.guidance_drop, parameters.guidance_keep
    if drop is not None and keep is not None:
        raise errors.invalid("guidance_keep: expected none beside guidance_drop, got both")
    if drop is None and keep is None:
        return {name for name, spec in conditions.items() if not spec.kept}
    which = "guidance_keep" if drop is None else "guidance_drop"
    if not conditions:
        raise errors.invalid(f"{which}: expected none for a model without conditions, got {drop or keep!r}")
    named = [name.strip() for name in (drop or keep or "").split(",")]
    for name in named:
        if name not in conditions:
            raise errors.invalid(f"{which}: " + unknown("condition", name, conditions))
    return set(named) if drop is not None else set(conditions) - set(named)


def _condition(model: Sampler, name: str, value: Array | None, n: int, prefix: str = "") -> Array | None:
    """A condition, or with a prefix its null, that was sent: [n, ...] or [1, ...]."""
    if value is None:
        return None
    spec = model.card.conditions[name]
    if value.dtype != spec.dtype or not value.ndim or len(value) not in (n, 1) or not spec.fits(value.shape[1:]):
        longest = f", -1 for 1..{spec.most}" if spec.free else ""
        raise errors.invalid(
            f"condition {prefix + name!r}: expected {spec.dtype} {_rows(n, spec.shape)}{longest}, got {came(value)}"
        )
    if why := model.adapter.fault(name, value):
        raise errors.invalid(f"condition {prefix + name!r}: {why}")
    return value


def _copied(value: Array) -> Tensor:
    return torch.from_numpy(value.copy())


def _rows(n: int, row: tuple[int, ...]) -> str:
    return f"{[n, *row]} or {[1, *row]}"


def came(value: Array) -> str:
    return f"{named(value.dtype)} {list(value.shape)}"
