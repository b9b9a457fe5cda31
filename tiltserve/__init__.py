"""Draw samples from a tiltserve server, plain or steered, with numpy and gRPC alone.

from tiltserve import Client

with Client("127.0.0.1:8001") as client:
    sevens = client.sample("digits", n=16, reward="classifier", label=7, seed=1)
sevens.samples, sevens.rewards, sevens.report
"""

from tiltserve.address import TLS
from tiltserve.aio import AsyncClient, AsyncStream
from tiltserve.answers import Group, Inferred, Likelihood, Preview, Report, Samples, Time
from tiltserve.client import Client, Stream
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
from tiltserve.listings import Fleet, Metadata, Model, Replica, Statistics, Tensor
from tiltserve.pipelines import AsyncPipeline, Pipeline, PipelineOutput

__all__ = [
    "TLS",
    "AlreadyExists",
    "AsyncClient",
    "AsyncPipeline",
    "AsyncStream",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Fleet",
    "Group",
    "Inferred",
    "Internal",
    "InvalidArgument",
    "Likelihood",
    "Metadata",
    "Model",
    "NotFound",
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
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]
