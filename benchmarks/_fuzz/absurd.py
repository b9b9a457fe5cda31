"""Requests that are messages and make no sense, or almost: drawn by hypothesis."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from benchmarks._fuzz.methods import NAN, NETWORK, REGION, REWARD, SAMPLER, F
from protos.tiltserve.v1 import distillation_pb2, sampling_pb2, tensor_pb2
from serving.wire.parameters import EVERYWHERE, Parameters
from serving.wire.streamed import EMPTY_FINAL
from serving.wire.tensors import DATATYPES
from steering.solvers import SOLVERS
from steering.targets.rewards import BUILT_IN

Draw = st.DrawFn
_WORDS = (
    "", " ", "0", "-1", "nan", "None", "true", "\0", "\n", "a\nb", "%s%n", "../../etc/passwd", "/dev/shm/x", "\u202e",
    "\ud7ff", "\U0001f600", "x" * 1100, "__class__", "{0.__class__}", SAMPLER, NETWORK, REWARD, NAN, "client", "doob",
    "smc", "float32", "uint8", "bank", "rollout", "gaussian", "ddim", "heun", "data", "sampler", "karras",
    "quadratic", "linear",
)  # fmt: skip
_DEEP = (
    "(" * 500 + "x" + ")" * 500, "-" * 2000 + "1", "+".join([REWARD] * 400), f"{REWARD}**" * 50 + "2",
    "log(" * 64 + "x",
    f"0.5 * {REWARD} + 2 * linear", f"{NAN} + {REWARD}", f"max({REWARD}, {NAN}, quadratic)", "1e999 * " + REWARD, "()",
    f"{REWARD} if 1 else 2", f"{REWARD}.x", "[" * 90 + "]" * 90, "lambda: 0", "__import__('os')", "9" * 5000,
)  # fmt: skip
_INTEGERS = (
    0,
    1,
    2,
    3,
    4,
    5,
    8,
    -1,
    -2,
    9,
    10,
    255,
    256,
    257,
    1000,
    1001,
    4096,
    4097,
    2**31,
    2**32,
    2**53,
    -(2**63),
    2**63 - 1,
)
_NUMBERS = (0.0, -0.0, 0.5, 1.0, -1.0, 2.0, 1e-45, 1e-300, 3.5e38, 1e300, float("inf"), float("-inf"), float("nan"))
_AXES = (0, 1, 2, 3, 4, 8, 100, -1, -(2**63), 2**31, 2**40, 2**62, 2**63 - 1)
_ROWS = {"samples": (1, 1, 1, 2, 4, 16), "steps": (1, 2, 3, 5), "particles": (2, 4, 8, 32)}
"""What most requests say, so that most are drawn in no time."""
_INPUTS = (
    "x", "t", "mode", "x_init", "known", "mask", "grid", "label", "reward_direction", "reward_target", "reward_mode",
    "data", "null_label", "samples", "reward_nearness_mode",
)  # fmt: skip
_PARAMETERS = (
    *Parameters.model_fields,
    *EVERYWHERE,
    EMPTY_FINAL,
    "reward_mode",
    "reward_label",
    "eta2",
    "order",
    "binary_data",
)

words = st.sampled_from(_WORDS) | st.text(max_size=40)
integers = st.sampled_from(_INTEGERS) | st.integers(-(2**63), 2**63 - 1)
numbers = st.sampled_from(_NUMBERS) | st.floats()
shapes = st.lists(st.sampled_from(_AXES), max_size=5) | st.lists(st.just(1), min_size=60, max_size=70)
models = st.sampled_from((SAMPLER,) * 8 + (NETWORK, NETWORK, REWARD, NAN)) | words
versions = st.sampled_from(("",) * 8 + ("1", "01", "1 ", "-1", "2", "9" * 400)) | words


@st.composite
def _values(draw: Draw, name: str) -> dict[str, Any]:
    """The value of a parameter as a field of InferParameter; none for a parameter without one."""
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "bool_param": st.booleans(),
        "int64_param": integers,
        "uint64_param": st.sampled_from((0, 1, 5, 9, 10, 2**63, 2**64 - 1)),
        "double_param": numbers,
        "string_param": words,
    }
    if name in _ROWS and draw(st.integers(0, 4)):
        return {"int64_param": draw(st.sampled_from(_ROWS[name]))}
    if name == "timeout" and draw(st.booleans()):
        return {"int64_param": draw(st.sampled_from((0, 1, 1000, 10**5, 2**63 - 1)))}
    if name == "reward" and draw(st.integers(0, 3)):
        rewards = st.sampled_from((REWARD, NAN, "client", "density", *BUILT_IN, *_DEEP))
        return {"string_param": draw(rewards)}
    if name == "solver" and draw(st.booleans()):
        return {"string_param": draw(st.sampled_from(sorted(SOLVERS)))}
    kind = draw(st.sampled_from((*kinds, "int64_param", "string_param", "none")))
    return {} if kind == "none" else {kind: draw(kinds[kind])}


@st.composite
def _parameters(draw: Draw) -> dict[str, dict[str, Any]]:
    known = st.sampled_from(_PARAMETERS)
    names = draw(st.lists(st.one_of(known, known, known, known, words), max_size=6, unique=True))
    return {name: draw(_values(name)) for name in {"steps": 0, "samples": 0, **dict.fromkeys(names)} if name}


@st.composite
def _tensors(draw: Draw) -> tuple[str, str, list[int], bytes]:
    """Name, datatype, shape and raw bytes: right, or a lie about one of them."""
    name = draw(st.sampled_from(_INPUTS) | words)
    datatype = draw(st.sampled_from(("FP32", "FP32", "FP32", "INT64", *DATATYPES)) | words)
    shape = draw(st.sampled_from(([1, 2], [2, 2], [4, 2], [2], [4], [1], [])) | shapes)
    size = int(np.prod(shape, dtype=object)) if shape else 1
    width = 4 if datatype not in DATATYPES or datatype == "BYTES" else DATATYPES[datatype][0].itemsize
    data = bytes(size * width) if 0 <= size <= 4096 else b""
    how = draw(st.sampled_from(("right",) * 4 + ("short", "long", "none", "random", "nan", "texts")))
    if how == "short":
        data = data[:-1]
    elif how == "long":
        data += b"\0"
    elif how == "none":
        data = b""
    elif how == "random":
        data = draw(st.binary(min_size=len(data), max_size=len(data)))
    elif how == "nan":
        data = np.full(len(data) // 4, np.nan, F).tobytes()
    elif how == "texts":  # lengths of BYTES that lie
        data = draw(st.sampled_from((b"\xff\xff\xff\xff", b"\1\0\0\0", b"\0\0\0\0" * 4, b"\2\0\0\0ab\xff\0\0\0")))
    return name, datatype, shape, data


@st.composite
def requests(draw: Draw) -> bytes:
    """A serialised ModelInferRequest."""
    request = pb.ModelInferRequest(model_name=draw(models), model_version=draw(versions), id=draw(words))
    for name, value in draw(_parameters()).items():
        request.parameters[name].CopyFrom(pb.InferParameter(**value))
    raw = draw(st.integers(0, 4)) > 0
    for name, datatype, shape, data in draw(st.lists(_tensors(), max_size=3)):
        sent = request.inputs.add(name=name, datatype=datatype, shape=shape)
        _place(draw, sent.parameters)
        if raw:
            request.raw_input_contents.append(data)
        else:
            _contents(draw, sent.contents, data)
    for name in draw(st.lists(st.sampled_from(("samples", "x0", "reward", "rewards")) | words, max_size=2)):
        _place(draw, request.outputs.add(name=name).parameters)
    if not draw(st.integers(0, 15)):
        request.raw_input_contents.append(b"one more")
    return request.SerializeToString()


def _place(draw: Draw, parameters: Any) -> None:
    """Now and then parameters that say that a tensor is in shared memory."""
    if draw(st.integers(0, 9)):
        return
    for name in draw(st.sets(st.sampled_from(("region", "offset", "byte_size", "other")))):
        value: dict[str, Any] = {"string_param": REGION} if name == "region" else {"int64_param": draw(integers)}
        parameters[f"shared_memory_{name}"].CopyFrom(pb.InferParameter(**draw(st.sampled_from((value, {})))))


def _contents(draw: Draw, contents: Any, data: bytes) -> None:
    """Numbers as fields of a message, of a type that fits or does not."""
    count = len(data) // 4
    kind = draw(st.sampled_from(("fp32", "fp32", "int64", "int", "uint", "uint64", "bool", "fp64", "bytes")))
    if kind == "bytes":
        contents.bytes_contents.append(data)
    elif kind in ("fp32", "fp64"):
        getattr(contents, f"{kind}_contents").extend([draw(numbers.filter(lambda x: abs(x) < 3e38 or x != x))] * count)
    else:
        getattr(contents, f"{kind}_contents").extend([draw(st.sampled_from((0, 1)))] * count)


@st.composite
def _firsts(draw: Draw) -> bytes:
    """A serialised first message of SampleInteractive."""
    kinds = {"bool_param": "flag", "int64_param": "integer", "double_param": "number", "string_param": "text"}
    sample = sampling_pb2.SampleRequest(model=draw(models), version=draw(versions), id=draw(words))
    for name, value in draw(_parameters()).items():
        given = {kinds[kind]: each for kind, each in value.items() if kind in kinds}
        sample.parameters[name].CopyFrom(tensor_pb2.Value(**given))
    for name, datatype, shape, data in draw(st.lists(_tensors(), max_size=2)):
        sample.inputs[name].CopyFrom(tensor_pb2.Tensor(datatype=datatype, shape=shape, data=data))
    return sampling_pb2.InteractiveRequest(sample=sample).SerializeToString()


_KINDS: dict[str, st.SearchStrategy[Any]] = {
    "mode": st.sampled_from(("", "sds", "cds", "ism", "reward_sds", "vsd")) | words,
    "noise": st.sampled_from(("", "fixed", "iteration")) | words,
    "weighting": st.sampled_from(("", "uniform", "sds", "fantasia3d")) | words,
    "convention": st.sampled_from(("", "null", "cond")) | words,
    "reward": st.sampled_from((REWARD, NAN, *BUILT_IN, *_DEEP)) | words,
    "posterior": st.sampled_from(("bank", "gaussian", "residuals", "rollout")) | words,
    "iteration": integers, "seed": integers, "first_view": integers, "over": integers, "priority": integers,
    "noises": st.sampled_from((0, 1, 2, 3, 64, 65)) | integers,
    "particles": st.sampled_from((2, 4, 8, 3)) | integers,
    "timeout": st.sampled_from((0, 1, 1000, 10**5)) | integers,
    **dict.fromkeys(("guidance", "clip", "rescale", "beta", "stride"), numbers),
}  # fmt: skip
"""Values of the fields of a GradientRequest, right and wrong."""


@st.composite
def _gradient_requests(draw: Draw) -> Any:
    """A request for a gradient: mostly of the sampler's views, with any of its fields."""
    asked = distillation_pb2.GradientRequest(model=draw(models), version=draw(versions), id=draw(words))
    if draw(st.integers(0, 3)):
        asked.iteration = 3
        views = draw(st.sampled_from((1, 2, 4)))
        asked.input.CopyFrom(tensor_pb2.Tensor(shape=[views, 2], data=bytes(8 * views)))
    for name in draw(st.lists(st.sampled_from(sorted(_KINDS)), max_size=4, unique=True)):
        setattr(asked, name, draw(_KINDS[name]))
    for name, datatype, shape, data in draw(st.lists(_tensors(), max_size=2)):
        sent = tensor_pb2.Tensor(datatype=datatype, shape=shape, data=data)
        where = draw(st.sampled_from(("input", "conditions", "negatives", "reward_arguments", "negative_weights")))
        if where in ("input", "negative_weights"):
            getattr(asked, where).CopyFrom(sent)
        elif where == "reward_arguments":
            asked.reward_arguments[name].CopyFrom(tensor_pb2.Value(tensor=sent))
        else:
            getattr(asked, where)[name].CopyFrom(sent)
    if not draw(st.integers(0, 2)):
        _schedule(draw, asked.schedule)
    if not draw(st.integers(0, 5)):
        for name in draw(st.lists(models, max_size=9)):
            asked.models.add(model=name, weight=draw(numbers))
    if not draw(st.integers(0, 5)):
        asked.prompt.extend(draw(st.lists(words, max_size=3)))
    return asked


def _schedule(draw: Draw, schedule: Any) -> None:
    """Some fields of a schedule."""
    texts = {
        "preset": ("coarse", "refine", "x"),
        "shape": ("sqrt", "linear", "uniform", "x"),
        "unit": ("t", "rho", "x"),
    }
    for name, known in texts.items():
        if not draw(st.integers(0, 2)):
            setattr(schedule, name, draw(st.sampled_from(known)))
    for name in draw(st.sets(st.sampled_from(("c0", "c1", "gap", "perturb", "smin", "smax", "scale")), max_size=3)):
        setattr(schedule, name, draw(numbers | st.floats(0, 1000)))
    for name in ("t1", "t2"):
        getattr(schedule, name).extend(draw(st.lists(numbers | st.floats(0, 1), max_size=2)))


@st.composite
def _gradients(draw: Draw) -> tuple[str, bytes]:
    """A method of Distillation, and a message for it."""
    asked = draw(_gradient_requests())
    if draw(st.booleans()):
        return "Gradient", asked.SerializeToString()
    kind = draw(st.sampled_from(("common", "gradient", "gradient", "gradient")))
    return "Session", distillation_pb2.SessionRequest(**{kind: asked}).SerializeToString()


@st.composite
def _named(draw: Draw) -> tuple[str, bytes]:
    """A method whose requests are a name or two, and a request of odd ones."""
    kinds: dict[str, Any] = {
        "ModelReady": pb.ModelReadyRequest,
        "ModelMetadata": pb.ModelMetadataRequest,
        "ModelConfig": pb.ModelConfigRequest,
        "ModelStatistics": pb.ModelStatisticsRequest,
    }
    name = draw(st.sampled_from((*kinds, "Register", "Load", "Unload", "Trace", "Log", "Index", "Cuda")))
    if name in kinds:
        return name, kinds[name](name=draw(models), version=draw(versions)).SerializeToString()
    odd = draw(words.filter(lambda word: word not in (SAMPLER, NETWORK, REWARD, NAN)))
    if name in ("Load", "Unload"):
        change: Any = {"Load": pb.RepositoryModelLoadRequest, "Unload": pb.RepositoryModelUnloadRequest}[name]
        request = change(repository_name=draw(st.sampled_from(("", "", "x"))), model_name=odd)
        for key in draw(
            st.sets(st.sampled_from(("config", "file:1/model.onnx", "unload_dependents", "x")), max_size=2)
        ):
            request.parameters[key].string_param = draw(words)
        return f"RepositoryModel{name}", request.SerializeToString()
    if name == "Register":
        region = pb.SystemSharedMemoryRegisterRequest(
            name=odd,
            key=draw(st.sampled_from((f"/{REGION}", f"../{REGION}", "..", "/", "//x", "/sem.x", "x\0y")) | words),
            offset=draw(st.sampled_from((0, 1, 2**63, 2**64 - 1))),
            byte_size=draw(st.sampled_from((0, 1, 64, 2**63, 2**64 - 1))),
        )
        return "SystemSharedMemoryRegister", region.SerializeToString()
    if name == "Cuda":
        return "CudaSharedMemoryRegister", pb.CudaSharedMemoryRegisterRequest(
            name=odd, device_id=-1
        ).SerializeToString()
    if name == "Index":
        return "RepositoryIndex", pb.RepositoryIndexRequest(repository_name=odd, ready=True).SerializeToString()
    if name == "Trace":
        trace = pb.TraceSettingRequest(model_name=draw(models))
        for key in draw(st.sets(st.sampled_from(("trace_rate", "trace_level", "trace_count", "trace_file", "x")))):
            trace.settings[key].value.extend(draw(st.lists(words | integers.map(str), max_size=2)))
        return "TraceSetting", trace.SerializeToString()
    log = pb.LogSettingsRequest()
    settings_of_log: Any = ({"string_param": "x"}, {"uint32_param": 2**32 - 1}, {"bool_param": True}, {})
    for key in draw(st.sets(st.sampled_from(("log_file", "log_format", "log_verbose_level", "x", "log_info")))):
        setting: Any = draw(st.sampled_from(settings_of_log))
        log.settings[key].CopyFrom(pb.LogSettingsRequest.SettingValue(**setting))
    return "LogSettings", log.SerializeToString()


messages: st.SearchStrategy[tuple[str, bytes]] = st.one_of(
    st.tuples(st.sampled_from(("ModelInfer", "ModelStreamInfer")), requests()),
    st.tuples(st.sampled_from(("ModelInfer", "ModelStreamInfer")), requests()),
    st.tuples(st.just("SampleInteractive"), _firsts()),
    _gradients(),
    *[_named()] * 4,
)
"""A method's name, and a message for it."""


def examples(count: int, number: int) -> Sequence[tuple[str, bytes]]:
    """So many messages and their methods, the same ones for the same `number`."""
    found = list[tuple[str, bytes]]()

    @seed(number)
    @settings(
        max_examples=count, phases=[Phase.generate], database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(messages)
    def collect(message: tuple[str, bytes]) -> None:
        found.append(message)

    collect()
    random.Random(number).shuffle(found)  # hypothesis begins with the simplest
    return found
