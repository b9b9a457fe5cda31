"""The messages of tiltserve.v1.Distillation: what a client wants a gradient of, and the gradient.

A request is read once, within bounds: what is small becomes settings and the parameters and inputs of a request for
inference, whose conditions, guidance and reward it shares; tensors are views of the message's bytes.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protos.complaint import complaint, shorten, unknown
from protos.tiltserve.v1 import distillation_pb2 as pb
from protos.tiltserve.v1 import tensor_pb2
from serving.wire import errors, kserve
from serving.wire.answer import Answer
from serving.wire.fields import BYTES, fields, tagged, varint
from serving.wire.kserve import InferRequest
from serving.wire.parameters import NEGATIVE, PROMPT, Single
from serving.wire.received import Reading, Received, Sent, entry, named, scalar, tensor
from serving.wire.tensors import SINGLE, Array, Parameter, datatype, viewed

INPUT, WEIGHTS = "input", "negative_weights"
ARGUMENT = "reward_"
"""What the name of a parameter or an input of a request for inference begins with that is an argument of its reward."""
MODES = "sds", "cds", "ism", "reward_sds"
NEEDS_TRAINING = "vsd"
MOST_VIEWS, MOST_MODELS, MOST_NEGATIVES = 4096, 8, 16
REWARDED_NOISES = 4
"""Noises of a view where they are weighed and the request does not say how many."""
TAKEN = (
    "threshold", "rollout_steps", "residual_draws", "refresh", "decode_for_reward", "guidance_low", "guidance_high",
    "guidance_unit", "guidance_drop", "guidance_keep", "deterministic",
)  # fmt: skip
"""Parameters of a request for inference that a gradient takes by its `parameters`."""

_REQUEST = pb.GradientRequest.DESCRIPTOR
_NUMBER = _REQUEST.fields_by_name
_COMMON, _GRADIENT = (pb.SessionRequest.DESCRIPTOR.fields_by_name[name].number for name in ("common", "gradient"))
_ANSWERED = pb.SessionResponse.DESCRIPTOR.fields_by_name["gradient"].number
_BY_INPUT = pb.GradientResponse.DESCRIPTOR.fields_by_name["gradient"].number
_DATA = tensor_pb2.Tensor.DESCRIPTOR.fields_by_name["data"].number

Finite = Annotated[float, Field(allow_inf_nan=False)]
Level = Annotated[Finite, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Schedule(_Strict):
    """The fields of a Schedule that were sent, with their ranges; None for those that were not."""

    preset: Literal["coarse", "coarse_long", "refine", "texture", "texture_long"] | None = None
    c0: Level | None = None
    c1: Level | None = None
    i_end: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    shape: Literal["sqrt", "linear", "uniform"] | None = None
    gap: Level | None = None
    perturb: Level | None = None
    smin: Level | None = None
    smax: Level | None = None
    unit: Literal["step", "t", "rho"] | None = None
    scale: Annotated[Finite, Field(gt=0)] | None = None
    narrowed: bool | None = None
    t1: tuple[Finite, ...] = ()
    t2: tuple[Finite, ...] = ()


class Settings(_Strict):
    """What a request says of its gradient, with ranges and defaults (the wire contract)."""

    mode: Literal["sds", "cds", "ism", "reward_sds"] = "sds"
    iteration: Annotated[int, Field(ge=0, lt=2**31)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    first_view: Annotated[int, Field(ge=0, lt=2**31)] = 0
    schedule: Schedule = Schedule()
    noise: Literal["iteration", "fixed"] | None = None
    weighting: Literal["uniform", "sds", "fantasia3d"] = "uniform"
    guidance: Single | None = None
    convention: Literal["null", "cond"] = "null"
    clip: Annotated[Single, Field(gt=0)] | None = None
    rescale: Annotated[Single, Field(ge=0, le=1)] = 0.0
    noises: Annotated[int, Field(ge=1, le=64)] | None = None
    stride: Annotated[Single, Field(ge=10, le=1000)] = 200.0
    over: Annotated[int, Field(ge=1, lt=2**31)] | None = None

    @property
    def noises_a_view(self) -> int:
        """Noises of a view at an iteration."""
        return self.noises or (REWARDED_NOISES if self.mode == "reward_sds" else 1)

    @property
    def scale(self) -> float:
        """w of null + w (cond - null)."""
        if self.guidance is None:
            return 1.0
        return self.guidance + 1 if self.convention == "cond" else self.guidance

    @property
    def most_inversions(self) -> int:
        """Steps of the inversion of a view, at most."""
        return math.ceil(1000 / self.stride)

    @property
    def fixed_noise(self) -> bool:
        """Whether a view has the same noise in every iteration."""
        return (self.noise or ("fixed" if self.mode == "cds" else "iteration")) == "fixed"


@dataclass(frozen=True)
class Weighted:
    """A model whose gradient is asked for, and its weight in the sum."""

    model: str
    version: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Wanted:
    """A GradientRequest, which need not be valid.

    Attributes:
        request: what is shared with a request for inference; its model is the first.
        models: those whose gradients are added up.
        input: what the gradient is by; None where it was not sent.
        negatives: conditions to be pushed away from; weights: theirs.
        said: the settings as they were sent, by name.
    """

    request: Received
    models: Sequence[Weighted]
    input: Sent | None
    said: Mapping[str, Any]
    negatives: Sequence[Sent] = ()
    weights: Sent | None = None

    @property
    def views(self) -> int:
        """Rows of the input, as it says."""
        shape = () if self.input is None else self.input.shape
        return max(1, shape[0]) if shape else 1

    @property
    def negatives_a_view(self) -> int:
        """Conditions that each view is pushed away from, as the weights say."""
        shape = () if self.weights is None else self.weights.shape
        return min(MOST_NEGATIVES, max(0, shape[1])) if len(shape) == 2 else 0

    def settings(self) -> Settings:
        """The settings.

        Raises:
            RequestError: INVALID_ARGUMENT, naming the field, what was expected and what came; UNIMPLEMENTED for a mode
                that trains.
        """
        mode = self.said.get("mode")
        if mode == NEEDS_TRAINING:
            raise errors.unimplemented(
                f"mode {NEEDS_TRAINING!r}: it trains a second network at every iteration, and engines here only run "
                f"forwards: expected one of {', '.join(MODES)}"
            )
        if mode is not None and mode not in MODES:
            raise errors.invalid(f"mode: expected one of {', '.join(MODES)}, got {shorten(mode)}")
        if "iteration" not in self.said:
            raise errors.invalid("iteration: expected an integer >= 0, which the client counts, got none")
        try:
            return Settings.model_validate(self.said)
        except ValidationError as error:
            raise errors.invalid(complaint(error, Settings)) from None


def read(data: bytes) -> Wanted:
    """A serialised GradientRequest.

    Raises:
        RequestError: INVALID_ARGUMENT for bytes that are no such message, one beyond the bounds, or fields that are not
            known here.
    """
    with Reading(data) as reading:
        conditions, negatives, arguments = dict[str, Sent](), dict[str, Sent](), dict[str, Sent]()
        given = weights = None
        for each in reading.fields(memoryview(data)):
            if each.number not in _REQUEST.fields_by_number:
                raise _unknown(each.number, _REQUEST)
            if each.kind == BYTES and each.number == _NUMBER["input"].number:
                given = tensor(reading, INPUT, each.value)
            elif each.kind == BYTES and each.number == _NUMBER["negative_weights"].number:
                weights = tensor(reading, WEIGHTS, each.value)
            elif each.kind == BYTES and each.number in (_NUMBER["conditions"].number, _NUMBER["negatives"].number):
                sent = entry(reading, each.value)
                (conditions if each.number == _NUMBER["conditions"].number else negatives)[sent.name] = sent
            elif each.kind == BYTES and each.number == _NUMBER["reward_arguments"].number:
                if (vector := _vector(reading, each.value)) is None:
                    reading.keep(each)
                else:
                    arguments[vector.name] = vector
            else:
                reading.keep(each)
        for what, found in (("conditions", conditions), ("negatives", negatives), ("reward_arguments", arguments)):
            reading.count(what, len(found))
        rest = pb.GradientRequest.FromString(reading.kept())
        _check_known(rest)
        models = _models(rest)
        first = models[0]
        inputs = [*conditions.values(), *arguments.values(), *_texts(rest)]
        request = Received(first.model, first.version, rest.id, _parameters(reading, rest), inputs)
        return Wanted(request, models, given, _said(rest), [*negatives.values()], weights)


def with_version(data: bytes, version: str) -> bytes:
    """The serialised GradientRequest `data`, which was read, for one version of its model, of the first of several.

    Serialised messages merge when concatenated; the first of several is written anew.
    """
    pieces: list[bytes | memoryview] = []
    several = False
    for each in fields(memoryview(data)):
        if each.number == _NUMBER["models"].number and not several:
            several = True
            chosen = pb.WeightedModel(version=version).SerializeToString()
            pieces += tagged(each.number, bytes(each.value) + chosen)
        else:
            pieces.append(each.whole)
    return b"".join(pieces) if several else data + pb.GradientRequest(version=version).SerializeToString()


def _vector(reading: Reading, data: memoryview) -> Sent | None:
    """An entry of reward_arguments whose value is a tensor."""
    name, found = "", None
    for outer in reading.fields(data):
        if (outer.number, outer.kind) == (1, BYTES):
            name = named("reward_arguments", str(outer.value, "utf-8"))
        elif (outer.number, outer.kind) == (2, BYTES):
            for each in reading.fields(outer.value):
                found = each.value if (each.number, each.kind) == (5, BYTES) else None
    return None if found is None else tensor(reading, ARGUMENT + name, found)


def _models(rest: pb.GradientRequest) -> Sequence[Weighted]:
    """The models of a request."""
    if not rest.models:
        return [Weighted(named("model", rest.model), named("version", rest.version))]
    if rest.model or rest.version:
        raise errors.invalid("models: expected none beside model and version, got both")
    if len(rest.models) > MOST_MODELS:
        raise errors.invalid(f"models: expected at most {MOST_MODELS}, got {len(rest.models)}")
    found = []
    for each in rest.models:
        weight = each.weight if each.HasField("weight") else 1.0
        if not abs(weight) <= SINGLE:
            raise errors.invalid(f"models: expected weights of a size up to {SINGLE:.3g}, got {weight}")
        found.append(Weighted(named("models", each.model), named("models", each.version), weight))
    return found


def _parameters(reading: Reading, rest: pb.GradientRequest) -> dict[str, Parameter | None]:
    """What a request for inference would say."""
    for what, given in (("parameters", rest.parameters), ("reward_arguments", rest.reward_arguments)):
        reading.count(what, len(given))
    found: dict[str, Parameter | None] = {}
    for name, value in rest.parameters.items():
        if name not in TAKEN:
            raise errors.invalid(unknown("parameter", name, TAKEN))
        found[name] = scalar(name, value)
    for name, value in rest.reward_arguments.items():
        found[ARGUMENT + named("reward_arguments", name)] = scalar(name, value)
    if rest.reward:
        found["reward"] = rest.reward
    if rest.posterior:
        found["posterior"] = rest.posterior
    for name in ("beta", "particles", "priority"):
        if rest.HasField(name):
            found[name] = getattr(rest, name)
    if rest.timeout:
        found["timeout"] = rest.timeout
    return found


def _said(rest: pb.GradientRequest) -> dict[str, Any]:
    """The settings of a request, as far as they were sent."""
    found: dict[str, Any] = {}
    for name in ("mode", "noise", "weighting", "convention"):
        if text := getattr(rest, name):
            found[name] = text
    for name in ("iteration", "guidance", "clip", "rescale", "noises", "stride", "over"):
        if rest.HasField(name):
            found[name] = getattr(rest, name)
    found |= {name: getattr(rest, name) for name in ("seed", "first_view")}
    if rest.HasField("schedule"):
        found["schedule"] = _schedule(rest.schedule)
    return found


def _schedule(sent: pb.Schedule) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(sent, name) for name in ("preset", "shape", "unit") if getattr(sent, name)}
    numbers = ("c0", "c1", "i_end", "gap", "perturb", "smin", "smax", "scale", "narrowed")
    found |= {name: getattr(sent, name) for name in numbers if sent.HasField(name)}
    return found | {name: tuple(getattr(sent, name)) for name in ("t1", "t2") if len(getattr(sent, name))}


def _texts(rest: pb.GradientRequest) -> list[Sent]:
    """The prompts as inputs of a request for inference: BYTES, each after its length."""
    found = []
    for name, texts in ((PROMPT, rest.prompt), (NEGATIVE, rest.negative_prompt)):
        if len(texts) > MOST_VIEWS:
            raise errors.invalid(f"{name}: expected at most {MOST_VIEWS}, got {len(texts)}")
        if texts:
            encoded = [text.encode() for text in texts]
            raw = b"".join(struct.pack("<I", len(each)) + each for each in encoded)
            found.append(Sent(name, "BYTES", (len(texts),), memoryview(raw)))
    return found


def _check_known(rest: pb.GradientRequest) -> None:
    """Refuse fields that this server does not know: what they ask for would be left out without a word."""
    for message in (rest.schedule, *rest.models):
        if len(found := UnknownFieldSet(message)):
            raise _unknown(found[0].field_number, message.DESCRIPTOR)


def _unknown(number: int, message: Any) -> errors.RequestError:
    known = ", ".join(str(each.number) for each in message.fields)
    return errors.invalid(f"{message.name}: unknown field {number}, expected one of {known}")


class Session:
    """One stream of a client: what its gradients have in common."""

    def __init__(self) -> None:
        self._common = b""

    def request(self, message: bytes) -> Sequence[bytes | memoryview]:
        """The pieces of a GradientRequest in a SessionRequest, to be joined; none where it says what is common.

        Raises:
            RequestError: INVALID_ARGUMENT for a message that is none.
        """
        found = None
        with Reading(message) as reading:
            for each in reading.fields(memoryview(message)):
                if each.kind != BYTES or each.number not in (_COMMON, _GRADIENT) or found is not None:
                    raise errors.invalid("expected one of common and gradient, got something else")
                found = each
        if found is None:
            raise errors.invalid("expected common or gradient, got neither")
        if found.number == _COMMON:
            self._common = bytes(found.value)
            return ()
        return (self._common, found.value)


def answered(reply: bytes) -> bytes:
    """A serialised GradientResponse as a serialised SessionResponse."""
    return b"".join(tagged(_ANSWERED, reply))


def failed(error: errors.RequestError, request_id: str) -> bytes:
    """The response to a request of a session that failed, a serialised SessionResponse."""
    number: int = error.code.value[0]
    return pb.SessionResponse(error=pb.Failure(code=number, message=error.detail, id=request_id)).SerializeToString()


@dataclass(frozen=True)
class Tensors:
    """The tensors of a request that are no inputs of one for inference.

    Attributes:
        input: [views, *event], of FP32 or FP16.
        negatives: by name, [views, K, ...] or [1, K, ...].
        weights: FP32 [views, K] or [1, K]; None where there are none.
    """

    input: Array
    negatives: Mapping[str, Array]
    weights: Array | None


def decoded(wanted: Wanted) -> tuple[InferRequest, Tensors]:
    """What is shared with a request for inference, and the other tensors.

    Raises:
        RequestError: INVALID_ARGUMENT as of `kserve.decode_request`; for tensors that are missing, or of another type.
    """
    sent = wanted.input
    if sent is None:
        raise errors.invalid("input: expected FP32 or FP16 [views, *event], got none")
    if sent.datatype not in ("FP32", "FP16") or len(sent.shape) < 2 or not 1 <= sent.shape[0] <= MOST_VIEWS:
        raise errors.invalid(f"input: expected FP32 or FP16 [1..{MOST_VIEWS} views, *event], got {_came(sent)}")
    weights = wanted.weights
    if (weights is None) != (not wanted.negatives):
        lacking = "negative_weights" if weights is None else "negatives"
        raise errors.invalid(f"{lacking}: expected some, since negatives come with weights, got none")
    if weights is not None:
        _check_weights(wanted, weights)
    request = kserve.decode_request(wanted.request)
    alone = [sent] if weights is None else [sent, weights]
    found = kserve.decode_request(Received("", inputs=alone)).inputs
    negatives = kserve.decode_request(Received("", inputs=wanted.negatives)).inputs
    return request, Tensors(found[INPUT], negatives, found.get(WEIGHTS))


def _check_weights(wanted: Wanted, weights: Sent) -> None:
    """Refuse weights and negatives that do not fit each other or the views."""
    views = wanted.views
    if weights.datatype != "FP32" or len(weights.shape) != 2 or weights.shape[0] not in (1, views):
        raise errors.invalid(f"{WEIGHTS}: expected FP32 [{views}, K] or [1, K], got {_came(weights)}")
    if not 1 <= weights.shape[1] <= MOST_NEGATIVES:
        raise errors.invalid(f"{WEIGHTS}: expected 1..{MOST_NEGATIVES} of a view, got {weights.shape[1]}")
    for each in wanted.negatives:
        if len(each.shape) < 2 or each.shape[0] not in (1, views) or each.shape[1] != weights.shape[1]:
            k = weights.shape[1]
            raise errors.invalid(
                f"negative {each.name!r}: expected [{views}, {k}, ...] or [1, {k}, ...], got {_came(each)}"
            )


def _came(sent: Sent) -> str:
    return f"{shorten(sent.datatype)[1:-1]} {list(sent.shape)}"


def evaluations(settings: Settings, views: int, inversions: int | None = None) -> int:
    """Estimates that a gradient of one model is made of, each guided and steered, at most.

    Args:
        inversions: steps of the inversions of all views, where they are known.
    """
    if settings.mode == "ism":
        return (views * settings.most_inversions if inversions is None else inversions) + 2 * views
    return views * settings.noises_a_view * (2 if settings.mode == "cds" else 1)


def rows(
    settings: Settings,
    views: int,
    *,
    null_rows: bool = True,
    negatives: int = 0,
    rollout_rows: int = 0,
    inversions: int | None = None,
) -> int:
    """Network rows of a gradient of one model, at most; what its reward's setup takes aside.

    They are exact but where guidance acts in an interval alone, and for the steps of an inversion, of which a front
    knows the most.

    Args:
        null_rows: whether guidance asks for rows without conditions.
        negatives: conditions of a view to be pushed away from.
        rollout_rows: of the candidates of an estimate, where steering looks ahead by roll-outs.
        inversions: as of `evaluations`.
    """
    doubled = settings.scale != 1 and null_rows
    guided, count = 2 + negatives if doubled else 1, evaluations(settings, views, inversions)
    alone = count - views if settings.mode == "ism" else 0  # of an inversion, which is not guided
    return alone * (1 + rollout_rows) + (count - alone) * (guided + rollout_rows * (2 if doubled else 1))


@dataclass(frozen=True)
class Part:
    """The gradient of one model: its [views] of losses, and of times, the noisier first, with their sigma / alpha."""

    model: str
    version: str
    fingerprint: str
    loss: Sequence[float]
    t1: Sequence[float]
    t2: Sequence[float]
    rho1: Sequence[float]
    rho2: Sequence[float]


@dataclass(frozen=True)
class Distilled(Answer):
    """A gradient as the output of that name, its norm and counts as parameters; what else the answer says.

    Attributes:
        loss: [views], of all models.
        parts: of each model.
    """

    loss: Sequence[float] = ()
    parts: Sequence[Part] = ()
    warnings: Sequence[str] = ()


def encoded(answer: Distilled, request_id: str) -> bytes:
    """A serialised GradientResponse, for which the gradient's numbers are copied once."""
    gradient, first, told = answer.outputs["gradient"], answer.parts[0], answer.parameters
    response = pb.GradientResponse(
        model=first.model,
        version=first.version,
        id=request_id,
        loss=answer.loss,
        t1=first.t1, t2=first.t2, rho1=first.rho1, rho2=first.rho2,
        gradient_norm=float(told["gradient_norm"]),
        nonfinite=int(told["nonfinite"]),
        network_rows=int(told["network_rows"]),
        reward_rows=int(told["reward_rows"]),
        setup_rows=int(told["setup_rows"]),
        setup_reward_rows=int(told["setup_reward_rows"]),
        ess=float(told["ess"]) if "ess" in told else None,
        fingerprint=str(told["fingerprint"]),
        warnings=answer.warnings,
        models=[
            pb.ModelPart(
                model=each.model, version=each.version, fingerprint=each.fingerprint, loss=each.loss,
                t1=each.t1, t2=each.t2, rho1=each.rho1, rho2=each.rho2,
            )
            for each in (answer.parts if len(answer.parts) > 1 else ())
        ],
    )  # fmt: skip
    head = tensor_pb2.Tensor(datatype=datatype(gradient.dtype), shape=gradient.shape).SerializeToString()
    numbers = tagged(_DATA, viewed(gradient))
    length = len(head) + sum(map(len, numbers))
    tag = varint(_BY_INPUT << 3 | BYTES)
    return b"".join([response.SerializeToString(), tag, varint(length), head, *numbers])
