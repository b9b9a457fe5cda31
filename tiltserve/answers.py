"""What calls answer: arrays with the response's parameters as typed fields."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tiltserve import pictures
from tiltserve.errors import InvalidArgument
from tiltserve.pictures import Pictures
from tiltserve.tensors import Array, Parameter

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = NDArray[np.float32]
_TIME = re.compile(r"(\w+);dur=([0-9.]+)(?:;rows=(\d+))?")
"""One entry of HTTP's Server-Timing."""


@dataclass(frozen=True)
class Report:
    """How steering went.

    Attributes:
        ess: effective candidates behind a correction, by stage.
        methods: shares of the corrections that came from the bank, from an average, from a selection, or were none.
        choices: what the server chose, with its reasons.
        no_hit: corrections left out because no candidate had weight.
        log_z: log E[w] over the model's samples, -inf where no weight was seen, None where it is unknown.
        population_ess: effective chains by stage, of methods that have populations.
        distinct: how many samples are distinct.
        hits: the share of samples at the threshold, None without one.
    """

    ess: list[float] = field(default_factory=list)
    methods: dict[str, float] = field(default_factory=dict)
    choices: list[str] = field(default_factory=list)
    no_hit: int = 0
    log_z: float | None = None
    population_ess: list[float] = field(default_factory=list)
    distinct: int | None = None
    hits: float | None = None

    @classmethod
    def of(cls, text: str) -> "Report":
        """From the response parameter `report`; keys of newer servers are passed over."""
        said: dict[str, Any] = json.loads(text)
        if "log_z" in said and said["log_z"] is None:
            said["log_z"] = -math.inf  # which JSON has not
        return cls(**{name: said[name] for name in cls.__dataclass_fields__ if name in said})


@dataclass(frozen=True)
class Time:
    """What a part of a request took: milliseconds, and of a network its rows."""

    milliseconds: float
    rows: int | None = None


@dataclass(frozen=True, eq=False)
class Samples:
    """Drawn samples: an array with what is known about it. numpy takes it for its `samples`.

    Attributes:
        samples: [n, *event]; of a pipeline its pictures, uint8 [n, h, w, 3], or files where those were asked for.
        rewards: float32 [n], None without a reward.
        seed: with the same one, the same bytes.
        network_rows, reward_rows: rows spent on these samples.
        setup_rows, setup_reward_rows: rows that the reward's target costs once for each replica.
        ess: mean number of effective candidates behind a correction, None if there was none.
        log_z: log E[w] over the model's samples; of an event, the log of its probability. None where it is unknown.
        fingerprint: of everything else that decides the bytes.
        warnings: read them.
        report: how steering went, None for plain samples.
        seconds: as the client saw it, retries included.
        parameters, outputs: all that the response holds.
    """

    samples: Array
    rewards: Floats | None
    seed: int
    network_rows: int
    reward_rows: int
    setup_rows: int
    setup_reward_rows: int
    ess: float | None
    log_z: float | None
    solver: str
    steering: str
    fingerprint: str
    warnings: list[str]
    report: Report | None
    seconds: float
    model: str
    version: str
    id: str
    parameters: dict[str, Parameter]
    outputs: dict[str, Array]
    stages: int = 0
    """How many stages there were, where they were streamed."""
    times: dict[str, Time] = field(default_factory=dict)
    """Where the time went (queue, network, reward, ...), where that was asked for and the server says it."""

    @property
    def images(self) -> Pictures:
        """Pictures uint8 [n, h, w, 3]: of a pipeline, or of samples [c, h, w] or [h, w] of -1..1; `InvalidArgument` for
        other samples."""
        if self.samples.dtype == np.object_:
            return pictures.decoded(self.samples.tolist())
        return pictures.shown(self.samples)

    def pil(self) -> "list[Image]":
        """`images` as Pillow's; `ImportError` where Pillow is not installed."""
        return pictures.pil(self.images)

    @property
    def latents(self) -> Floats | None:
        """What a pipeline decoded, float32 [n, *event]; None unless `latents=True` asked for it."""
        return self.outputs.get("latents")

    @property
    def samples_sha256(self) -> str | None:
        """The SHA-256 of what was drawn, in hexadecimal, as the server says it: `hashlib.sha256(samples.tobytes())`.
        None unless `deterministic=True` asked for it."""
        said = self.parameters.get("samples_sha256")
        return None if said is None else str(said)

    @property
    def denoised(self) -> Array:
        """The samples: what comes after the last `Preview`."""
        return self.samples

    @property
    def stage(self) -> int:
        return self.stages

    @property
    def shape(self) -> tuple[int, ...]:
        return self.samples.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.samples.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.samples, dtype=dtype) if copy else np.asarray(self.samples, dtype=dtype)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, which: Any) -> Any:
        return self.samples[which]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.samples)

    def __repr__(self) -> str:
        said = [f"{len(self.samples)} of shape {list(self.samples.shape[1:])}"]
        if self.rewards is not None:
            said.append(f"mean reward {self.rewards.mean():.4g}")
        said += [f"seed {self.seed}", f"{self.network_rows} network rows"]
        if self.warnings:
            said.append(f"{len(self.warnings)} warning{'s' if len(self.warnings) > 1 else ''}")
        return f"<Samples: {', '.join(said)}>"


@dataclass(frozen=True, eq=False)
class Preview:
    """The denoised estimate on the way to samples. Many samples are drawn in groups, one after another: a preview is of
    one group.

    Attributes:
        denoised: [group, *event], or smaller and of whole numbers where that was asked for; of a pipeline pictures,
            uint8 [group, h, w, 3].
        stage, stages: this stage, 1 being the first, and how many there are.
        first: the number of its first sample.
        network_rows: spent so far.
        range: what 0 and 255 stand for in whole numbers, None for others.
    """

    denoised: Array
    stage: int
    stages: int
    first: int
    network_rows: int
    range: tuple[float, float] | None = None

    @property
    def images(self) -> Pictures:
        """As `Samples.images`."""
        return pictures.shown(self.denoised, *(self.range or pictures.MODEL))

    def pil(self) -> "list[Image]":
        """As `Samples.pil`."""
        return pictures.pil(self.images)

    def __repr__(self) -> str:
        return (
            f"<Preview: stage {self.stage} of {self.stages}, {len(self.denoised)} of {list(self.denoised.shape[1:])}>"
        )


@dataclass(frozen=True, eq=False)
class Pair:
    """Two neighbouring states of some samples on the path to them.

    Attributes:
        states: float32 [group, 2, *event]; x_t is alpha x_0 + sigma noise, with rho = sigma / alpha.
        number, pairs: this pair, 1 being the first, and how many there are.
        first: the number of its first sample.
        t, alpha, rho: of both, on the path that is drawn by; rho is infinite where alpha is 0.
    """

    states: Floats
    number: int
    pairs: int
    first: int
    t: tuple[float, float]
    alpha: tuple[float, float]
    rho: tuple[float, float]

    @property
    def denoised(self) -> Floats:
        """The later states, noise and all, for whoever shows whatever a stream gives."""
        later: Floats = self.states[:, 1]
        return later

    @property
    def images(self) -> Pictures:
        """As `Samples.images`, of the later states."""
        return pictures.shown(self.denoised)

    def pil(self) -> "list[Image]":
        """As `Samples.pil`, of the later states."""
        return pictures.pil(self.images)

    @property
    def stage(self) -> int:
        return self.number

    @property
    def stages(self) -> int:
        return self.pairs

    def __repr__(self) -> str:
        t, n = self.t, len(self.states)
        return f"<Pair: {self.number} of {self.pairs}, t {t[0]:.4g} to {t[1]:.4g}, {n} samples>"


@dataclass(frozen=True, eq=False)
class Group:
    """Finished samples [group, *event] with their rewards [group], if there is one, while others are drawn: those from
    number `first`. They are among the `Samples` at the end too."""

    samples: Array
    rewards: Floats | None
    first: int
    stages: int = 0

    @property
    def images(self) -> Pictures:
        """As `Samples.images`."""
        return pictures.shown(self.samples)

    def pil(self) -> "list[Image]":
        """As `Samples.pil`."""
        return pictures.pil(self.images)

    @property
    def denoised(self) -> Array:
        return self.samples

    @property
    def stage(self) -> int:
        return self.stages

    def __repr__(self) -> str:
        return f"<Group: {len(self.samples)} finished from {self.first}>"


Shown = Preview | Pair | Group
"""What comes before the samples of a stream."""


@dataclass(frozen=True, eq=False)
class Inferred(Mapping[str, Array]):
    """The answer of plain inference: a mapping of its outputs by name.

    Attributes:
        seconds: as the client saw it, retries included.
    """

    outputs: dict[str, Array]
    parameters: dict[str, Parameter]
    model: str
    version: str
    id: str
    seconds: float

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Log-likelihoods of samples in nats, and their standard errors over the probes, float32 [n] each."""

    log_likelihood: Floats
    standard_error: Floats
    seed: int
    network_rows: int
    fingerprint: str
    seconds: float


def samples_of(answer: Inferred, stages: int = 0, times: str = "") -> Samples:
    """The samples in an answer; raises `InvalidArgument` where there are none."""
    said = answer.parameters
    drawn = drawn_of(answer)
    if drawn is None:
        raise no_sampler(answer.model, answer.outputs)
    report = said.get("report")
    return Samples(
        samples=drawn,
        rewards=answer.outputs.get("rewards"),
        seed=int(said.get("seed", 0)),
        network_rows=int(said.get("network_rows", 0)),
        reward_rows=int(said.get("reward_rows", 0)),
        setup_rows=int(said.get("setup_rows", 0)),
        setup_reward_rows=int(said.get("setup_reward_rows", 0)),
        ess=_number(said.get("ess")),
        log_z=_number(said.get("log_z")),
        solver=str(said.get("solver", "")),
        steering=str(said.get("steering", "")),
        fingerprint=str(said.get("fingerprint", "")),
        warnings=[each for each in str(said.get("warnings", "")).split("; ") if each],
        report=Report.of(report) if isinstance(report, str) else None,
        seconds=answer.seconds,
        model=answer.model,
        version=answer.version,
        id=answer.id,
        parameters=answer.parameters,
        outputs=answer.outputs,
        stages=stages,
        times={name: Time(float(each), int(rows) if rows else None) for name, each, rows in _TIME.findall(times)},
    )


def drawn_of(answer: Inferred) -> Array | None:
    """What was drawn: samples, or a pipeline's pictures; None for neither."""
    return next((answer.outputs[name] for name in ("samples", "images") if name in answer.outputs), None)


def joined(groups: Mapping[int, Inferred], last: Inferred) -> Inferred:
    """The last answer with the outputs of all groups, by the number of their first sample, before its own."""
    parts = [groups[first] for first in sorted(groups)] + [last]
    return replace(last, outputs={name: np.concatenate([each[name] for each in parts]) for name in last.outputs})


def likelihood_of(answer: Inferred) -> Likelihood:
    said = answer.parameters
    return Likelihood(
        answer.outputs["log_likelihood"],
        answer.outputs["standard_error"],
        int(said.get("seed", 0)),
        int(said.get("network_rows", 0)),
        str(said.get("fingerprint", "")),
        answer.seconds,
    )


def no_sampler(model: str, outputs: Mapping[str, object]) -> InvalidArgument:
    return InvalidArgument(
        f"expected a sampler with an output samples, got {model} with {', '.join(outputs) or 'none'}"
    )


def _number(value: Parameter | None) -> float | None:
    return None if value is None else float(value)
