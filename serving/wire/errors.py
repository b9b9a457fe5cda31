"""The error of a failed request: one gRPC status and one line of text."""

import asyncio
from typing import NoReturn

import grpc
from grpc.aio import ServicerContext

ANSWERED = ("tiltserve-error", "1")
"""Trailing metadata of every error that a server of ours decided on. An error without it came from the transport."""
ELSEWHERE = ("tiltserve-error", "elsewhere")
"""The same where nothing was begun with the request: another replica may take it, and a client may send it again."""
BEGUN = ("tiltserve-begun", "1")
"""Initial metadata of a call that a replica has taken on: it was read, and did no harm."""

LONGEST, LONGEST_SENT = 1000, 3000
"""Characters of a text, and its bytes on the wire. It travels in an HTTP/2 header, where each byte that is no printable
ASCII becomes three (`%E2`); gRPC drops the whole call when the headers pass 8 KiB."""


class RequestError(Exception):
    """A request that fails with `code`; `detail` says on one line what was expected and what came.

    With `elsewhere` the front tries another replica. A replica has `counted` it in its statistics.
    """

    def __init__(self, code: grpc.StatusCode, detail: str, *, elsewhere: bool = False, counted: bool = False) -> None:
        self.code = code
        self.detail = one_line(detail)
        self.elsewhere, self.counted = elsewhere, counted
        super().__init__(self.detail)

    def __reduce__(self) -> tuple[type["RequestError"], tuple[grpc.StatusCode, str]]:
        return RequestError, (self.code, self.detail)


def one_line(text: str) -> str:
    """The text with single spaces, what cannot be printed as `\\x1b`, and cut where it gets too long."""
    line = " ".join(text[: 2 * LONGEST].split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    sent = cut = 0
    for length, character in enumerate(line, 1):
        sent += 1 if character.isascii() and character != "%" else 3 * len(character.encode())
        if length > LONGEST or sent > LONGEST_SENT:
            return line[:cut] + "..."
        if length <= LONGEST - 3 and sent <= LONGEST_SENT - 3:
            cut = length
    return line


def invalid(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, detail)


def not_found(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.NOT_FOUND, detail)


def unavailable(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.UNAVAILABLE, detail)


def draining(detail: str) -> RequestError:
    """A replica that is leaving takes no new request: the front sends it to another one."""
    return RequestError(grpc.StatusCode.UNAVAILABLE, detail, elsewhere=True)


def not_begun(detail: str) -> RequestError:
    """Nobody takes the request now, and nothing was begun with it: a client may send it again."""
    return RequestError(grpc.StatusCode.UNAVAILABLE, detail, elsewhere=True)


def exhausted(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, detail)


def deadline(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, detail)


def failed_precondition(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.FAILED_PRECONDITION, detail)


def unimplemented(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.UNIMPLEMENTED, detail)


def aborted(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.ABORTED, detail)


def model_control(method: str) -> RequestError:
    """Clients may not load and unload models here."""
    return RequestError(
        grpc.StatusCode.PERMISSION_DENIED,
        f"{method}: expected a server that was started with --allow-model-control, got one whose models clients may "
        "not load or unload",
    )


def internal(detail: str) -> RequestError:
    return RequestError(grpc.StatusCode.INTERNAL, detail)


async def abort(context: ServicerContext, error: RequestError) -> NoReturn:
    """Ends the call of `context` with the error's status."""
    beside = context.trailing_metadata() or ()  # what was to go with the answer goes with the error
    try:
        await context.abort(error.code, error.detail, (*beside, ELSEWHERE if error.elsewhere else ANSWERED))
    except grpc.aio.AbortError:
        raise
    except Exception:  # the call has ended already, and nobody waits for a status
        raise asyncio.CancelledError from None
    raise AssertionError("unreachable: abort raises")


def answered(error: grpc.aio.AioRpcError) -> bool:
    """True if the server decided on this error, False if the channel to it broke."""
    return ANSWERED in tuple(error.trailing_metadata() or ())


def left(error: grpc.aio.AioRpcError) -> bool:
    """True if the server is leaving and another may take the request."""
    return ELSEWHERE in tuple(error.trailing_metadata() or ())


def begun(error: grpc.aio.AioRpcError) -> bool:
    """True if the replica had taken on the call that failed."""
    return BEGUN in tuple(error.initial_metadata() or ())


def unsent(error: grpc.aio.AioRpcError) -> bool:
    """True if the call never left: there was nobody to connect to."""
    return "failed to connect" in (error.details() or "")


_NO_WAY = ("No route to host", "Connection timed out", "Host is down", "Network is unreachable")


def cut_off(error: grpc.aio.AioRpcError) -> bool:
    """True if not even the kernel of the other machine answered: it, or the way to it, is gone, and no request of ours
    has done that."""
    return any(each in (error.details() or "") for each in _NO_WAY)
