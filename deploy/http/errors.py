"""Errors as OpenAI's API has them: an HTTP status, and an object with one line of text."""

import json
import re
from typing import Any

from tiltserve import TiltserveError

_STATUSES: dict[str, tuple[int, str]] = {
    "INVALID_ARGUMENT": (400, "invalid_argument"),
    "FAILED_PRECONDITION": (400, "failed_precondition"),
    "OUT_OF_RANGE": (400, "invalid_argument"),
    "UNAUTHENTICATED": (401, "invalid_api_key"),
    "PERMISSION_DENIED": (403, "permission_denied"),
    "NOT_FOUND": (404, "model_not_found"),
    "ALREADY_EXISTS": (409, "already_exists"),
    "ABORTED": (409, "aborted"),
    "RESOURCE_EXHAUSTED": (429, "rate_limit_exceeded"),
    "CANCELLED": (499, "cancelled"),
    "UNIMPLEMENTED": (501, "unimplemented"),
    "UNAVAILABLE": (503, "unavailable"),
    "DEADLINE_EXCEEDED": (504, "deadline_exceeded"),
}
_NAMED = re.compile(r"(?:parameter )?'?([a-z]\w*)'?: ")
"""What a line of the server's begins with that is about one field."""


class HttpError(Exception):
    """A request that fails with an HTTP status; `message` says on one line what was expected and what came."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def told(self) -> dict[str, Any]:
        """The object that a client is told."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def body(self) -> bytes:
        return json.dumps(self.told()).encode()


def wrong(param: str, expected: str) -> HttpError:
    """A field that is not what it should be."""
    return HttpError(400, f"{param}: {expected}", "invalid_argument", param)


def of_status(status: str, message: str) -> HttpError:
    """For an error by the name of its gRPC status."""
    http, code = _STATUSES.get(status, (500, "internal"))
    named = _NAMED.match(message)
    return HttpError(http, message, code, named[1] if named and http == 400 else None)


def of(error: TiltserveError) -> HttpError:
    """For an error of the client."""
    return of_status(error.status, error.message)
