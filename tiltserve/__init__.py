"""Draw samples from a tiltserve server, plain or steered, with numpy and gRPC alone.

from tiltserve import Client

with Client("127.0.0.1:8001") as client:
    sevens = client.sample("digits", n=16, reward="classifier", label=7, seed=1)
sevens.samples, sevens.rewards, sevens.report
"""

from typing import TYPE_CHECKING, Any

from tiltserve.address import TLS
from tiltserve.aio import AsyncClient, AsyncDistillation, AsyncStream, AsyncTrajectoryStream
from tiltserve.answers import Group, Inferred, Likelihood, Pair, Preview, Report, Samples, Time
from tiltserve.client import Client, Distillation, Stream, TrajectoryStream
from tiltserve.distillation import Gradient
from tiltserve.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    TiltserveError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from tiltserve.latents import spherical
from tiltserve.listings import Fleet, Metadata, Model, Replica, Statistics, Tensor
from tiltserve.pipelines import AsyncPipeline, Pipeline, PipelineOutput
from tiltserve.solving import Chunk, Trajectories

if TYPE_CHECKING:
    from tiltserve.losses import as_loss, distill_loss

__all__ = [
    "TLS",
    "AlreadyExists",
    "AsyncClient",
    "AsyncDistillation",
    "AsyncPipeline",
    "AsyncStream",
    "AsyncTrajectoryStream",
    "Cancelled",
    "Chunk",
    "Client",
    "DeadlineExceeded",
    "Distillation",
    "FailedPrecondition",
    "Fleet",
    "Gradient",
    "Group",
    "Inferred",
    "Internal",
    "InvalidArgument",
    "Likelihood",
    "Metadata",
    "Model",
    "NotFound",
    "Pair",
    "PermissionDenied",
    "Pipeline",
    "PipelineOutput",
    "Preview",
    "Replica",
    "Report",
    "ResourceExhausted",
    "Samples",
    "Statistics",
    "Stream",
    "Tensor",
    "TiltserveError",
    "Time",
    "Trajectories",
    "TrajectoryStream",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "as_loss",
    "distill_loss",
    "spherical",
]


def __getattr__(name: str) -> Any:
    """Losses need torch, which the client does not: they are imported when they are asked for."""
    if name in ("as_loss", "distill_loss"):
        from tiltserve import losses

        return getattr(losses, name)
    raise AttributeError(f"module 'tiltserve' has no attribute {name!r}")
