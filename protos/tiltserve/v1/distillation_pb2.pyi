from protos.tiltserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GradientRequest(_message.Message):
    __slots__ = ("model", "version", "id", "models", "input", "conditions", "prompt", "negative_prompt", "mode", "iteration", "seed", "first_view", "schedule", "noise", "weighting", "guidance", "convention", "clip", "rescale", "reward", "reward_arguments", "beta", "posterior", "particles", "parameters", "timeout", "priority", "noises", "stride", "negatives", "negative_weights", "over")
    class ConditionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
    class RewardArgumentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ...) -> None: ...
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ...) -> None: ...
    class NegativesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_VIEW_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTING_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    CONVENTION_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    RESCALE_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    REWARD_ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    POSTERIOR_FIELD_NUMBER: _ClassVar[int]
    PARTICLES_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    NOISES_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    id: str
    models: _containers.RepeatedCompositeFieldContainer[WeightedModel]
    input: _tensor_pb2.Tensor
    conditions: _containers.MessageMap[str, _tensor_pb2.Tensor]
    prompt: _containers.RepeatedScalarFieldContainer[str]
    negative_prompt: _containers.RepeatedScalarFieldContainer[str]
    mode: str
    iteration: int
    seed: int
    first_view: int
    schedule: Schedule
    noise: str
    weighting: str
    guidance: float
    convention: str
    clip: float
    rescale: float
    reward: str
    reward_arguments: _containers.MessageMap[str, _tensor_pb2.Value]
    beta: float
    posterior: str
    particles: int
    parameters: _containers.MessageMap[str, _tensor_pb2.Value]
    timeout: int
    priority: int
    noises: int
    stride: float
    negatives: _containers.MessageMap[str, _tensor_pb2.Tensor]
    negative_weights: _tensor_pb2.Tensor
    over: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., id: _Optional[str] = ..., models: _Optional[_Iterable[_Union[WeightedModel, _Mapping]]] = ..., input: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., conditions: _Optional[_Mapping[str, _tensor_pb2.Tensor]] = ..., prompt: _Optional[_Iterable[str]] = ..., negative_prompt: _Optional[_Iterable[str]] = ..., mode: _Optional[str] = ..., iteration: _Optional[int] = ..., seed: _Optional[int] = ..., first_view: _Optional[int] = ..., schedule: _Optional[_Union[Schedule, _Mapping]] = ..., noise: _Optional[str] = ..., weighting: _Optional[str] = ..., guidance: _Optional[float] = ..., convention: _Optional[str] = ..., clip: _Optional[float] = ..., rescale: _Optional[float] = ..., reward: _Optional[str] = ..., reward_arguments: _Optional[_Mapping[str, _tensor_pb2.Value]] = ..., beta: _Optional[float] = ..., posterior: _Optional[str] = ..., particles: _Optional[int] = ..., parameters: _Optional[_Mapping[str, _tensor_pb2.Value]] = ..., timeout: _Optional[int] = ..., priority: _Optional[int] = ..., noises: _Optional[int] = ..., stride: _Optional[float] = ..., negatives: _Optional[_Mapping[str, _tensor_pb2.Tensor]] = ..., negative_weights: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., over: _Optional[int] = ...) -> None: ...

class WeightedModel(_message.Message):
    __slots__ = ("model", "version", "weight")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    weight: float
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class Schedule(_message.Message):
    __slots__ = ("preset", "c0", "c1", "i_end", "shape", "gap", "perturb", "smin", "smax", "t1", "t2", "unit", "scale", "narrowed")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    C0_FIELD_NUMBER: _ClassVar[int]
    C1_FIELD_NUMBER: _ClassVar[int]
    I_END_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    PERTURB_FIELD_NUMBER: _ClassVar[int]
    SMIN_FIELD_NUMBER: _ClassVar[int]
    SMAX_FIELD_NUMBER: _ClassVar[int]
    T1_FIELD_NUMBER: _ClassVar[int]
    T2_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    NARROWED_FIELD_NUMBER: _ClassVar[int]
    preset: str
    c0: float
    c1: float
    i_end: int
    shape: str
    gap: float
    perturb: float
    smin: float
    smax: float
    t1: _containers.RepeatedScalarFieldContainer[float]
    t2: _containers.RepeatedScalarFieldContainer[float]
    unit: str
    scale: float
    narrowed: bool
    def __init__(self, preset: _Optional[str] = ..., c0: _Optional[float] = ..., c1: _Optional[float] = ..., i_end: _Optional[int] = ..., shape: _Optional[str] = ..., gap: _Optional[float] = ..., perturb: _Optional[float] = ..., smin: _Optional[float] = ..., smax: _Optional[float] = ..., t1: _Optional[_Iterable[float]] = ..., t2: _Optional[_Iterable[float]] = ..., unit: _Optional[str] = ..., scale: _Optional[float] = ..., narrowed: _Optional[bool] = ...) -> None: ...

class GradientResponse(_message.Message):
    __slots__ = ("model", "version", "id", "gradient", "loss", "t1", "t2", "rho1", "rho2", "gradient_norm", "nonfinite", "network_rows", "reward_rows", "fingerprint", "warnings", "models", "setup_rows", "setup_reward_rows", "ess")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    T1_FIELD_NUMBER: _ClassVar[int]
    T2_FIELD_NUMBER: _ClassVar[int]
    RHO1_FIELD_NUMBER: _ClassVar[int]
    RHO2_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    NONFINITE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_ROWS_FIELD_NUMBER: _ClassVar[int]
    REWARD_ROWS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    SETUP_ROWS_FIELD_NUMBER: _ClassVar[int]
    SETUP_REWARD_ROWS_FIELD_NUMBER: _ClassVar[int]
    ESS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    id: str
    gradient: _tensor_pb2.Tensor
    loss: _containers.RepeatedScalarFieldContainer[float]
    t1: _containers.RepeatedScalarFieldContainer[float]
    t2: _containers.RepeatedScalarFieldContainer[float]
    rho1: _containers.RepeatedScalarFieldContainer[float]
    rho2: _containers.RepeatedScalarFieldContainer[float]
    gradient_norm: float
    nonfinite: int
    network_rows: int
    reward_rows: int
    fingerprint: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    models: _containers.RepeatedCompositeFieldContainer[ModelPart]
    setup_rows: int
    setup_reward_rows: int
    ess: float
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., id: _Optional[str] = ..., gradient: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., loss: _Optional[_Iterable[float]] = ..., t1: _Optional[_Iterable[float]] = ..., t2: _Optional[_Iterable[float]] = ..., rho1: _Optional[_Iterable[float]] = ..., rho2: _Optional[_Iterable[float]] = ..., gradient_norm: _Optional[float] = ..., nonfinite: _Optional[int] = ..., network_rows: _Optional[int] = ..., reward_rows: _Optional[int] = ..., fingerprint: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ..., models: _Optional[_Iterable[_Union[ModelPart, _Mapping]]] = ..., setup_rows: _Optional[int] = ..., setup_reward_rows: _Optional[int] = ..., ess: _Optional[float] = ...) -> None: ...

class ModelPart(_message.Message):
    __slots__ = ("model", "version", "fingerprint", "loss", "t1", "t2", "rho1", "rho2")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    T1_FIELD_NUMBER: _ClassVar[int]
    T2_FIELD_NUMBER: _ClassVar[int]
    RHO1_FIELD_NUMBER: _ClassVar[int]
    RHO2_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    fingerprint: str
    loss: _containers.RepeatedScalarFieldContainer[float]
    t1: _containers.RepeatedScalarFieldContainer[float]
    t2: _containers.RepeatedScalarFieldContainer[float]
    rho1: _containers.RepeatedScalarFieldContainer[float]
    rho2: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., fingerprint: _Optional[str] = ..., loss: _Optional[_Iterable[float]] = ..., t1: _Optional[_Iterable[float]] = ..., t2: _Optional[_Iterable[float]] = ..., rho1: _Optional[_Iterable[float]] = ..., rho2: _Optional[_Iterable[float]] = ...) -> None: ...

class SessionRequest(_message.Message):
    __slots__ = ("common", "gradient")
    COMMON_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    common: GradientRequest
    gradient: GradientRequest
    def __init__(self, common: _Optional[_Union[GradientRequest, _Mapping]] = ..., gradient: _Optional[_Union[GradientRequest, _Mapping]] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("gradient", "error")
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    gradient: GradientResponse
    error: Failure
    def __init__(self, gradient: _Optional[_Union[GradientResponse, _Mapping]] = ..., error: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "id")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    id: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...
