"""The model card, `card.yaml`: what a network is, so that it can be sampled without a line of code."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from protos.complaint import complaint, read_text, shorten
from protos.dynamics import Dynamics
from protos.pipeline import Pipeline
from protos.strict import Strict

Prediction = Literal["eps", "x0", "v", "velocity", "score"]
Preconditioning = Literal["none", "edm"]
LocalPosterior = Literal["gaussian", "mixture", "neighbours"]
End = Literal["denoise", "t_min"]
_WITH = {"path": "a path", "pipeline": "a pipeline", "dynamics": "dynamics"}
_OF_SAMPLERS = ("end", "output_scale", "learned_variance", "clip", "dynamic_threshold")


LONGEST = 1024
"""The most that a free length of a condition may be, where the card does not say."""


class CardError(ValueError):
    """A card that cannot be used; the text is one line: file, key, what was expected, what came."""


class Inputs(Strict):
    """Names of the graph's inputs, and what its time input is fed: a formula of the path time t, such as `1000*t`,
    `1-t`, `sigma` or `log(rho)/4` (`steering.paths.time_input` reads it)."""

    x: str = "x"
    t: str = "t"
    time: str = "t"


class Range(Strict):
    """What an input may be, ends included; None is no bound."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"expected min <= max, got {self.min:g} and {self.max:g}")
        return self

    def fault(self, values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> str:
        """What was expected and what came, empty where all values are inside."""
        flat = np.atleast_1d(values).reshape(-1)
        outside = np.zeros(flat.shape, np.bool_)
        if self.min is not None:
            outside |= flat < self.min
        if self.max is not None:
            outside |= flat > self.max
        wrong = flat[outside]
        wrong = wrong[~self._allowed(wrong)]
        if not len(wrong):
            return ""
        low, high = ("" if bound is None else f"{bound:.15g}" for bound in (self.min, self.max))
        came = str(wrong[0]) if wrong.dtype.kind in "iu" else f"{wrong[0]:.15g}"
        return f"expected {low}..{high}, got {came}"

    def _allowed(self, values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> "np.ndarray[Any, Any]":
        """Values [n] that are allowed although they are outside."""
        return np.zeros(values.shape, np.bool_)


class Condition(Range):
    """One conditioning input. What is outside `min`..`max` is refused, unless it is a number of `null`.

    Attributes:
        shape: per row; -1 is a free length, such as that of a prompt.
        longest: the most that a free length may be; LONGEST where it is left out.
        null: the value that means "unconditional": a number, or nested lists of the shape. None: there is none, unless
            a request brings one.
        pad: the value that fills free lengths up to `longest`, for graphs that take only that, or whose rows are to
            share calls. None: rows go in as long as they come.
        mask: the graph's input [n, longest] that is told which places are not filled up.
        guidance: whether the null rows of classifier-free guidance "drop" the condition or "keep" it, where a request
            does not say; "drop" if it is left out.
    """

    dtype: Literal["int64", "float32", "float64", "bool"]
    shape: tuple[int, ...] = ()
    longest: int | None = Field(default=None, ge=1)
    null: Any = None
    pad: float | None = None
    mask: str | None = None
    guidance: Literal["drop", "keep"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _named_null(cls, content: Any) -> Any:
        """YAML reads the bare key `null` as None; it is the name here."""
        return (
            {"null" if key is None else key: value for key, value in content.items()}
            if isinstance(content, dict)
            else content
        )

    @property
    def free(self) -> bool:
        """Whether it has a free length."""
        return -1 in self.shape

    @property
    def most(self) -> int:
        """The most that a free length may be."""
        return LONGEST if self.longest is None else self.longest

    @property
    def kept(self) -> bool:
        """Whether null rows have the condition too."""
        return self.guidance == "keep"

    @property
    def fed(self) -> tuple[int, ...]:
        """The shape of a row as the graph gets it; -1 for lengths that remain free."""
        return self.shape if self.pad is None else tuple(self.most if axis == -1 else axis for axis in self.shape)

    def fits(self, row: tuple[int, ...]) -> bool:
        """Whether a row may have this shape."""
        return len(row) == len(self.shape) and all(
            1 <= length <= self.most if axis == -1 else length == axis
            for axis, length in zip(self.shape, row, strict=True)
        )

    def null_like(self, row: tuple[int, ...]) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None":
        """The null value as an array [1, *row], with lengths of its own where it has some; None where there is none."""
        if self.null is None:
            return None
        value = np.asarray(self.null, self.dtype)
        return np.broadcast_to(value, _lengths(self.shape, row, value.shape))[None].copy()

    @property
    def null_rows(self) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None":
        """The null value as an array [1, *shape], of length 1 where nothing says another; None where there is none."""
        return self.null_like(self._short)

    @property
    def _short(self) -> tuple[int, ...]:
        """The shape of its shortest row."""
        return tuple(1 if axis == -1 else axis for axis in self.shape)

    @field_validator("shape")
    @classmethod
    def _axes(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if any(axis < 1 and axis != -1 for axis in shape):
            raise ValueError(f"expected axes >= 1, or -1 for a free length, got {list(shape)}")
        return shape

    @field_validator("null")
    @classmethod
    def _numbers(cls, null: Any) -> Any:
        if null is not None and not _numeric(null):
            raise ValueError(f"expected a number, a nested list of numbers or nothing, got {shorten(null)}")
        return null

    @model_validator(mode="after")
    def _null_fits(self) -> Self:
        if self.null is not None:
            try:
                given = np.asarray(self.null)
                value = np.broadcast_to(given, _lengths(self.shape, self._short, given.shape))
            except ValueError:  # lists of unequal length, or another shape
                raise ValueError(f"null: expected shape {list(self.shape)}, got {shorten(self.null)}") from None
            if self.dtype == "int64" and value.dtype.kind == "f":
                raise ValueError(f"null: expected whole numbers for int64, got {shorten(self.null)}")
            if self.dtype == "bool" and not np.isin(value, (0, 1)).all():
                raise ValueError(f"null: expected true, false, 0 or 1 for bool, got {shorten(self.null)}")
            if not self.fits(value.shape):
                raise ValueError(f"null: expected free lengths of 1..{self.most}, got {list(value.shape)}")
        return self

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.dtype == "bool" and (self.min is not None or self.max is not None):
            raise ValueError("min, max: expected none for bool, got some")
        return self

    @model_validator(mode="after")
    def _padding_fits(self) -> Self:
        if self.longest is not None and not self.free:
            raise ValueError("longest: expected a free length (-1) in shape beside it, got none")
        if self.pad is not None and not self.free:
            raise ValueError("pad: expected a free length (-1) in shape beside it, got none")
        if self.pad is not None and self.dtype == "int64" and self.pad % 1:
            raise ValueError(f"pad: expected a whole number for int64, got {self.pad:g}")
        if self.pad not in (None, 0, 1) and self.dtype == "bool":
            raise ValueError(f"pad: expected true, false, 0 or 1 for bool, got {self.pad:g}")
        if self.mask is not None and (self.pad is None or self.shape.count(-1) != 1):
            raise ValueError("mask: expected a pad and one free length (-1) in shape beside it, got others")
        return self

    def _allowed(self, values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> "np.ndarray[Any, Any]":
        return super()._allowed(values) if self.null is None else np.isin(values, np.asarray(self.null, self.dtype))


def _lengths(shape: tuple[int, ...], row: tuple[int, ...], given: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` with its free lengths as in `given`, whose axes are the last of it, and where it has none as in `row`."""
    whole = (*row[: max(0, len(shape) - len(given))], *given)
    return tuple(length if axis == -1 else axis for axis, length in zip(shape, whole[-len(shape) :], strict=True))


class DynamicThreshold(Strict):
    """Dynamic thresholding of the denoised estimate, see `steering.limits.DynamicThreshold`."""

    quantile: float = Field(default=0.995, gt=0, le=1)
    bound: float = Field(default=1.0, gt=0)
    most: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.most is not None and self.most < self.bound:
            raise ValueError(f"expected most >= bound {self.bound:g}, got {self.most:g}")
        return self


class Sample(Strict):
    """How a plain network that scores samples takes one, in this order: numbers of `range` become numbers of `to`, then
    `resize`, then `channels`, then `(x - mean) / std` of each channel, then `layout`, and last the input's own type
    (whole numbers are rounded, and kept within `to`).

    Attributes:
        input: the input that takes the sample; None for `x`, or the first that fits.
        range: two numbers of a sample, such as the ends [-1, 1] of its range; `to`: what they become, such as [0, 255].
        resize: height and width that the network wants.
        filter: how it is resized, with antialiasing where the image gets smaller.
        channels: how many there shall be; the one of a grey image is repeated.
        layout: of the network's input. Samples are [channels, height, width].
        mean, std: one number, or one for each channel.
    """

    input: str | None = None
    range: tuple[float, float] | None = None
    to: tuple[float, float] | None = None
    resize: tuple[int, int] | None = None
    filter: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    channels: int | None = Field(default=None, ge=1)
    layout: Literal["CHW", "HWC", "HW", "flat"] = "CHW"
    mean: float | list[float] | None = None
    std: float | list[float] | None = None

    @field_validator("resize")
    @classmethod
    def _axes(cls, shape: tuple[int, int] | None) -> tuple[int, int] | None:
        if shape is not None:
            _positive(shape)
        return shape

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.range is None) != (self.to is None):
            raise ValueError("expected range and to together, got one of them")
        for name, ends in (("range", self.range), ("to", self.to)):
            if ends is not None and not ends[0] < ends[1]:
                raise ValueError(f"{name}: expected [low, high] with low < high, got {list(ends)}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("expected mean and std together, got one of them")
        if self.std is not None and min(self.std if isinstance(self.std, list) else [self.std], default=0) <= 0:
            raise ValueError(f"std: expected numbers > 0, got {self.std}")
        if isinstance(self.mean, list) != isinstance(self.std, list) or (
            isinstance(self.mean, list) and isinstance(self.std, list) and len(self.mean) != len(self.std)
        ):
            raise ValueError(f"expected as many numbers in mean as in std, got {self.mean} and {self.std}")
        return self


class Vjp(Strict):
    """The vector-Jacobian graph `vjp.onnx` in the version's folder, for methods that steer by gradients. It takes the
    network's inputs and a cotangent, and gives the output and its gradient.

    Attributes:
        of, to: the output that is differentiated, and the input in which.
        cotangent: the graph's input shaped like the output; gradient: its output shaped like the input, J^T cotangent.
    """

    of: str = "output"
    to: str = "x"
    cotangent: str = "cotangent"
    gradient: str = "gradient"


class Calibration(Strict):
    """The denoiser's error: `mse[i]` is the mean over dimensions of E|x_0 - D(x_t)|^2 at time t[i], t ascending."""

    t: list[float]
    mse: list[float]

    @model_validator(mode="after")
    def _curve(self) -> Self:
        if len(self.t) != len(self.mse):
            raise ValueError(f"expected as many mse as t, got {len(self.mse)} mse and {len(self.t)} t")
        if not self.t:
            raise ValueError("expected at least one point, got none")
        if any(a >= b for a, b in zip(self.t, self.t[1:], strict=False)):
            raise ValueError("expected ascending t, got them out of order")
        if min(self.mse) < 0:
            raise ValueError(f"expected mse >= 0, got {min(self.mse)}")
        return self


class Defaults(Strict):
    """What a request for samples gets where it does not say.

    Attributes:
        options: of the solver, which a request that names a solver does not get.
    """

    solver: str | None = None
    steps: int | None = Field(default=None, ge=1, le=1000)
    grid: str | None = None
    guidance: float | None = None
    guidance_rescale: float | None = Field(default=None, ge=0, le=1)
    options: dict[str, float] | None = None


class Card(Strict):
    """A model card. With a `path` the model is a sampler; with `dynamics` its graph is part of a differential equation
    or a map, which requests solve; with a `pipeline` it names the models that make pictures of prompts together; with
    none of them it is a plain network (a classifier, a critic).

    path: the name of a path under `kind`, the other keys are its constructor's arguments.
    t_range: path times that may be asked of the network. event_shape: the shape of one sample, without the batch axis.
    end: what samples are, unless a request says: "denoise", the last denoised estimate, or "t_min", the state there
        with its noise. None means "denoise" on discrete paths, and on those whose sigma is 0 at their end.
        A request's explicit grid ends at its last node whatever the card says.
    posterior: the local posterior of steering; None means the one that fits the bank, see `posteriors.automatic`.
    arguments: ranges of a plain network's inputs by name; what is outside is refused before the graph sees it. (ONNX
        counts negative indices from the end, so that a label of -1 would be taken for the last one.)
    output_scale: what the output is multiplied by before it is the prediction: -1 for a velocity toward the data.
    learned_variance: the output has one axis twice as long as a sample's; its second half, a variance, is left out.
    clip: bounds of the denoised estimate, [low, high]; one number for [-number, number].
    dynamic_threshold: instead of `clip`.
    sample: how a plain network takes a sample when it is used as a reward.
    score_output: which output is the reward.
    prompt: of a reward that takes a text as tokens: which of its inputs is which input of a pipeline's text network.
    defaults: of a sampler or a pipeline; a pipeline's are asked first.
    vjp: None where the network has no vector-Jacobian graph.
    rows: of a plain network, the usual shapes of rows of those inputs and outputs whose lengths are free in its graph,
        by name: it is tried, measured and served at them. Pipelines ask other ones too, see `Pipeline.resolution`.
    """

    format: Literal[1] = 1
    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    path: dict[str, Any] | None = None
    prediction: Prediction | None = None
    preconditioning: Preconditioning = "none"
    sigma_data: float = Field(default=0.5, gt=0)
    t_range: tuple[float, float] | None = None
    event_shape: tuple[int, ...] = ()
    inputs: Inputs = Inputs()
    output: str = "output"
    conditions: dict[str, Condition] = Field(default={})
    calibration: Calibration | None = None
    end: End | None = None
    posterior: LocalPosterior | None = None
    arguments: dict[str, Range] = Field(default={})
    output_scale: float | None = None
    learned_variance: bool | None = None
    clip: tuple[float, float] | None = None
    dynamic_threshold: DynamicThreshold | None = None
    sample: Sample | None = None
    score_output: str | None = None
    prompt: dict[str, str] | None = None
    pipeline: Pipeline | None = None
    dynamics: Dynamics | None = None
    defaults: Defaults | None = None
    vjp: Vjp | None = None
    rows: dict[str, tuple[int, ...]] | None = None

    @property
    def limit(self) -> dict[str, Any]:
        """What bounds the denoised estimate, as arguments of `steering.limits.build`."""
        threshold = self.dynamic_threshold
        return {"clip": self.clip, "dynamic_threshold": None if threshold is None else threshold.model_dump()}

    def doubled_axis(self, row: Sequence[int | None]) -> int | None:
        """The axis along which an output's row is twice as long as a sample, all other axes being equal; None if there
        is no such axis. In a row None is any length."""
        event = self.event_shape
        for axis, length in enumerate(event):
            twice = (*event[:axis], 2 * length, *event[axis + 1 :])
            if len(row) == len(twice) and all(a in (None, b) for a, b in zip(row, twice, strict=True)):
                return axis
        return None

    @property
    def is_sampler(self) -> bool:
        """Whether samples can be drawn from it (it has a path), rather than only its network evaluated."""
        return self.path is not None

    @property
    def is_pipeline(self) -> bool:
        """Whether it has no graph of its own, and names the models that it is made of."""
        return self.pipeline is not None

    @property
    def is_dynamics(self) -> bool:
        """Whether its graph is part of dynamics, whose trajectories can be asked for."""
        return self.dynamics is not None

    @property
    def is_plain(self) -> bool:
        """Whether it is a network that is evaluated as it is."""
        return not (self.is_sampler or self.is_pipeline or self.is_dynamics)

    @field_validator("name")
    @classmethod
    def _not_taken(cls, name: str) -> str:
        if name.endswith(".network"):
            raise ValueError(
                f"expected a name that does not end in .network (a sampler's raw network is served so), got {name!r}"
            )
        return name

    @field_validator("path")
    @classmethod
    def _path(cls, path: dict[str, Any] | None) -> dict[str, Any] | None:
        if path is None:
            return None
        if not isinstance(path.get("kind"), str):
            raise ValueError(f"expected the key 'kind' with the name of a path, got {shorten(path)}")
        return {key: value if key == "kind" else _argument(key, value) for key, value in path.items()}

    @field_validator("t_range")
    @classmethod
    def _ordered(cls, t_range: tuple[float, float] | None) -> tuple[float, float] | None:
        if t_range is not None and not 0 <= t_range[0] < t_range[1]:
            raise ValueError(f"expected [low, high] with 0 <= low < high, got {list(t_range)}")
        return t_range

    @field_validator("event_shape")
    @classmethod
    def _axes(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        return _positive(shape)

    @field_validator("rows")
    @classmethod
    def _shapes(cls, rows: dict[str, tuple[int, ...]] | None) -> dict[str, tuple[int, ...]] | None:
        return None if rows is None else {name: _positive(row) for name, row in rows.items()}

    @field_validator("output_scale")
    @classmethod
    def _not_0(cls, scale: float | None) -> float | None:
        if scale == 0:
            raise ValueError("expected a number other than 0, got 0")
        return scale

    @field_validator("clip", mode="before")
    @classmethod
    def _both_ends(cls, clip: Any) -> Any:
        return (-clip, clip) if isinstance(clip, int | float) and not isinstance(clip, bool) else clip

    @field_validator("clip")
    @classmethod
    def _bounds(cls, clip: tuple[float, float] | None) -> tuple[float, float] | None:
        if clip is not None and not clip[0] < clip[1]:
            raise ValueError(f"expected a number > 0 or [low, high] with low < high, got {list(clip)}")
        return clip

    @model_validator(mode="after")
    def _complete(self) -> Self:
        kinds = [key for key in ("path", "pipeline", "dynamics") if getattr(self, key) is not None]
        if len(kinds) > 1:
            raise ValueError(f"{kinds[1]}: expected none beside {_WITH[kinds[0]]}, got one")
        if self.dynamics is not None:
            self._check_dynamics(self.dynamics)
        if self.is_sampler:
            if self.prediction is None:
                raise ValueError("prediction: expected one of eps, x0, v, velocity, score beside a path, got none")
            if not self.event_shape:
                raise ValueError("event_shape: expected the shape of one sample beside a path, got none")
            for key in ("arguments", "sample", "score_output", "prompt", "rows"):
                if getattr(self, key):
                    raise ValueError(f"{key}: expected none beside a path, got some")
            if self.clip is not None and self.dynamic_threshold is not None:
                raise ValueError("dynamic_threshold: expected none beside clip, got one")
            if self.vjp is not None and (self.vjp.of, self.vjp.to) != (self.output, self.inputs.x):
                raise ValueError(
                    f"vjp: expected the output {self.output!r} in {self.inputs.x!r}, got {self.vjp.of!r} in "
                    f"{self.vjp.to!r}"
                )
        else:
            if self.rows is not None and self.is_pipeline:
                raise ValueError("rows: expected none beside a pipeline, whose parts have their own, got some")
            if self.vjp is not None and self.is_pipeline:
                raise ValueError("vjp: expected none beside a pipeline, whose parts have their own, got one")
            if self.defaults is not None and not self.is_pipeline:
                raise ValueError("defaults: expected none without a path or a pipeline, got some")
            for key in ("prediction", "t_range", "calibration", *_OF_SAMPLERS):
                if getattr(self, key) is not None:
                    raise ValueError(f"path: expected one beside {key}, got none")
        return self

    def _check_dynamics(self, dynamics: Dynamics) -> None:
        for key in ("event_shape", "inputs", "output", "arguments", "sample", "score_output", "vjp"):
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: expected none beside dynamics, got one")
        for name, each in self.conditions.items():
            if each.pad is not None or each.mask is not None:
                raise ValueError(f"conditions.{name}: expected no pad and no mask beside dynamics, got some")
        for role, name in dynamics.fed.items():
            if name in self.conditions:
                raise ValueError(f"dynamics.inputs.{role}: expected an input that is no condition, got {name!r}")


def ranged(card: Card, found: Mapping[str, tuple[int, int]]) -> Card:
    """The card with the ranges that were found for its inputs, by name; its own ranges stay."""
    if card.is_sampler or card.is_dynamics:
        conditions = {
            name: each.model_copy(update=dict(zip(("min", "max"), found[name], strict=True)))
            if name in found and each.dtype == "int64" and each.min is None and each.max is None
            else each
            for name, each in card.conditions.items()
        }
        return card.model_copy(update={"conditions": conditions})
    arguments = {name: Range(min=low, max=high) for name, (low, high) in found.items()}
    return card.model_copy(update={"arguments": arguments | card.arguments})


def load_card(file: Path) -> Card:
    """Read and check a card; `CardError` names the file, the key, what was expected and what came."""
    text = read_text(file, "a model card", CardError)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CardError(f"{file}: expected YAML, got {_yaml_fault(error)}") from None
    if not isinstance(content, dict):
        raise CardError(f"{file}: expected keys and values, got {shorten(content)}")
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        raise CardError(f"{file}: {complaint(error, Card)}") from None


def dump_text(card: Card) -> str:
    """A card as YAML; what is None is left out."""
    content = card.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


def dump_card(card: Card, file: Path) -> None:
    """Write a card so that `load_card` gives an equal one."""
    file.write_text(dump_text(card), encoding="utf-8")


def _positive(shape: tuple[int, ...]) -> tuple[int, ...]:
    if any(axis < 1 for axis in shape):
        raise ValueError(f"expected axes >= 1, got {list(shape)}")
    return shape


def _numeric(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_numeric, value))
    return isinstance(value, int | float) and math.isfinite(value)


def _argument(key: str, value: Any) -> Any:
    """A path's argument; YAML 1.1 reads 1e-3 (no dot) as a string, which is meant as a number."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if not _numeric(value):
        raise ValueError(f"expected a finite number for {key!r}, got {shorten(value)}")
    return value


def _yaml_fault(error: yaml.YAMLError) -> str:
    """PyYAML's many lines as one."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split())
