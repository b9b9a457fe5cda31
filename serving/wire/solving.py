"""The parameters of a request for trajectories, with their types, ranges and defaults, and the names of its inputs."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.wire.parameters import LONGEST_REWARD, Single

Y0, TIMES, CONTROL, CONTROL_TIMES, LINEAR = "y0", "t_eval", "control", "control_t", "linear"
"""Inputs of a request for trajectories."""
STREAM, CHUNK = "stream", "chunk"
"""The parameter that asks for states as they become final, and the one of a response that numbers such states."""
EACH = ("rtol", "atol", "dt", "dt0")
"""Parameters that may also come as an input [n], a number for each trajectory."""
MOST_TRAJECTORIES, MOST_TIMES = 2**16, 2**20
"""Trajectories of a request, and times of one, at most."""


Above0 = Annotated[float, Field(gt=0, lt=math.inf)]


class Solving(BaseModel):
    """The parameters of a request for trajectories, with their ranges.

    Where a default depends on the model, the field is None.

    Attributes:
        samples: trajectories from a single first state, which differ where there is noise.
        dt0: first step of a solver that chooses its steps; dt: longest step of one that does not.
        events: where trajectories are noted or end, as `serving.requests.dynamics.events` reads it; max_events: of a
            trajectory, kept of them.
        sensitivity: "ftle" for finite-time Lyapunov exponents.
        stream: send states as they become final.
        beta, threshold, particles, steering, coordinate, over, explorers: of steering, see
            `serving.requests.dynamics.steered`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    samples: Annotated[int, Field(ge=1, le=MOST_TRAJECTORIES)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    solver: str | None = None
    rtol: Annotated[float, Field(ge=0, le=1)] | None = None
    atol: Annotated[float, Field(ge=0, lt=math.inf)] | None = None
    dt0: Above0 | None = None
    dt: Above0 | None = None
    max_steps: Annotated[int, Field(ge=1, le=10**6)] = 10_000
    stream: bool = False
    events: Annotated[str, Field(max_length=LONGEST_REWARD)] | None = None
    max_events: Annotated[int, Field(ge=1, le=1024)] | None = None
    sensitivity: Literal["ftle"] | None = None
    reward: str | None = None
    beta: Annotated[Single, Field(gt=0)] = 1.0
    threshold: Single | None = None
    particles: Annotated[int, Field(ge=2, le=2**16)] | None = None
    steering: Literal["doob", "splitting", "none"] | None = None
    coordinate: Annotated[str, Field(max_length=LONGEST_REWARD)] | None = None
    over: Literal["end", "max", "integral"] | None = None
    explorers: Annotated[int, Field(ge=16, le=4096)] | None = None
