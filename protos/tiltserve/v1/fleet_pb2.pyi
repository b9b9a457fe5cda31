from protos.tiltserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsReply(_message.Message):
    __slots__ = ("models", "replicas")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "versions", "state", "reason", "kind")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    name: str
    versions: _containers.RepeatedScalarFieldContainer[str]
    state: str
    reason: str
    kind: str
    def __init__(self, name: _Optional[str] = ..., versions: _Optional[_Iterable[str]] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., kind: _Optional[str] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("id", "address", "pid", "backlog_rows", "draining", "fingerprints")
    class FingerprintsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_ROWS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    address: str
    pid: int
    backlog_rows: int
    draining: bool
    fingerprints: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[str] = ..., address: _Optional[str] = ..., pid: _Optional[int] = ..., backlog_rows: _Optional[int] = ..., draining: _Optional[bool] = ..., fingerprints: _Optional[_Mapping[str, str]] = ...) -> None: ...

class LogLevels(_message.Message):
    __slots__ = ("info", "warning", "error", "verbose")
    INFO_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    VERBOSE_FIELD_NUMBER: _ClassVar[int]
    info: bool
    warning: bool
    error: bool
    verbose: int
    def __init__(self, info: _Optional[bool] = ..., warning: _Optional[bool] = ..., error: _Optional[bool] = ..., verbose: _Optional[int] = ...) -> None: ...

class LogReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MetricsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MetricsReply(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class BeatRequest(_message.Message):
    __slots__ = ("release", "replica")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    release: str
    replica: ReplicaReport
    def __init__(self, release: _Optional[str] = ..., replica: _Optional[_Union[ReplicaReport, _Mapping]] = ...) -> None: ...

class BeatReply(_message.Message):
    __slots__ = ("wishes",)
    WISHES_FIELD_NUMBER: _ClassVar[int]
    wishes: _containers.RepeatedCompositeFieldContainer[ModelWish]
    def __init__(self, wishes: _Optional[_Iterable[_Union[ModelWish, _Mapping]]] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("release", "replica_id")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    release: str
    replica_id: str
    def __init__(self, release: _Optional[str] = ..., replica_id: _Optional[str] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("release",)
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    release: str
    def __init__(self, release: _Optional[str] = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("replicas", "left", "epoch", "lease_seconds", "fronts")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FRONTS_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaReport]
    left: _containers.RepeatedScalarFieldContainer[str]
    epoch: str
    lease_seconds: float
    fronts: _containers.RepeatedCompositeFieldContainer[FrontReport]
    def __init__(self, replicas: _Optional[_Iterable[_Union[ReplicaReport, _Mapping]]] = ..., left: _Optional[_Iterable[str]] = ..., epoch: _Optional[str] = ..., lease_seconds: _Optional[float] = ..., fronts: _Optional[_Iterable[_Union[FrontReport, _Mapping]]] = ...) -> None: ...

class AnnounceRequest(_message.Message):
    __slots__ = ("release", "front")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    FRONT_FIELD_NUMBER: _ClassVar[int]
    release: str
    front: FrontReport
    def __init__(self, release: _Optional[str] = ..., front: _Optional[_Union[FrontReport, _Mapping]] = ...) -> None: ...

class AnnounceReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FrontReport(_message.Message):
    __slots__ = ("grpc_address", "metrics_address")
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    grpc_address: str
    metrics_address: str
    def __init__(self, grpc_address: _Optional[str] = ..., metrics_address: _Optional[str] = ...) -> None: ...

class ReplicaReport(_message.Message):
    __slots__ = ("id", "address", "pid", "models", "backlog_rows", "draining", "beat", "threads", "wishes")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_ROWS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    WISHES_FIELD_NUMBER: _ClassVar[int]
    id: str
    address: str
    pid: int
    models: _containers.RepeatedCompositeFieldContainer[ModelReport]
    backlog_rows: int
    draining: bool
    beat: int
    threads: int
    wishes: _containers.RepeatedCompositeFieldContainer[ModelWish]
    def __init__(self, id: _Optional[str] = ..., address: _Optional[str] = ..., pid: _Optional[int] = ..., models: _Optional[_Iterable[_Union[ModelReport, _Mapping]]] = ..., backlog_rows: _Optional[int] = ..., draining: _Optional[bool] = ..., beat: _Optional[int] = ..., threads: _Optional[int] = ..., wishes: _Optional[_Iterable[_Union[ModelWish, _Mapping]]] = ...) -> None: ...

class ModelReport(_message.Message):
    __slots__ = ("name", "version", "kind", "state", "reason", "fingerprint", "inputs", "outputs", "backend", "device", "most_rows", "usual_rows", "draws", "cold", "solves")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MOST_ROWS_FIELD_NUMBER: _ClassVar[int]
    USUAL_ROWS_FIELD_NUMBER: _ClassVar[int]
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    COLD_FIELD_NUMBER: _ClassVar[int]
    SOLVES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    kind: str
    state: str
    reason: str
    fingerprint: str
    inputs: _containers.RepeatedCompositeFieldContainer[TensorReport]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorReport]
    backend: str
    device: str
    most_rows: int
    usual_rows: int
    draws: DrawsReport
    cold: bool
    solves: SolvesReport
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., fingerprint: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[TensorReport, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorReport, _Mapping]]] = ..., backend: _Optional[str] = ..., device: _Optional[str] = ..., most_rows: _Optional[int] = ..., usual_rows: _Optional[int] = ..., draws: _Optional[_Union[DrawsReport, _Mapping]] = ..., cold: _Optional[bool] = ..., solves: _Optional[_Union[SolvesReport, _Mapping]] = ...) -> None: ...

class SolvesReport(_message.Message):
    __slots__ = ("starts", "rows")
    STARTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    starts: _containers.RepeatedScalarFieldContainer[str]
    rows: int
    def __init__(self, starts: _Optional[_Iterable[str]] = ..., rows: _Optional[int] = ...) -> None: ...

class TensorReport(_message.Message):
    __slots__ = ("name", "datatype", "shape", "optional", "column")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    optional: bool
    column: bool
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., optional: _Optional[bool] = ..., column: _Optional[bool] = ...) -> None: ...

class DrawsReport(_message.Message):
    __slots__ = ("defaults", "without_null_rows", "units")
    class DefaultsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Value, _Mapping]] = ...) -> None: ...
    class UnitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_NULL_ROWS_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    defaults: _containers.MessageMap[str, _tensor_pb2.Value]
    without_null_rows: bool
    units: _containers.ScalarMap[str, float]
    def __init__(self, defaults: _Optional[_Mapping[str, _tensor_pb2.Value]] = ..., without_null_rows: _Optional[bool] = ..., units: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ModelWish(_message.Message):
    __slots__ = ("name", "loaded", "revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    loaded: bool
    revision: int
    def __init__(self, name: _Optional[str] = ..., loaded: _Optional[bool] = ..., revision: _Optional[int] = ...) -> None: ...
