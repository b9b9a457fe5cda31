"""The unit of work of differential equations: rows of one part of a model, which a program yields and is answered.

As `steering.sampling.rows.Rows` is for samplers. A program never evaluates anything itself; who drives it may put rows
of many programs into one call.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from jaxtyping import Float64, Int64
from torch import Tensor

Part = Literal["field", "reward", "event", "step", "saved", "coordinate"]
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Ask:
    """Rows of one part of a model; any batch, any neighbours.

    "field" is the model's own graph, "reward" a reward of the state, "event" the scalar network whose sign changes are
    looked for, "step" a graph that makes a whole step. "saved" asks for nothing: it announces states that are final,
    y at `extra["position"]` of t_eval of trajectories `index`, and the reply is {}. Problems with `show` have them.

    "coordinate" is a network of the state that steering goes by.

    Attributes:
        index: which trajectory each row is of; whoever answers finds its conditions, parameters and control there.
        y: states.
        t: times.
        extra: further inputs by role, [m, ...]: "dt" [m, 1], "dx", "h", "k1", "position".
    """

    part: Part
    index: Int64[Tensor, " m"]
    y: Float64[Tensor, "m *state"]
    t: Float64[Tensor, " m"]
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.y.shape[0]


Reply = Mapping[str, Tensor]
"""Float64 by role. "field": "drift" [m, *state] (ode, cde) and "diffusion" (sde), or "next" (map, fixed_point).
"reward": "reward" [m]. "event": "event" [m] or [m, E]. "coordinate": "coordinate" [m] or [m, q]. "step": "dz", "error"
[m, *state], "slopes" [m, s, *state]."""

Program = Generator[Ask, Reply, Result]
