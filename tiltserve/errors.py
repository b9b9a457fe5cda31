"""What a call can end with: one exception for each gRPC status, with the server's line."""

from collections.abc import Iterable
from typing import Any

import grpc


class TiltserveError(Exception):
    """A call that failed: `status` is gRPC's name for it, `message` one line that says what was expected and what came.

    Attributes:
        unbegun: nothing was begun, so that the same call may be sent again.
    """

    status = "UNKNOWN"

    def __init__(self, message: str, *, unbegun: bool = False) -> None:
        super().__init__(message)
        self.message = " ".join(message.split()) or "no detail"
        self.unbegun = unbegun

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"


class InvalidArgument(TiltserveError, ValueError):
    """The request is wrong: the server says so, or the client before it sends anything."""

    status = "INVALID_ARGUMENT"


class NotFound(TiltserveError):
    """There is no such model, or not in this version."""

    status = "NOT_FOUND"


class AlreadyExists(TiltserveError):
    """What is to be made is there already."""

    status = "ALREADY_EXISTS"


class Unauthenticated(TiltserveError):
    """The server wants a token or a certificate, and this one will not do."""

    status = "UNAUTHENTICATED"


class PermissionDenied(TiltserveError):
    """The server knows who asks, and does not allow it."""

    status = "PERMISSION_DENIED"


class ResourceExhausted(TiltserveError):
    """The queue is full, the deadline could not be met, or a limit is reached; the message names it."""

    status = "RESOURCE_EXHAUSTED"


class FailedPrecondition(TiltserveError):
    """The request is well formed and cannot be answered, such as for a reward that is NaN."""

    status = "FAILED_PRECONDITION"


class DeadlineExceeded(TiltserveError):
    """No answer within `timeout`."""

    status = "DEADLINE_EXCEEDED"


class Unavailable(TiltserveError):
    """The server cannot be reached, is stopping, or has not loaded the model yet."""

    status = "UNAVAILABLE"


class Unimplemented(TiltserveError):
    """This server does not serve the call."""

    status = "UNIMPLEMENTED"


class Internal(TiltserveError):
    """The server failed; its log says why."""

    status = "INTERNAL"


class Cancelled(TiltserveError):
    """The call was given up."""

    status = "CANCELLED"


_KINDS = {
    kind.status: kind
    for kind in (
        InvalidArgument, NotFound, AlreadyExists, Unauthenticated, PermissionDenied, ResourceExhausted,
        FailedPrecondition, DeadlineExceeded, Unavailable, Unimplemented, Internal, Cancelled,
    )
}  # fmt: skip
_MARK, _ELSEWHERE = "tiltserve-error", "elsewhere"
"""Trailing metadata of errors that a server of ours decided on, and its value where the request was not begun."""


def of(
    code: grpc.StatusCode, details: str | None, trailing: Iterable[tuple[str, str | bytes]] | None
) -> TiltserveError:
    """The exception of a call that ended with a status.

    Without our mark in the trailing metadata an UNAVAILABLE comes from the transport: nobody was there, or the
    connection broke. A server's own is repeated only where the server says that the request was not begun: a request
    that replicas died of must not be sent to the others.
    """
    kind = _KINDS.get(code.name, TiltserveError)
    marks = {value for name, value in trailing or () if name == _MARK}
    error = kind(details or "", unbegun=not marks or _ELSEWHERE in marks)
    error.status = code.name
    return error


def of_call(error: Any) -> TiltserveError:
    """The exception for one of gRPC's, of threads or of asyncio."""
    return of(error.code(), error.details(), error.trailing_metadata())


def of_number(code: int, message: str) -> TiltserveError:
    """The exception of an error that came inside a stream with gRPC's number of a status."""
    name = next((each.name for each in grpc.StatusCode if each.value[0] == code), None)
    return TiltserveError(message) if name is None else _KINDS.get(name, TiltserveError)(message)


def in_band(message: str) -> TiltserveError:
    """The exception of an error that came inside a stream: `[StatusCode.NAME] line`, as Triton's clients write it, or a
    line alone."""
    status, closed, line = message.removeprefix("[StatusCode.").partition("] ")
    kind = _KINDS.get(status) if closed else None
    return TiltserveError(message) if kind is None else kind(line)
