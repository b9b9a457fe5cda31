"""Named functions of a sample as rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from serving.backends import Array
from serving.engine.task import Step
from serving.rewards.reward import PREFIX, Scoring, beside, came, check_names
from serving.wire import errors
from serving.wire.tensors import SINGLE, Given
from steering.errors import SteeringError
from steering.targets.rewards import BuiltIn


@dataclass(frozen=True)
class BuiltInReward:
    """A named function with its arguments; `threshold` is set if the function is an event."""

    built_in: BuiltIn
    arguments: Mapping[str, object]
    threshold: float | None

    @property
    def name(self) -> str:
        return self.built_in.name

    @property
    def key(self) -> tuple[object, ...]:
        exact = ((k, v.numpy().tobytes() if isinstance(v, Tensor) else v) for k, v in sorted(self.arguments.items()))
        return (self.name, *exact)

    @property
    def fingerprint(self) -> str:
        return self.name

    @property
    def cautions(self) -> tuple[str, ...]:
        return ()

    @property
    def no_gradient(self) -> str:
        return "" if self.threshold is None else "it is an event"

    def score(self, x: Tensor) -> Tensor:
        return self.built_in.score(x, **self.arguments)

    def scores(self, x: Tensor) -> Scoring:
        """Implements `Reward.scores`."""
        yield from tuple[Step, ...]()  # nothing to ask for
        return self._checked(self.score(x))

    def gradients(self, x: Tensor) -> Scoring:
        """Implements `Reward.gradients`, by torch."""
        yield from tuple[Step, ...]()
        with torch.enable_grad():
            scores = self._checked(self.score(x := x.detach().requires_grad_()))
            (gradient,) = torch.autograd.grad(scores, x, torch.ones_like(scores))
        return beside(scores, gradient)

    def _checked(self, scores: Tensor) -> Tensor:
        if bool(scores.isinf().any()):  # none of these functions is infinite
            raise SteeringError(f"reward {self.name!r}: expected values in the range of float32, got one beyond")
        return scores


@dataclass(frozen=True)
class BuiltInDefinition:
    """A named function of samples of shape `event`."""

    built_in: BuiltIn
    event: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.built_in.name

    def takes(self, given: Mapping[str, Given]) -> Sequence[str]:
        """Implements `Definition.takes`."""
        return [*self.built_in.arguments]

    def bind(self, given: Mapping[str, Given]) -> BuiltInReward:
        """Implements `Definition.bind`."""
        arguments, threshold = self.built_in.arguments, self.built_in.threshold
        check_names(self.name, given, [n for n, a in arguments.items() if a.default is None], [*arguments])
        bound = {name: self._argument(name, value) for name, value in given.items()}
        if isinstance(threshold, str):
            value = bound.pop(threshold)
            assert isinstance(value, float)
            threshold = value
        reward = BuiltInReward(self.built_in, bound, threshold)
        try:
            reward.score(torch.zeros(1, *self.event))
        except SteeringError as error:  # arguments that do not go together
            raise errors.invalid(str(error)) from None
        return reward

    def _argument(self, name: str, value: Given) -> float | Tensor:
        kind, where = self.built_in.arguments[name].kind, f"{PREFIX}{name} of reward {self.name!r}"
        if kind == "number":
            if isinstance(value, bool | str) or np.ndim(value) or np.asarray(value).dtype.kind not in "iuf":
                raise errors.invalid(f"{where}: expected a number, got {came(value)}")
            if abs(float(value)) > SINGLE:
                raise errors.invalid(f"{where}: expected a number of at most {SINGLE:g}, got {float(value):g}")
            return float(value)
        types = {"event": "FP32", "mask": "BOOL or FP32"}[kind]
        if not isinstance(value, np.ndarray) or not self._fits(value, kind == "mask"):
            raise errors.invalid(f"{where}: expected an input {types} {list(self.event)}, got {came(value)}")
        return torch.from_numpy(value.reshape(self.event).astype(np.float32))

    def _fits(self, value: Array, mask: bool) -> bool:
        fine = value.dtype == np.float32 or (mask and value.dtype == np.bool_)
        return fine and value.shape in (self.event, (1, *self.event))
