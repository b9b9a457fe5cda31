"""To which group each method belongs: what a caller needs the right for."""

from collections.abc import Mapping
from typing import Literal

from serving.access.caller import Right

Group = Right | Literal["health", "internal"]
"""`health` is open to all who reach the port; `internal` is for the fronts of the same server."""

_INFERENCE: Mapping[Group, tuple[str, ...]] = {
    "health": ("ServerLive", "ServerReady", "ModelReady"),
    "metadata": ("ServerMetadata", "ModelMetadata", "ModelConfig", "RepositoryIndex"),
    "inference": ("ModelInfer", "ModelStreamInfer"),
    "statistics": ("ModelStatistics",),
    "repository": ("RepositoryModelLoad", "RepositoryModelUnload"),
    "shared_memory": tuple(
        f"{kind}SharedMemory{what}" for kind in ("System", "Cuda") for what in ("Status", "Register", "Unregister")
    ),
    "trace": ("TraceSetting",),
    "log": ("LogSettings",),
}

GROUPS: Mapping[str, Group] = {
    **{f"/inference.GRPCInferenceService/{name}": group for group, names in _INFERENCE.items() for name in names},
    "/grpc.health.v1.Health/Check": "health",
    "/grpc.health.v1.Health/Watch": "health",
    "/grpc.health.v1.Health/List": "metadata",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "metadata",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": "metadata",
    "/tiltserve.v1.Fleet/ListModels": "metadata",
    "/tiltserve.v1.Sampling/SampleInteractive": "inference",
    "/tiltserve.v1.Distillation/Gradient": "inference",
    "/tiltserve.v1.Distillation/Session": "inference",
    "/tiltserve.v1.ReplicaInternal/Metrics": "internal",
    "/tiltserve.v1.ReplicaInternal/Log": "internal",
    "/tiltserve.v1.ReplicaRepository/ListFolders": "internal",
    "/tiltserve.v1.ReplicaRepository/LoadModel": "internal",
    "/tiltserve.v1.ReplicaRepository/UnloadModel": "internal",
    **{f"/tiltserve.v1.Directory/{name}": "internal" for name in ("Beat", "Leave", "List", "Announce")},
}
"""By the path of a method. One that is served and not listed here is refused."""
