"""Rewards as a request names them: a served network or a built-in, with the caller's arguments bound."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from serving import errors
from serving.backends import Array, GraphTensor
from serving.engine import Evaluation
from serving.kserve import Parameter
from serving.repository import Model, PlainModel
from steering.rewards import BUILT_IN, BuiltIn

PREFIX = "reward_"


@dataclass(frozen=True)
class NetworkReward:
    """A plain network that scores samples: `input` takes the sample, `arguments` are fed to every row."""

    name: str
    model: PlainModel
    input: str
    output: str
    arguments: Mapping[str, Array]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal keys score equally: what a bank's remembered scores are filed under."""
        arguments = tuple((k, v.dtype.str, v.shape, v.tobytes()) for k, v in sorted(self.arguments.items()))
        return (self.name, self.model.fingerprint, arguments)

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    def evaluation(self, x: Tensor) -> Evaluation:
        """The rows to run for candidates x [B, *event]."""
        rows = len(x)
        feeds: dict[str, Array] = {self.input: x.to(torch.float32).contiguous().numpy()}
        feeds |= {name: np.broadcast_to(value, (rows, *value.shape)) for name, value in self.arguments.items()}
        return Evaluation(self.model.network, feeds, (self.output,), rows, "reward")


@dataclass(frozen=True)
class BuiltInReward:
    """A named function of the sample."""

    name: str
    score: Callable[[Tensor], Tensor]
    arguments: Mapping[str, object]

    @property
    def key(self) -> tuple[object, ...]:
        exact = ((k, v.numpy().tobytes() if isinstance(v, Tensor) else v) for k, v in sorted(self.arguments.items()))
        return (self.name, *exact)

    @property
    def fingerprint(self) -> str:
        return self.name


Reward = NetworkReward | BuiltInReward


def bind(
    name: str,
    models: Mapping[str, Model],
    event: tuple[int, ...],
    parameters: Mapping[str, Parameter],
    inputs: Mapping[str, Array],
) -> Reward:
    """The reward a request names, with its `reward_<argument>` parameters (numbers) and inputs (tensors).

    Raises:
        RequestError: INVALID_ARGUMENT for an unknown reward, a missing, unknown or ill-shaped argument.
    """
    if twice := {*parameters} & {*inputs}:
        raise errors.invalid(f"{min(twice)}: expected a parameter or an input, got both")
    given: dict[str, Parameter | Array] = {key.removeprefix(PREFIX): value for key, value in parameters.items()}
    given |= {key.removeprefix(PREFIX): value for key, value in inputs.items()}
    if name in BUILT_IN:
        return _bind_built_in(BUILT_IN[name], event, given)
    model = models.get(name)
    scorers = [each for each, candidate in models.items() if _roles(candidate, event) is not None]
    if model is None or (roles := _roles(model, event)) is None:
        raise errors.invalid(f"unknown reward {name!r}, expected one of {', '.join(sorted([*BUILT_IN, *scorers]))}")
    assert isinstance(model, PlainModel)
    sample, output, arguments = roles
    _check_names(name, given, [each.name for each in arguments])
    bound = {each.name: _tensor_argument(name, each, given[each.name]) for each in arguments}
    return NetworkReward(name, model, sample.name, output.name, bound)


def _roles(model: Model, event: tuple[int, ...]) -> tuple[GraphTensor, GraphTensor, list[GraphTensor]] | None:
    """Which input takes the sample (`x`, or the first float one of its shape), which output is the score."""
    if not isinstance(model, PlainModel) or model.name.endswith(".network"):
        return None
    backend = model.network.backend
    takes = [each for each in backend.inputs if each.dtype == np.float32 and _same(each.row, event)]
    gives = [each for each in backend.outputs if each.dtype.kind == "f" and each.row == ()]
    if not takes or not gives:
        return None
    sample = next((each for each in takes if each.name == "x"), takes[0])
    score = next((each for each in gives if each.name == "reward"), gives[0])
    return sample, score, [each for each in backend.inputs if each.name != sample.name]


def _bind_built_in(reward: BuiltIn, event: tuple[int, ...], given: Mapping[str, Parameter | Array]) -> BuiltInReward:
    required = [name for name, argument in reward.arguments.items() if argument.default is None]
    _check_names(reward.name, given, required, [*reward.arguments])
    bound: dict[str, object] = {}
    for name, value in given.items():
        where = f"{PREFIX}{name} of reward {reward.name!r}"
        if reward.arguments[name].kind == "number":
            if isinstance(value, bool | str) or np.ndim(value):
                raise errors.invalid(f"{where}: expected a number, got {_came(value)}")
            bound[name] = float(value)
        else:
            if (
                not isinstance(value, np.ndarray)
                or value.dtype != np.float32
                or value.shape not in (event, (1, *event))
            ):
                raise errors.invalid(f"{where}: expected an input FP32 {list(event)}, got {_came(value)}")
            bound[name] = torch.from_numpy(value.reshape(event).copy())
    return BuiltInReward(reward.name, lambda x: reward.score(x, **bound), bound)


def _check_names(reward: str, given: Mapping[str, object], required: list[str], known: list[str] | None = None) -> None:
    known = required if known is None else known
    for name in given:
        if name not in known:
            names = ", ".join(PREFIX + each for each in known) or "none"
            raise errors.invalid(f"reward {reward!r}: unknown argument {PREFIX + name!r}, expected {names}")
    for name in required:
        if name not in given:
            raise errors.invalid(f"reward {reward!r}: expected argument {PREFIX + name!r}, got none")


_CASTS = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}  # kinds of numbers a graph's input takes


def _tensor_argument(reward: str, tensor: GraphTensor, value: Parameter | Array) -> Array:
    """An argument as one row of the graph's input."""
    array = np.asarray(value)
    if array.shape == (1, *(axis or 0 for axis in tensor.row)):
        array = array[0]
    fits = array.dtype.kind in _CASTS[tensor.dtype.kind] and _same(tensor.row, array.shape)
    if fits:
        cast = array.astype(tensor.dtype)
        fits = tensor.dtype.kind == "f" or bool((cast == array).all())  # no wrapping around
    if not fits:
        wanted = f"{tensor.dtype} of shape {['?' if axis is None else axis for axis in tensor.row]}"
        raise errors.invalid(f"{PREFIX}{tensor.name} of reward {reward!r}: expected {wanted}, got {_came(value)}")
    return cast


def _same(row: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    return len(row) == len(shape) and all(a in (None, b) for a, b in zip(row, shape, strict=True))


def _came(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)
