"""The log-density of another served sampler as a reward: a product of experts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import steering
from protos.complaint import unknown
from serving.backends import Array, GraphTensor
from serving.models.evaluations import evaluations
from serving.models.model import Model, Sampler
from serving.rewards.network import exact, tensor_argument
from serving.rewards.reward import PREFIX, Scored, Scoring, check_names
from serving.wire import errors
from serving.wire.tensors import Given
from steering.paths import MeanReverting

NAME = "log_density"
STEPS, PROBES = 8, 2
NUMBERS = 2**20
"""Most numbers in the states of a group: bounds memory, and how long a request holds the second thread at a time."""


@dataclass(frozen=True)
class LogDensity(Scored):
    """log p of a sampler's law of data, by its probability flow: about 4 steps (1 + 2 probes) rows a candidate.

    Every candidate has the same probes, so that the score is a function of the candidate alone; with as many probes as
    dimensions the trace is exact.
    """

    model: Sampler
    condition: Mapping[str, Array]
    steps: int
    probes: int
    threshold: float | None = None
    name: str = NAME

    @property
    def key(self) -> tuple[object, ...]:
        return (self.name, self.model.digest, self.steps, self.probes, exact(self.condition))

    @property
    def fingerprint(self) -> str:
        return f"{self.name}-{self.model.digest[:16]}"

    @property
    def cautions(self) -> tuple[str, ...]:
        return (self.model.network.caution,)

    def scores(self, x: Tensor) -> Scoring:
        """Implements `Reward.scores`."""
        event, path = tuple(x.shape[1:]), self.model.path.finite
        plan = self.model.plan("ddim", self.steps, path, grid="logsnr", end="t_min")
        dimension = math.prod(event)
        found = []
        for part in x.split(max(1, NUMBERS // ((1 + 2 * self.probes) * dimension))):
            n = len(part)
            condition = {k: torch.from_numpy(v).expand(n, *v.shape) for k, v in self.condition.items()}
            problem = steering.Problem(plan=plan, event=event, dtype=torch.float32, condition=condition)
            judging = steering.log_likelihood(
                problem, part, steering.Noise(0, [0] * n), probes=self.probes, exact=dimension <= self.probes
            )
            try:
                likelihood = yield from evaluations(judging, self.model, None, kind="reward")
            except steering.NetworkError as error:
                raise steering.SteeringError(f"reward {self.name!r}: {error}") from None
            found.append(likelihood.log_density)
        return torch.cat(found).to(x.dtype)


@dataclass(frozen=True)
class LogDensityDefinition:
    """The log-density of the one of `models` (samplers of one event shape) that the argument `model` names."""

    models: Mapping[str, Sampler]
    name: str = NAME

    @classmethod
    def of(cls, models: Mapping[str, Model], event: tuple[int, ...]) -> "LogDensityDefinition":
        """The models that have a density of samples of this shape."""
        return cls(
            {
                name: model
                for name, model in models.items()
                if isinstance(model, Sampler)
                and model.card.event_shape == event
                and not isinstance(model.path, MeanReverting)  # it has another law for each mean
            }
        )

    def takes(self, given: Mapping[str, Given]) -> Sequence[str]:
        """Implements `Definition.takes`: a conditional model's conditions are arguments too."""
        name = given.get("model")
        model = self.models.get(name) if isinstance(name, str) else None
        return ["model", "steps", "probes", *(model.card.conditions if model is not None else ())]

    def bind(self, given: Mapping[str, Given]) -> LogDensity:
        """Implements `Definition.bind`."""
        check_names(self.name, given, ["model"], [*given] if "model" not in given else self.takes(given))
        name = given["model"]
        if not isinstance(name, str) or name not in self.models:
            raise errors.invalid(f"{PREFIX}model of reward {self.name!r}: " + unknown("sampler", name, self.models))
        model = self.models[name]
        condition: dict[str, Array] = {}
        for key, spec in model.card.conditions.items():
            if key in given:
                row = tuple(None if axis == -1 else axis for axis in spec.shape)
                value = tensor_argument(self.name, GraphTensor(key, np.dtype(spec.dtype), row), given[key])
                if not spec.fits(value.shape):
                    raise errors.invalid(
                        f"{PREFIX}{key} of reward {self.name!r}: expected free lengths of 1..{spec.most}, "
                        f"got {list(value.shape)}"
                    )
                if why := model.adapter.fault(key, value):
                    raise errors.invalid(f"{PREFIX}{key} of reward {self.name!r}: {why}")
            elif (null := spec.null_rows) is not None:
                value = np.asarray(null[0])
            else:
                raise errors.invalid(f"reward {self.name!r}: expected argument {PREFIX + key!r}, got none")
            condition |= {name: np.asarray(rows[0]) for name, rows in model.adapter.filled(key, value[None]).items()}
        steps, probes = self._count(given, "steps", STEPS, 1000), self._count(given, "probes", PROBES, 256)
        return LogDensity(model, condition, steps, probes)

    def _count(self, given: Mapping[str, Given], name: str, default: int, most: int) -> int:
        value = given.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise errors.invalid(
                f"{PREFIX}{name} of reward {self.name!r}: expected an integer in 1..{most}, got {value!r}"
            )
        return value
