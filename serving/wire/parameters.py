"""The parameters of a request for samples: names, types, ranges and defaults. Fronts and replicas read them alike."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from serving.wire import errors
from serving.wire.tensors import SINGLE, Parameter

EVERYWHERE = ("timeout", "priority", "deterministic")
"""Parameters of every model: the front and the engine read them."""
PRIORITIES = (1, 5, 9)
"""The first, the default and the last priority of a request, as the engine has them; smaller ones go first."""
STEERING = (
    "steering", "reward", "beta", "threshold", "particles", "posterior", "rollout_steps", "residual_draws",
    "residual_wait", "refresh", "reward_budget", "population", "keep", "inner", "potential", "chains", "candidates",
    "spread", "rho", "mu", "preset",
)  # fmt: skip
"""Parameters of how samples are steered, and toward what."""

LONGEST_REWARD = 500
"""Most characters of a reward: a name, or an expression of names."""

Unit = Literal["t", "sigma", "rho", "logsnr"]
"""What nodes of a grid and ends of an interval are given in; see `steering.units`."""

PROMPT, NEGATIVE, IMAGE, MASK = "prompt", "negative_prompt", "image", "mask"
"""Inputs of a request for pictures, the first two also parameters: texts, and what to start from."""
SIZES = "height", "width"
"""Parameters that say what size pictures have, for clients that send it."""
PICTURED = (PROMPT, NEGATIVE, "output_format", "decode_for_reward")
"""Parameters of requests for pictures alone."""

STREAMED = ("preview_every", "preview_dtype", "preview_size", "stream_samples", "trajectory")
"""Parameters of what a streamed request sends before its answer."""

GRID = "grid"
"""The input that gives the nodes of a plan, [steps + 1]."""
NULL = "null_"
"""What the name of an input begins with that is the null of a condition."""


def timeout_s(value: Parameter | None) -> float | None:
    """The value of `timeout` (microseconds, 0 for none) in seconds; INVALID_ARGUMENT where it is something else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise errors.invalid(f"parameter 'timeout': expected an integer >= 0 (microseconds), got {value!r}")
    return value / 1e6 if value else None


MOST_STEPS = 1000
_POPULATIONS = {"smc": 64, "tds": 64, "fk_steering": 16}
_PRESET_CHAINS = {
    "halfcheetah-medium-expert-v2": 4,
    "hopper-medium-expert-v2": 4,
    "walker2d-medium-expert-v2": 8,
    "halfcheetah-medium-v2": 4,
    "hopper-medium-v2": 8,
    "walker2d-medium-v2": 4,
    "halfcheetah-medium-replay-v2": 8,
    "hopper-medium-replay-v2": 4,
    "walker2d-medium-replay-v2": 8,
}


Single = Annotated[float, Field(ge=-SINGLE, le=SINGLE)]
"""A number that is finite as float32, which samples and rewards are computed in."""


class Parameters(BaseModel):
    """The parameters of a request for samples, with their ranges (the wire contract).

    Where a default depends on the method, the field is None and a property below says what it comes to.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    samples: Annotated[int, Field(ge=1, le=4096)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    solver: str = "dpmpp_2m"
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 20
    grid: str | None = None
    grid_unit: Unit | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    start_t: Annotated[float, Field(ge=0)] | None = None
    eta: Annotated[Single, Field(ge=0)] | None = None
    path: str | None = None
    end: Literal["denoise", "t_min"] | None = None
    start_mean: bool = False
    reverse: bool = False
    guidance: Single = 1.0
    guidance_low: float | None = None
    guidance_high: float | None = None
    guidance_unit: Unit = "t"
    guidance_rescale: Annotated[Single, Field(ge=0, le=1)] = 0.0
    guidance_drop: str | None = None
    guidance_keep: str | None = None
    likelihood: Literal["data", "sampler"] | None = None
    probes: Annotated[int, Field(ge=2, le=256)] = 4
    reward: str | None = None
    beta: Annotated[Single, Field(gt=0)] = 1.0
    threshold: Single | None = None
    particles: Annotated[int, Field(ge=2, le=1024, multiple_of=2)] = 32
    steering: str | None = None
    posterior: Literal["bank", "gaussian", "mixture", "neighbours", "residuals", "rollout"] | None = None
    rollout_steps: Annotated[int, Field(ge=2, le=100)] = 4
    residual_draws: Annotated[int, Field(ge=16, le=4096)] | None = None
    residual_wait: bool = True
    refresh: bool | None = None
    reward_budget: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    population: Annotated[int, Field(ge=2, le=256)] | None = None
    keep: Annotated[int, Field(ge=1, le=256)] | None = None
    inner: Literal["doob", "none"] = "doob"
    potential: Literal["twisted", "difference", "max", "sum"] | None = None
    chains: Annotated[int, Field(ge=1, le=1024)] = 8
    candidates: Annotated[int, Field(ge=1, le=256)] = 8
    spread: Annotated[Single, Field(ge=0)] | None = None
    rho: Annotated[Single, Field(ge=0)] = 0.5
    mu: Annotated[Single, Field(ge=0)] = 0.5
    preset: str | None = None
    preview_every: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    preview_dtype: Literal["float32", "fp32", "float16", "fp16", "uint8", "none"] | None = None
    preview_size: Annotated[int, Field(ge=1, le=2**16)] | None = None
    stream_samples: bool = False
    trajectory: bool = False
    output_format: Literal["raw", "png"] = "raw"
    decode_for_reward: Literal["tiny", "full", "none"] | None = None

    def completed(self, defaults: Mapping[str, Parameter]) -> Self:
        """These parameters, and a model's own where the request does not say; what the request said stays known."""
        missing = {name: value for name, value in defaults.items() if name not in self.model_fields_set}
        made = self.model_copy(update=missing)
        made.model_fields_set.difference_update(missing)
        return made

    def over(self, nodes: int) -> Self:
        """These parameters for an explicit grid of so many nodes, which says the steps where the request does not."""
        if "steps" in self.model_fields_set or not 2 <= nodes <= MOST_STEPS + 1:
            return self
        return self.model_copy(update={"steps": nodes - 1})

    @property
    def here(self) -> Self:
        """These parameters for a request that waits for draws, or whose draws are there."""
        return self.model_copy(update={"residual_wait": True})

    @property
    def steps_taken(self) -> int:
        """The steps that are taken: with `strength`, the last strength * steps, rounded down."""
        return self.steps if self.strength is None else max(1, math.floor(self.strength * self.steps + 1e-9))

    @property
    def method(self) -> str:
        """The steering method that is asked for, which need not exist; "none" for plain samples."""
        return self.steering or ("none" if self.reward is None else "doob")

    @property
    def chains_together(self) -> int:
        """Chains of a population, for the methods that have some: `smc`, `tds` and `fk_steering`."""
        return self.population or _POPULATIONS.get(self.method, 1)

    @property
    def kept(self) -> int:
        """Samples drawn from one population: all chains of `smc`, one of the others, unless it is said."""
        return self.keep or (self.chains_together if self.method == "smc" else 1)

    @property
    def gradient_draws(self) -> int:
        """Candidates whose gradients are averaged at a stage: of `lgd_mc` 8 and of `tfg` 2, unless it is said."""
        return 2 if self.method == "tfg" and "candidates" not in self.model_fields_set else self.candidates

    @property
    def chains_a_sample(self) -> int:
        """Chains a sample is the best of: `doit` has one, or as many as its preset says, unless it is said."""
        if self.method != "doit" or "chains" in self.model_fields_set:
            return self.chains
        return _PRESET_CHAINS.get(self.preset or "", 1)
