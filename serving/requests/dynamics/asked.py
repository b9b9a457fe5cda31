"""What a request for trajectories asks for, read and checked: parameters, first states, times, conditions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from serving.backends import Array
from serving.models.dynamics import Dynamics
from serving.models.model import Model
from serving.requests.dynamics.chunks import Chunk, Room
from serving.rewards import Definition, Reward
from serving.wire.channels import LONGEST_ANSWER
from serving.wire.solving import Solving
from serving.wire.tensors import Parameter
from steering.dynamics import Solver


@dataclass(frozen=True)
class Served:
    """What a replica has for a request.

    Attributes:
        models: every model by name; rewards and event networks are found there.
        remotes: rewards that are scored elsewhere, by name.
        deliver: takes what is sent before the answer; None where nothing can be.
        longest: most bytes of the answer's tensors.
    """

    models: Mapping[str, Model] = field(default_factory=dict)
    remotes: Mapping[str, Definition] = field(default_factory=dict)
    deliver: Callable[[Chunk], Room | None] | None = None
    longest: int = LONGEST_ANSWER


@dataclass(frozen=True, eq=False)
class Asked:
    """A request for n trajectories of a model at T times each.

    Attributes:
        said: the parameters that the request itself has, by name.
        options: of the solver, by name.
        y0: float64 [n, *state]; zeros where an encoder makes them.
        encoded: the encoder's inputs [n, ...] by name; None where first states were sent.
        t_eval: float64 [T] or [n, T].
        each: `rtol`, `atol`, `dt` and `dt0` as numbers or, of each trajectory, float64 [n]; those that were said.
        condition: [n, ...] by name of the graph's input.
        inputs: further inputs by name, which pieces read.
        reward: what scores states; None for nothing.
        outputs: that were asked for by name; none for all.
    """

    model: Dynamics
    served: Served
    said: frozenset[str]
    parameters: Solving
    solver: Solver
    options: Mapping[str, float]
    y0: Tensor
    encoded: Mapping[str, Array] | None
    t_eval: Tensor
    each: Mapping[str, float | Tensor]
    condition: Mapping[str, Array]
    inputs: Mapping[str, Array]
    outputs: frozenset[str]
    reward: Reward | None = None
    reward_arguments: Mapping[str, Parameter] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.y0)

    @property
    def times(self) -> int:
        """How many times each trajectory is asked for at."""
        return self.t_eval.shape[-1]

    def wants(self, output: str) -> bool:
        """Whether an output is to be in the answer."""
        return not self.outputs or output in self.outputs


def rows_of(condition: Mapping[str, Array], index: Tensor) -> dict[str, Array]:
    """Conditions [m, ...] of the trajectories of rows."""
    which = index.numpy()
    return {name: np.ascontiguousarray(each[which]) for name, each in condition.items()}
