"""Everything a client does, step by step: requests are made and answers read here, and nothing is sent."""

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from protos.tiltserve.v1 import fleet_pb2, sampling_pb2
from tiltserve import errors, names, pictures, steps, tensors
from tiltserve.answers import (
    Group,
    Inferred,
    Likelihood,
    Pair,
    Preview,
    Samples,
    drawn_of,
    joined,
    likelihood_of,
    samples_of,
)
from tiltserve.errors import InvalidArgument, NotFound, Unavailable
from tiltserve.listings import Fleet, Metadata, Statistics, fleet_of, metadata_of, statistics_of
from tiltserve.names import CLIENT, PREFIX
from tiltserve.steps import Emit, Open, Operation, Patience, Receive, Score, Send, Sleep
from tiltserve.tensors import Array, Parameter

AS_STATUS = ("triton_grpc_error", "true")
"""Metadata of a stream whose first error is to be its status: each of our streams has one request."""


FINAL = "triton_final_response"
TIMING, TIMES = ("tiltserve-timing", "trailing"), "server-timing"
"""Metadata that ask for times, and the name of those that tell them."""


@dataclass
class Memory:
    """What a client remembers of models between calls: None for a name that is no model's."""

    models: dict[tuple[str, str], Metadata | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """A request for samples in the caller's words.

    Attributes:
        keywords: whatever else was given by name; `names` says what each of them is.
        latents: whether a pipeline is to send its latents too.
    """

    model: str
    n: int | None
    version: str
    id: str
    reward: str | None
    conditions: Mapping[str, Any]
    reward_args: Mapping[str, Any]
    parameters: Mapping[str, Any]
    keywords: Mapping[str, Any]
    latents: bool = False

    @classmethod
    def of(
        cls,
        model: str,
        n: int | None,
        reward: str | None,
        conditions: Mapping[str, Any] | None,
        reward_args: Mapping[str, Any] | None,
        parameters: Mapping[str, Any] | None,
        version: str,
        request_id: str,
        keywords: Mapping[str, Any],
    ) -> "tuple[Wanted, dict[str, Parameter]]":
        """What is asked for, and how it is to be previewed."""
        previews = {
            name: tensors.scalar(name, each)
            for name, each in keywords.items()
            if name in names.STREAMED and each is not None
        }
        others = {name: each for name, each in keywords.items() if name not in names.STREAMED}
        latents = others.pop(names.LATENTS, None)
        if not isinstance(latents, bool | None):
            got = type(latents).__name__
            raise InvalidArgument(f"latents: expected True or False, got {got}; what sampling begins with is x_init")
        return cls(
            model, n, version, request_id, reward, conditions or {}, reward_args or {}, parameters or {}, others,
            latents or False,
        ), previews  # fmt: skip


@dataclass(frozen=True)
class Request:
    """The same in the server's words."""

    model: str
    version: str
    id: str
    parameters: dict[str, Parameter]
    inputs: dict[str, Array]
    outputs: tuple[str, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Of keywords that went out as parameters for want of better: what to say if the server knows no such parameter."""

    def explained(self, error: InvalidArgument) -> InvalidArgument:
        """The server's error, or a better one of a keyword that is nothing."""
        for name, said in self.unknown.items():
            if error.message.startswith(f"unknown parameter {name!r}") and "did you mean" not in error.message:
                return InvalidArgument(said)
        return error

    def message(self, **more: Parameter) -> pb.ModelInferRequest:
        parameters = {**self.parameters, **more}
        return tensors.infer_request(self.model, self.version, self.id, parameters, self.inputs, self.outputs)


def sample(memory: Memory, patience: Patience, wanted: Wanted, *, timing: bool = False) -> Operation[Samples]:
    """Draw samples by ModelInfer, with `timing` also asking where the time goes."""
    request = yield from _request(memory, patience, wanted)
    try:
        answer, trailing = yield from _told(memory, patience, request.message(), [TIMING] if timing else [])
    except InvalidArgument as error:
        raise request.explained(error) from None
    return samples_of(answer, times=str(dict(trailing).get(TIMES, "")))


def stream(
    memory: Memory, patience: Patience, wanted: Wanted, previews: Mapping[str, Parameter], *, small: bool = False
) -> Operation[Samples]:
    """Draw samples by ModelStreamInfer; each `Preview`, `Pair` and `Group` is emitted.

    A stream that breaks is begun again: the seed is fixed, so what comes is the same, and what was emitted is passed
    over.

    Args:
        small: nobody looks at the estimates.
    """
    request = yield from _request(memory, patience, wanted)
    if not previews.get("trajectory"):
        previews = {"preview_every": 1, **previews, **({"preview_dtype": "none"} if small else {})}
    message, emitted, stages = request.message(**previews), (0, 0.0), 0
    groups: dict[int, Inferred] = {}
    while True:
        try:
            yield Open(steps.STREAM, message, patience.left, [AS_STATUS])
            while (reply := (yield Receive())) is not None:
                if reply.error_message:
                    raise errors.in_band(reply.error_message)
                answer = answered(reply.infer_response, patience)
                said = answer.parameters
                if said.get(FINAL, True):
                    return samples_of(joined(groups, answer) if groups else answer, stages)
                first, stage = int(said.get("first", 0)), float(said.get("stage", said.get("pair", math.inf)))
                if (first, stage) <= emitted:
                    continue
                emitted, stages = (first, stage), int(said.get("stages", said.get("pairs", stages)))
                if (drawn := drawn_of(answer)) is not None:
                    groups[first] = answer
                    yield Emit(Group(drawn, answer.outputs.get("rewards"), first, stages))
                elif "pair" in said:
                    yield Emit(_pair(answer))
                else:
                    yield Emit(_preview(answer))
            raise errors.Internal("the stream ended before the samples came")
        except InvalidArgument as error:
            raise request.explained(error) from None
        except Unavailable as error:
            pause = patience.pause(error)
        yield Sleep(pause)


def drawing(
    memory: Memory,
    patience: Patience,
    wanted: Wanted,
    previews: Mapping[str, Any],
    *,
    score: object,
    watched: object,
    shown: bool,
    timing: bool,
) -> Operation[Samples] | None:
    """How samples that are waited for are drawn: `interact` or `sample`; None where they are to be watched on the way.

    Args:
        score: the caller's function for candidates, None for none. watched: the one for previews.
        shown: whether a progress bar is.

    Raises:
        InvalidArgument: what does not go together.
    """
    if score is not None:
        if not callable(score):
            raise InvalidArgument(f"score: expected a function of candidates, got {type(score).__name__}")
        if previews or watched is not None:
            raise InvalidArgument("score: expected no previews beside it, got some")
        if wanted.latents:
            raise InvalidArgument("latents: expected none beside score, whose answers have pictures alone, got one")
        return interact(memory, patience, wanted)
    if shown or watched:
        return None
    if previews:
        raise InvalidArgument(f"{min(previews)}: expected on_preview= beside it, or stream, got none")
    return sample(memory, patience, wanted, timing=timing)


def interact(memory: Memory, patience: Patience, wanted: Wanted) -> Operation[Samples]:
    """Draw samples steered by the caller's own function; begun again only while it was not asked."""
    request = yield from _request(memory, patience, wanted)
    opening = sampling_pb2.InteractiveRequest(
        sample=sampling_pb2.SampleRequest(
            model=request.model,
            version=request.version,
            id=request.id,
            parameters={name: tensors.value(name, each) for name, each in request.parameters.items()},
            inputs={name: tensors.tensor(each) for name, each in request.inputs.items()},
        )
    )
    scored = False
    while True:
        try:
            yield Open(steps.INTERACT, opening, patience.left, more=True)
            while (reply := (yield Receive())) is not None:
                if reply.HasField("samples"):
                    return samples_of(_drawn(reply.samples, patience))
                scored = True
                candidates = tensors.of_tensor(reply.candidates.tensor)
                scores = _scores((yield Score(candidates)), len(candidates))
                answer = sampling_pb2.Scores(batch=reply.candidates.batch, scores=scores)
                yield Send(sampling_pb2.InteractiveRequest(scores=answer))
            raise errors.Internal("the stream ended before the samples came")
        except Unavailable as error:
            if scored:
                raise
            pause = patience.pause(error)
        yield Sleep(pause)


def infer(
    memory: Memory,
    patience: Patience,
    model: str,
    inputs: Mapping[str, Any],
    parameters: Mapping[str, Any],
    outputs: Any,
    version: str,
    request_id: str,
) -> Operation[Inferred]:
    """Plain inference: arrays in, arrays out."""
    message = tensors.infer_request(
        model,
        version,
        request_id,
        {name: tensors.scalar(name, each) for name, each in parameters.items()},
        {name: tensors.array(name, each) for name, each in inputs.items()},
        outputs,
    )
    return (yield from inferred(memory, patience, message))


def score(
    memory: Memory, patience: Patience, reward: str, x: Any, version: str, arguments: Mapping[str, Any]
) -> Operation[Array]:
    """What a served network makes of samples: float32 [n]."""
    model = yield from described(memory, patience, reward, version)
    if model is None:
        raise NotFound(
            f"unknown model {reward!r}, expected a served network: other rewards are known to requests alone"
        )
    x = tensors.array("x", x)
    takers = [each for each in model.inputs if each.name not in arguments and each.fits(x.shape)]
    if not takers:
        had = ", ".join(f"{each.name} {each.datatype} {list(each.shape)}" for each in model.inputs)
        raise InvalidArgument(f"x: expected samples for an input of {reward!r} ({had}), got {list(x.shape)}")
    taker = next((each for each in takers if each.name == "x"), takers[0])
    inputs = {taker.name: tensors.cast("x", x, taker.datatype)}
    for name, each in arguments.items():
        spec = model.input(name)
        made = tensors.array(name, each) if spec is None else tensors.cast(name, each, spec.datatype)
        of_one = spec is not None and made.ndim <= len(spec.row)
        inputs[name] = np.repeat(made[None], len(x), axis=0) if of_one else made
    answer = yield from infer(memory, patience, reward, inputs, {}, (), version, "")
    named = answer.outputs.get("reward")
    found = [each for each in answer.outputs.values() if each.size == len(x)]
    if named is None and not found:
        raise InvalidArgument(f"expected an output [n] of {reward!r} for the score, got {', '.join(answer.outputs)}")
    return (found[0] if named is None else named).reshape(len(x)).astype(np.float32)


def likelihood(
    memory: Memory, patience: Patience, wanted: Wanted, x: Any, law: str, probes: int | None
) -> Operation[Likelihood]:
    """Log-likelihoods of samples x [n, *event]."""
    x = tensors.cast("x", x, "FP32")
    if not x.ndim:
        raise InvalidArgument("x: expected samples [n, *event], got a number")
    more = {"likelihood": law, "x_init": x, **({} if probes is None else {"probes": probes})}
    asked = Wanted(**{**vars(wanted), "n": len(x), "keywords": {**wanted.keywords, **more}})
    request = yield from _request(memory, patience, asked)
    answer = yield from inferred(memory, patience, request.message())
    return likelihood_of(answer)


def metadata(patience: Patience, model: str, version: str) -> Operation[Metadata]:
    """What a model takes and gives."""
    reply = yield from steps.asked(patience, steps.METADATA, pb.ModelMetadataRequest(name=model, version=version))
    return metadata_of(reply)


def fleet(patience: Patience) -> Operation[Fleet]:
    """Models and replicas."""
    return fleet_of((yield from steps.asked(patience, steps.LIST, fleet_pb2.ListModelsRequest())))


def statistics(patience: Patience, model: str, version: str) -> Operation[list[Statistics]]:
    """What was counted of a model, or of all of them."""
    message = pb.ModelStatisticsRequest(name=model, version=version)
    return statistics_of((yield from steps.asked(patience, steps.STATISTICS, message)))


def load(patience: Patience, model: str) -> Operation[None]:
    """Load a model's newest version, or load it again; not repeated."""
    yield from steps.asked(patience, steps.LOAD, pb.RepositoryModelLoadRequest(model_name=model), repeat=False)


def unload(patience: Patience, model: str) -> Operation[None]:
    """Take a model out; not repeated."""
    yield from steps.asked(patience, steps.UNLOAD, pb.RepositoryModelUnloadRequest(model_name=model), repeat=False)


def ready(patience: Patience, model: str | None, version: str) -> Operation[bool]:
    """Whether the server answers and any model of it is ready, or this one is."""
    try:
        if model is None:
            answer = yield from steps.asked(patience, steps.READY, pb.ServerReadyRequest(), repeat=False)
        else:
            message = pb.ModelReadyRequest(name=model, version=version)
            answer = yield from steps.asked(patience, steps.MODEL_READY, message, repeat=False)
    except Unavailable:
        return False
    return bool(answer.ready)


def _request(memory: Memory, patience: Patience, wanted: Wanted) -> Operation[Request]:
    """The request for samples, with a seed: what is sent again must have the same one."""
    parameters: dict[str, Parameter] = {}
    inputs: dict[str, Array] = {}
    arguments = {PREFIX + name: each for name, each in wanted.reward_args.items()}
    conditions, open_names, unknown = dict(wanted.conditions), dict[str, Any](), dict[str, str]()
    reward = wanted.reward
    if not isinstance(reward, str | None):
        raise InvalidArgument(f"reward: expected a name or an expression, got {type(reward).__name__}")
    if reward is None and isinstance(given := wanted.parameters.get("reward"), str):
        reward = given
    keywords = {name: each for name, each in wanted.keywords.items() if each is not None}
    model = None
    if conditions or keywords.keys() & {*names.TEXTS, names.IMAGE, *names.SIZES}:
        model = yield from described(memory, patience, wanted.model, wanted.version)
    if model is None or model.pictures:
        try:
            rows = _of_pipeline(model, keywords, parameters, inputs)
        except InvalidArgument:
            memory.models.clear()  # the model may be another one by now
            raise
        if wanted.n is None and rows > 1 and "samples" not in {**keywords, **wanted.parameters}:
            parameters["samples"] = rows
    for name, each in keywords.items():
        if name in names.TENSORS:
            inputs[name] = tensors.cast(name, each, names.TENSORS[name])
        elif name == "grid" and not isinstance(each, str):
            inputs[name] = tensors.cast(name, each, "FP64")
        elif name in names.PARAMETERS:
            parameters[name] = tensors.scalar(name, each)
        elif name.startswith(PREFIX):
            arguments[name] = each
        else:
            open_names[name] = each
    if wanted.n is None and inputs.get("x_init") is not None and inputs["x_init"].ndim:
        parameters.setdefault("samples", len(inputs["x_init"]))
    if open_names:
        model = yield from described(memory, patience, wanted.model, wanted.version)
        apart = yield from told_apart(memory, patience, model, reward, open_names)
        conditions |= apart.conditions
        arguments |= {PREFIX + name: each for name, each in apart.arguments.items()}
        for name, (each, said) in apart.others.items():
            if name in names.TEXTS or name == names.IMAGE:
                raise InvalidArgument(f"{name}: expected a pipeline, got {wanted.model!r}, which takes none")
            if tensors.dimensions(name, each):
                inputs[name] = tensors.array(name, each)
            else:
                parameters[name], unknown[name] = tensors.scalar(name, each), said
    inputs |= {name: condition(model, name, each) for name, each in conditions.items()}
    for name, each in arguments.items():
        if tensors.dimensions(name, each):
            inputs[name] = argument(name, each, reward)
        else:
            parameters[name] = tensors.scalar(name, each)
    parameters |= {name: tensors.scalar(name, each) for name, each in wanted.parameters.items()}
    if wanted.reward is not None:
        parameters["reward"] = wanted.reward
    if wanted.n is not None:
        if "samples" in parameters:
            raise InvalidArgument(f"samples: expected n or samples, got {wanted.n} and {parameters['samples']}")
        parameters["samples"] = tensors.scalar("n", wanted.n)
        if isinstance(parameters["samples"], str):
            raise InvalidArgument("n: expected a number, got a text; what to draw is prompt=")
    parameters.setdefault("seed", fresh_seed())
    outputs = ("images", names.LATENTS, *(["rewards"] if reward is not None else [])) if wanted.latents else ()
    return Request(wanted.model, wanted.version, wanted.id, parameters, inputs, outputs, unknown)


def fresh_seed() -> int:
    """A seed for a request that has none: what is sent again must have the same one."""
    return secrets.randbelow(2**63)


def _of_pipeline(
    model: Metadata | None, keywords: dict[str, Any], parameters: dict[str, Parameter], inputs: dict[str, Array]
) -> int:
    """Take out of the keywords what pipelines alone have, and put it where it goes; the samples that it is for, 1 for
    any number.

    Args:
        model: None for one that is not known here; the server then says what there is.
    """
    rows = 1
    if names.IMAGE in keywords:
        inputs[names.IMAGE] = pictures.pictures(names.IMAGE, keywords.pop(names.IMAGE))
        if names.MASK in keywords:
            inputs[names.MASK] = pictures.masks(names.MASK, keywords.pop(names.MASK))
            rows = len(inputs[names.MASK])
        rows = max(rows, len(inputs[names.IMAGE]))
    elif names.MASK in keywords and model is not None:
        raise InvalidArgument(f"{names.MASK}: expected {names.IMAGE}= beside it, got none")
    for name in names.TEXTS & keywords.keys():
        inputs[name] = tensors.texts(name, keywords.pop(name))
        rows = max(rows, len(inputs[name]))
    for name, fixed in zip(names.SIZES, (-1, -1) if model is None else model.size, strict=True):
        if name in keywords:
            wanted = tensors.scalar(name, keywords.pop(name))
            if fixed == -1:
                parameters[name] = wanted
            elif wanted != fixed:
                raise InvalidArgument(f"{name}: expected {fixed}, which pictures of this model have, got {wanted}")
    return rows


@dataclass(frozen=True)
class Apart:
    """Keywords by what they are.

    Attributes:
        others: neither, each with what to say of it if the server does not know it either.
    """

    conditions: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    others: dict[str, tuple[Any, str]] = field(default_factory=dict)


def told_apart(
    memory: Memory, patience: Patience, model: Metadata | None, reward: str | None, keywords: Mapping[str, Any]
) -> Operation[Apart]:
    """Which keywords are conditions of a model, which arguments of a reward; `InvalidArgument` for what may be both."""
    takes, apart = (yield from _takes(memory, patience, reward)), Apart()
    for name, each in keywords.items():
        kind = names.kind(name, model, reward, takes)
        if kind == "condition":
            apart.conditions[name] = each
        elif kind == "argument":
            apart.arguments[name] = each
        else:
            apart.others[name] = each, names.unknown(name, model, reward, takes)
    return apart


def described(memory: Memory, patience: Patience, model: str, version: str = "") -> Operation[Metadata | None]:
    """A model's metadata, None if there is no such model."""
    key = (model, version)
    if key not in memory.models:
        try:
            memory.models[key] = yield from metadata(patience, model, version)
        except NotFound:
            memory.models[key] = None
    return memory.models[key]


def _takes(memory: Memory, patience: Patience, reward: str | None) -> Operation[set[str] | None]:
    """The arguments of a reward, None where they are not known."""
    if reward is None or reward == CLIENT:
        return set()
    if reward in names.BUILT_IN:
        return set(names.BUILT_IN[reward])
    if not reward.isidentifier() and not reward.replace("-", "_").replace(".", "_").isidentifier():
        return None  # an expression
    model = yield from described(memory, patience, reward)
    return None if model is None else {each.name for each in model.inputs}


def condition(model: Metadata | None, name: str, value: Any) -> Array:
    """A condition as the model takes it: with rows, one for all samples where it came without."""
    spec = None if model is None else model.input(name)
    if spec is None:
        made = tensors.array(name, value)
        return made if made.ndim else made[None]
    made = tensors.cast(name, value, spec.datatype)
    return made[None] if made.ndim == len(spec.shape) - 1 else made


def argument(name: str, value: Any, reward: str | None) -> Array:
    """A tensor that is an argument of a reward: numbers as float32, but labels stay whole."""
    made = tensors.array(name, value)
    whole = made.dtype.kind in "iu" and reward not in names.BUILT_IN
    return made if made.dtype.kind not in "iuf" or whole else made.astype(np.float32)


def inferred(memory: Memory, patience: Patience, message: pb.ModelInferRequest) -> Operation[Inferred]:
    """What ModelInfer answers."""
    answer, _ = yield from _told(memory, patience, message)
    return answer


def _told(
    memory: Memory, patience: Patience, message: pb.ModelInferRequest, metadata: Sequence[tuple[str, str]] = ()
) -> Operation[tuple[Inferred, Iterable[tuple[str, Any]]]]:
    """An answer and its trailing metadata."""
    try:
        reply, trailing = yield from steps.asked(patience, steps.INFER, message, metadata=metadata, trailing=True)
    except (InvalidArgument, NotFound):
        memory.models.clear()  # the model may be another one by now
        raise
    return answered(reply, patience), trailing or ()


def answered(reply: pb.ModelInferResponse, patience: Patience) -> Inferred:
    """A response as arrays and parameters."""
    return Inferred(
        tensors.outputs_of(reply),
        tensors.parameters_of(reply),
        reply.model_name,
        reply.model_version,
        reply.id,
        patience.spent,
    )


def _drawn(reply: sampling_pb2.SampleReply, patience: Patience) -> Inferred:
    return Inferred(
        {name: np.array(tensors.of_tensor(each)) for name, each in reply.outputs.items()},
        {name: tensors.of_value(each) for name, each in reply.parameters.items()},
        reply.model,
        reply.version,
        reply.id,
        patience.spent,
    )


def _preview(answer: Inferred) -> Preview:
    said = answer.parameters
    return Preview(
        answer.outputs["denoised"],
        int(said.get("stage", 0)),
        int(said.get("stages", 0)),
        int(said.get("first", 0)),
        int(said.get("network_rows", 0)),
        (float(said["low"]), float(said["high"])) if "low" in said and "high" in said else None,
    )


def _pair(answer: Inferred) -> Pair:
    said = answer.parameters
    t, alpha, rho = ((float(said[name]), float(said[f"{name}_next"])) for name in ("t", "alpha", "rho"))
    return Pair(answer.outputs["states"], int(said["pair"]), int(said["pairs"]), int(said["first"]), t, alpha, rho)


def _scores(given: object, rows: int) -> Array:
    """What the caller's function gave, as float32 [rows]."""
    scores = np.asarray(given, dtype=np.float32)
    if scores.shape != (rows,):
        raise InvalidArgument(f"score: expected scores of shape [{rows}], got {list(scores.shape)}")
    return scores
