"""Served plain networks as rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from serving.backends import Array, GraphTensor
from serving.engine.task import Evaluation
from serving.models.model import RAW, Model, PlainModel
from serving.rewards.reward import PREFIX, Given, Scoring, came, check_names
from serving.wire import errors


@dataclass(frozen=True)
class NetworkReward:
    """A plain network that scores samples: `input` takes the sample, `arguments` are fed to every row."""

    model: PlainModel
    input: str
    output: str
    arguments: Mapping[str, Array]
    threshold: float | None = None

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def key(self) -> tuple[object, ...]:
        return (self.name, self.model.fingerprint, exact(self.arguments))

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    def scores(self, x: Tensor) -> Scoring:
        """Implements `Reward.scores`; rewards of one network share its calls, also if their arguments differ."""
        rows = len(x)
        feeds: dict[str, Array] = {self.input: x.to(torch.float32).contiguous().numpy()}
        feeds |= {name: np.broadcast_to(value, (rows, *value.shape)) for name, value in self.arguments.items()}
        (scores,) = yield Evaluation(self.model.network, feeds, (self.output,), rows, "reward")
        return torch.from_numpy(scores)


@dataclass(frozen=True)
class NetworkDefinition:
    """A plain network with a sample as one input and a number as one output.

    Attributes:
        sample: the input that takes the sample: `x`, or the first of its type and shape.
        score: the output that is the reward: `reward`, or the first number.
        arguments: the other inputs.
    """

    model: PlainModel
    sample: GraphTensor
    score: GraphTensor
    arguments: Sequence[GraphTensor]

    @classmethod
    def of(cls, model: Model, event: tuple[int, ...]) -> Self | None:
        """The model as a scorer of samples of this shape; None if it cannot score them."""
        if not isinstance(model, PlainModel) or model.name.endswith(RAW):
            return None
        backend = model.network.backend
        takes = [each for each in backend.inputs if each.dtype == np.float32 and each.fits(event)]
        gives = [each for each in backend.outputs if each.dtype.kind == "f" and each.row == ()]
        if not takes or not gives:
            return None
        sample = next((each for each in takes if each.name == "x"), takes[0])
        score = next((each for each in gives if each.name == "reward"), gives[0])
        return cls(model, sample, score, [each for each in backend.inputs if each.name != sample.name])

    @property
    def name(self) -> str:
        return self.model.name

    def takes(self, given: Mapping[str, Given]) -> Sequence[str]:
        """Implements `Definition.takes`."""
        return [each.name for each in self.arguments]

    def bind(self, given: Mapping[str, Given]) -> NetworkReward:
        """Implements `Definition.bind`."""
        names = self.takes(given)
        check_names(self.name, given, names, names)
        bound = {each.name: tensor_argument(self.name, each, given[each.name]) for each in self.arguments}
        for name, value in bound.items():
            if why := self.model.out_of_range(name, value):
                raise errors.invalid(f"{PREFIX}{name} of reward {self.name!r}: {why}")
        return NetworkReward(self.model, self.sample.name, self.score.name, bound)


_CASTS = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}  # kinds of numbers a graph's input takes


def tensor_argument(reward: str, tensor: GraphTensor, value: Given) -> Array:
    """An argument as one row of a graph's input."""
    array = np.asarray(value)
    if array.shape == (1, *(axis or 0 for axis in tensor.row)):
        array = array[0]
    fits = array.dtype.kind in _CASTS[tensor.dtype.kind] and tensor.fits(array.shape)
    if fits:
        with np.errstate(over="ignore"):
            cast = array.astype(tensor.dtype)
        # a cast must not wrap around, nor end in infinity
        fits = bool(np.isfinite(cast).all() if tensor.dtype.kind == "f" else (cast == array).all())
    if not fits:
        wanted = f"{tensor.dtype} of shape {['?' if axis is None else axis for axis in tensor.row]}"
        raise errors.invalid(f"{PREFIX}{tensor.name} of reward {reward!r}: expected {wanted}, got {came(value)}")
    return cast


def exact(arguments: Mapping[str, Array]) -> tuple[object, ...]:
    """A hashable key of arrays by name, equal for equal bits."""
    return tuple((k, v.dtype.str, v.shape, v.tobytes()) for k, v in sorted(arguments.items()))
