"""Distillation gradients: what whoever optimises a scene or a picture asks of a served model.

A request holds all that decides its answer, so that it may be sent again, and any replica may answer it. On a session
what stays the same is sent once.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.tiltserve.v1 import distillation_pb2 as pb
from tiltserve import errors, names, steps, tensors
from tiltserve.errors import Cancelled, InvalidArgument, NotFound, Unavailable
from tiltserve.names import PREFIX
from tiltserve.operations import Memory, argument, condition, described, told_apart
from tiltserve.steps import Emit, Open, Operation, Patience, Receive, Send, Sleep
from tiltserve.tensors import Array

Models = str | Mapping[str, float]
"""A model, or several with their weights."""

TEXT = frozenset({"mode", "noise", "weighting", "convention", "posterior"})
NUMBERS = frozenset({"guidance", "clip", "rescale", "beta", "stride"})
WHOLE = frozenset({"iteration", "seed", "first_view", "particles", "priority", "noises", "over"})
OTHERS = frozenset({"schedule", "negatives", "negative_weights", "reward", *names.TEXTS})
SCHEDULE_TEXT = frozenset({"preset", "shape", "unit"})
SCHEDULE_NUMBERS = frozenset({"c0", "c1", "gap", "perturb", "smin", "smax", "scale"})
SCHEDULE_TIMES = frozenset({"t1", "t2"})
SCHEDULE = SCHEDULE_TEXT | SCHEDULE_NUMBERS | SCHEDULE_TIMES | {"i_end", "narrowed"}
FLOATS = {np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)}


@dataclass(frozen=True, eq=False)
class Gradient:
    """What a model makes of some views.

    Attributes:
        gradient: of the loss with respect to the input, with its shape and type: descend it.
        loss: float64 [views], each view's share of the whole.
        t1, t2: path times of each view, [views]; of the first model where there are several, as rho1 and rho2.
        rho1, rho2: sigma / alpha there.
        norm: of the gradient.
        nonfinite: entries that were no numbers, and were sent as 0.
        network_rows, reward_rows: rows that it took.
        setup_rows, setup_reward_rows: rows that the reward takes once, whoever asks first.
        ess: mean number of effective candidates behind a correction, None where there was none.
        fingerprint: equal ones give equal bytes for equal requests.
        warnings: read them.
        seconds: as the client saw it, retries included.
        answer: all that the response holds.
    """

    gradient: Array
    loss: NDArray[np.float64]
    t1: NDArray[np.float64]
    t2: NDArray[np.float64]
    rho1: NDArray[np.float64]
    rho2: NDArray[np.float64]
    norm: float
    nonfinite: int
    network_rows: int
    reward_rows: int
    setup_rows: int
    setup_reward_rows: int
    ess: float | None
    fingerprint: str
    warnings: list[str]
    seconds: float
    answer: pb.GradientResponse

    @classmethod
    def of(cls, answer: pb.GradientResponse, seconds: float) -> "Gradient":
        return cls(
            np.array(tensors.of_tensor(answer.gradient)),
            np.array(answer.loss),
            np.array(answer.t1),
            np.array(answer.t2),
            np.array(answer.rho1),
            np.array(answer.rho2),
            answer.gradient_norm,
            answer.nonfinite,
            answer.network_rows,
            answer.reward_rows,
            answer.setup_rows,
            answer.setup_reward_rows,
            answer.ess if answer.HasField("ess") else None,
            answer.fingerprint,
            list(answer.warnings),
            seconds,
            answer,
        )

    def __repr__(self) -> str:
        said = f"{list(self.gradient.shape)} of norm {self.norm:.4g}, {self.network_rows} network rows"
        return f"<Gradient: {said}, {len(self.warnings)} warnings>"


@dataclass(frozen=True)
class Asked:
    """A request in the caller's words; what a call of a session asks has no model.

    Attributes:
        keywords: fields of the request by name, and whatever else: parameters of steering, conditions of the model and
            arguments of the reward.
    """

    models: Models | None
    images: Any
    keywords: Mapping[str, Any]
    conditions: Mapping[str, Any] = field(default_factory=dict)
    reward_args: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    id: str = ""

    @classmethod
    def of(
        cls,
        models: Models | None,
        images: Any,
        conditions: Mapping[str, Any] | None,
        reward_args: Mapping[str, Any] | None,
        parameters: Mapping[str, Any] | None,
        version: str,
        request_id: str,
        keywords: Mapping[str, Any],
    ) -> "Asked":
        given = {name: each for name, each in keywords.items() if each is not None}
        return cls(models, images, given, conditions or {}, reward_args or {}, parameters or {}, version, request_id)


def of_call(keywords: Mapping[str, Any]) -> Asked:
    """A call of a session from its keywords; raises `InvalidArgument` where images or the iteration are missing."""
    if missing := {"images", "iteration"} - keywords.keys():
        raise InvalidArgument(f"{max(missing)}: expected it in every call, got none")
    own = {"images", "conditions", "reward_args", "request_id"}
    others = {name: each for name, each in keywords.items() if name not in own}
    return Asked.of(
        None,
        keywords["images"],
        keywords.get("conditions"),
        keywords.get("reward_args"),
        None,
        "",
        keywords.get("request_id", ""),
        others,
    )


@dataclass
class Shared:
    """What a session's calls have in common.

    Attributes:
        asked: its words; `message`: in the server's, None before the first call.
        open: whether a stream is, on which `message` was sent.
    """

    asked: Asked
    message: pb.GradientRequest | None = None
    open: bool = False


def gradient(memory: Memory, patience: Patience, asked: Asked) -> Operation[Gradient]:
    """Ask for one gradient."""
    message = yield from request(memory, patience, asked)
    if patience.timeout is not None:
        message.timeout = _microseconds(patience)
    try:
        answer = yield from steps.asked(patience, steps.GRADIENT, message)
    except (InvalidArgument, NotFound):
        memory.models.clear()  # the model may be another one by now
        raise
    return Gradient.of(answer, patience.spent)


def streamed(
    memory: Memory, patiently: Callable[[], Patience], shared: Shared, calls: Iterable[Asked], ahead: int = 0
) -> Operation[None]:
    """Ask for gradients on a session's stream; each `Gradient` is emitted. What had no answer when the stream broke is
    sent again on another one.

    Args:
        ahead: how many calls more are sent before an answer is waited for.
    """
    patience, calls = patiently(), iter(calls)
    if shared.message is None:
        shared.message = yield from request(memory, patience, shared.asked)
    sent: deque[tuple[pb.SessionRequest, Patience]] = deque()
    more = True
    try:
        while True:
            try:
                if not shared.open:
                    yield Open(steps.DISTILLATION, pb.SessionRequest(common=shared.message), None, more=True)
                    shared.open = True
                    for message, _ in sent:
                        yield from _send(message)
                while more and len(sent) <= ahead:
                    call = next(calls, None)
                    if more := call is not None:
                        patience = patiently()
                        message = yield from _of_session(memory, patience, shared.asked, call)
                        sent.append((message, patience))
                        yield from _send(message)
                if not sent:
                    return
                reply = yield Receive()
                if reply is None:
                    raise Unavailable("the stream ended before the gradient came", unbegun=True)
            except Unavailable as error:
                shared.open = False
                yield Sleep((sent[0][1] if sent else patience).pause(error))
                continue
            _, patience = sent.popleft()
            if reply.HasField("error"):
                memory.models.clear()  # the model may be another one by now
                raise errors.of_number(reply.error.code, reply.error.message)
            yield Emit(Gradient.of(reply.gradient, patience.spent))
    finally:
        shared.open = shared.open and not sent  # answers that are still to come would be taken for others


def _send(message: pb.SessionRequest) -> Operation[None]:
    try:
        yield Send(message)
    except Cancelled as error:  # the stream was over already
        raise Unavailable(error.message, unbegun=True) from None


def _of_session(memory: Memory, patience: Patience, common: Asked, call: Asked) -> Operation[pb.SessionRequest]:
    """The message of a call of a session."""
    if twice := sorted(common.keywords.keys() & call.keywords.keys()):
        raise InvalidArgument(f"{twice[0]}: expected it for the session or for this call, got both")
    message = yield from request(memory, patience, call, common)
    if patience.timeout is not None:
        message.timeout = _microseconds(patience)
    return pb.SessionRequest(gradient=message)


def request(
    memory: Memory, patience: Patience, asked: Asked, session: Asked | None = None
) -> Operation[pb.GradientRequest]:
    """The message of a request.

    Args:
        session: what it is a call of: its model and reward say which keyword is what.
    """
    first = _first(asked.models if session is None else session.models)
    version = asked.version if session is None else session.version
    message = pb.GradientRequest(version=asked.version, id=asked.id)
    if isinstance(asked.models, str):
        message.model = asked.models
    elif asked.models is not None:
        for name, weight in asked.models.items():
            message.models.add(model=name, weight=_number(f"weight of {name}", weight))
    if asked.images is not None:
        message.input.CopyFrom(tensors.tensor(pictures(asked.images)))
    reward = asked.keywords.get("reward", None if session is None else session.keywords.get("reward"))
    if not isinstance(reward, str | None):
        raise InvalidArgument(f"reward: expected a name or an expression, got {type(reward).__name__}")
    message.reward = asked.keywords.get("reward", "")
    conditions, arguments, open_names = dict(asked.conditions), dict(asked.reward_args), dict[str, Any]()
    parameters = dict(asked.parameters)
    for name, each in asked.keywords.items():
        if name in TEXT:
            setattr(message, name, _text(name, each))
        elif name in NUMBERS:
            setattr(message, name, _number(name, each))
        elif name in WHOLE:
            _set_whole(message, name, each)
        elif name in names.TEXTS:
            getattr(message, name).extend(text.decode() for text in tensors.texts(name, each))
        elif name == "schedule":
            _fill_schedule(message.schedule, each)
        elif name == "negatives":
            if not isinstance(each, Mapping):
                raise InvalidArgument(f"negatives: expected conditions by name, got {type(each).__name__}")
            for condition_name, rows in each.items():
                message.negatives[condition_name].CopyFrom(tensors.tensor(tensors.array("negatives", rows)))
        elif name == "negative_weights":
            message.negative_weights.CopyFrom(tensors.tensor(tensors.cast(name, each, "FP32")))
        elif name in names.PARAMETERS and name != "reward":
            parameters[name] = each
        elif name.startswith(PREFIX):
            arguments[name.removeprefix(PREFIX)] = each
        elif name != "reward":
            open_names[name] = each
    model = None
    if open_names or conditions:
        model = yield from described(memory, patience, first, version)
    if open_names:
        apart = yield from told_apart(memory, patience, model, reward, open_names)
        if apart.others and model is not None:
            name, (_, said) = next(iter(apart.others.items()))
            near = get_close_matches(name, [*TEXT, *NUMBERS, *WHOLE, *OTHERS], 1)
            raise InvalidArgument(f"unknown keyword {name!r}, did you mean {near[0]!r}?" if near else said)
        conditions |= apart.conditions
        arguments |= apart.arguments
    for name, each in conditions.items():
        message.conditions[name].CopyFrom(tensors.tensor(condition(model, name, each)))
    for name, each in arguments.items():
        if tensors.dimensions(name, each):
            message.reward_arguments[name].tensor.CopyFrom(tensors.tensor(argument(name, each, reward)))
        else:
            message.reward_arguments[name].CopyFrom(tensors.value(name, tensors.scalar(name, each)))
    for name, each in parameters.items():
        message.parameters[name].CopyFrom(tensors.value(name, tensors.scalar(name, each)))
    return message


def pictures(given: Any) -> Array:
    """Views [n, *event] as float16 where they are, else as float32; raises `InvalidArgument`."""
    made = tensors.array("images", given)
    if made.dtype not in FLOATS:
        raise InvalidArgument(f"images: expected floats in the model's own range, often -1..1, got {made.dtype}")
    if made.ndim < 2:
        raise InvalidArgument(f"images: expected views [n, *event], got {list(made.shape)}")
    return made.astype(np.float32) if made.dtype == np.float64 else made


def _first(models: Models | None) -> str:
    if isinstance(models, Mapping):
        if not models or not all(isinstance(name, str) for name in models):
            raise InvalidArgument(f"model: expected a name, or names with weights, got {models!r:.60}")
        return next(iter(models))
    if not isinstance(models, str):
        raise InvalidArgument(f"model: expected a name, or names with weights, got {type(models).__name__}")
    return models


def _fill_schedule(message: pb.Schedule, given: Any) -> None:
    if isinstance(given, str):
        message.preset = given
        return
    if not isinstance(given, Mapping):
        raise InvalidArgument(f"schedule: expected a preset or a mapping, got {type(given).__name__}")
    message.SetInParent()
    for name, each in given.items():
        if name not in SCHEDULE:
            raise InvalidArgument(f"schedule: expected some of {', '.join(sorted(SCHEDULE))}, got {name!r:.60}")
        if name in SCHEDULE_TEXT:
            setattr(message, name, _text(f"schedule {name}", each))
        elif name == "narrowed":
            message.narrowed = bool(tensors.scalar(name, each))
        elif name in SCHEDULE_TIMES:
            getattr(message, name).extend(tensors.cast(name, each, "FP64").reshape(-1).tolist())
        elif name == "i_end":
            _set_whole(message, name, each)
        else:
            setattr(message, name, _number(f"schedule {name}", each))


def _text(name: str, given: Any) -> str:
    if not isinstance(given, str):
        raise InvalidArgument(f"{name}: expected a name, got {type(given).__name__}")
    return given


def _number(name: str, given: Any) -> float:
    value = tensors.scalar(name, given)
    if isinstance(value, str | bool):
        raise InvalidArgument(f"{name}: expected a number, got {value!r:.60}")
    return float(value)


def _set_whole(message: Any, name: str, given: Any) -> None:
    value = tensors.scalar(name, given)
    if isinstance(value, str | bool) or value != value or value in (float("inf"), float("-inf")) or value != int(value):
        raise InvalidArgument(f"{name}: expected a whole number, got {value!r:.60}")
    try:
        setattr(message, name, int(value))
    except ValueError:
        raise InvalidArgument(f"{name}: expected a number of 64 bits, got {value!r}") from None


def _microseconds(patience: Patience) -> int:
    return max(1, int((patience.left or 0) * 1e6))
