"""The error of a failed request: one gRPC status and one line of text."""

from typing import NoReturn

import grpc
from grpc.aio import ServicerContext

ANSWERED = ("tiltserve-error", "1")
"""Trailing metadata of every error that a server of ours decided on. An error without it came from the transport."""

# The text travels in an HTTP/2 header; gRPC drops the whole call when the headers pass 8 KiB.
_LONGEST = 1000


class RequestError(Exception):
    """A request that fails with `code`; `detail` says on one line what was expected and what came.

    With `elsewhere` the error is sent without the `ANSWERED` mark, so that the front tries another replica.
    """

    def __init__(self, code: grpc.StatusCode, detail: str, *, elsewhere: bool = False) -> None:
        line = " ".join(detail.split())
        self.code = code
        self.detail = line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
        self.elsewhere = elsewhere
        super().__init__(self.detail)

    def __reduce__(self) -> tuple[type["RequestError"], tuple[grpc.StatusCode, str]]:
        return RequestError, (self.code, self.detail)


def invalid(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, detail)


def not_found(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.NOT_FOUND, detail)


def unavailable(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.UNAVAILABLE, detail)


def draining(detail: str) -> RequestError:
    """A replica that is leaving takes no new request: the front sends it to another one."""
    return RequestError(grpc.StatusCode.UNAVAILABLE, detail, elsewhere=True)


def exhausted(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, detail)


def deadline(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, detail)


def failed_precondition(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.FAILED_PRECONDITION, detail)


def unimplemented(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.UNIMPLEMENTED, detail)


def internal(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.INTERNAL, detail)


async def abort(context: ServicerContext, error: RequestError) -> NoReturn:
    """Ends the call of `context` with the error's status."""
    await context.abort(error.code, error.detail, () if error.elsewhere else (ANSWERED,))
    raise AssertionError("unreachable: abort raises")


def answered(error: grpc.aio.AioRpcError) -> bool:
    """True if the server decided on this error, False if the channel to it broke."""
    return ANSWERED in tuple(error.trailing_metadata() or ())
