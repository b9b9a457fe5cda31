"""Before a call is read: who makes it, and whether he may."""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import grpc
from grpc.aio import ServicerContext

from serving.access.caller import ANYBODY, HEADER, NO_LIMITS, Caller, answering, heard
from serving.access.methods import GROUPS, Group
from serving.access.tokens import Table
from serving.access.watched import AccessError, Watched
from serving.wire import errors
from serving.wire.errors import RequestError

INTERNAL = "tiltserve-internal"
"""Metadata with the token that the processes of one server share."""
_SCHEME = "bearer "


Refused = Callable[[str, ServicerContext, grpc.StatusCode], None]
"""Told of a call that is refused: the name of its method, "" for one that there is not."""


def _ignored(method: str, context: ServicerContext, code: grpc.StatusCode) -> None: ...


class Gate(grpc.aio.ServerInterceptor):
    """Refuses calls by their metadata alone, whatever they are about to send.

    Args:
        tokens: the identities; None where nobody needs a token.
        internal: the token of this server's processes, which may do everything; "" for none.
        closed: only these processes may call.
        direct: callers come past the front, which would keep their limits: those who have some are refused.
        refused: told of each refusal, in the name of the caller where one is known.
    """

    def __init__(
        self,
        tokens: Watched[Table] | None = None,
        *,
        internal: str = "",
        closed: bool = False,
        direct: bool = False,
        refused: Refused = _ignored,
    ) -> None:
        self._tokens, self._internal, self._closed, self._direct = tokens, internal, closed, direct
        self._refused = refused

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Implements `grpc.aio.ServerInterceptor`: the method's handler, or one that refuses the call."""
        path = handler_call_details.method
        group = GROUPS.get(path)
        try:
            who = self._caller(group, handler_call_details.invocation_metadata)
            answering(who)  # gRPC runs handlers in the task that asks interceptors
            if group not in ("health", "internal"):
                self._check(path, group, who)
        except RequestError as error:
            return self._refusing(path, error)
        handler = await continuation(handler_call_details)
        if group is None and handler is not None:
            none = errors.RequestError(grpc.StatusCode.PERMISSION_DENIED, f"{path} belongs to no group")
            return self._refusing(path, none)
        return handler

    def _caller(self, group: Group | None, sent: Sequence[tuple[str, str | bytes]]) -> Caller:
        """Who calls; UNAUTHENTICATED where that is needed and not known."""
        if group == "health":
            return ANYBODY
        metadata: Mapping[str, str | bytes] = dict(sent)
        if self._internal and (came := metadata.get(INTERNAL)) is not None:
            if not hmac.compare_digest(str(came).encode(), self._internal.encode()):
                raise _unknown("expected the internal token of this server, got another one")
            told = metadata.get(HEADER)
            return ANYBODY if told is None else heard(bytes(told) if isinstance(told, bytes) else told.encode())
        if self._closed or (self._internal and group == "internal"):
            raise _unknown("expected a call of this server's own front, got one without its token")
        if self._tokens is None:
            return ANYBODY
        return bearer(self._tokens.get(), metadata.get("authorization"), group)

    def _check(self, path: str, group: Group | None, who: Caller) -> None:
        name = path.rpartition("/")[2]
        if group is not None and group not in who.rights:
            held = ", ".join(sorted(who.rights)) or "none"
            raise errors.RequestError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{name}: expected the right {group!r}, {who.name!r} has {held}",
            )
        if self._direct and who.limits != NO_LIMITS:
            raise errors.RequestError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{name}: expected {who.name!r}, who has limits, at a front, which keeps them, got it at a replica",
            )

    def _refusing(self, path: str, error: RequestError) -> grpc.RpcMethodHandler:
        """Ends a call of any kind; as a stream of which nothing is read, however long its messages are."""

        async def refuse(messages: AsyncIterator[bytes], context: ServicerContext) -> None:
            self._refused(path.rpartition("/")[2] if path in GROUPS else "", context, error.code)
            await errors.abort(context, error)

        return grpc.stream_stream_rpc_method_handler(refuse)


def bearer(table: Table, sent: str | bytes | None, group: Group | None) -> Caller:
    """The caller with this token, or without one, for a method of this group; `RequestError` if that is nobody."""
    if sent is None:
        if table.anonymous is not None and (group is None or group in table.anonymous.rights):
            return table.anonymous
        raise _unknown("expected a bearer token in metadata authorization, got none")
    text = sent if isinstance(sent, str) else sent.decode("latin-1")
    if not text[: len(_SCHEME)].lower() == _SCHEME:
        raise _unknown("expected a bearer token in metadata authorization, got something else")
    try:
        return table.caller(text[len(_SCHEME) :].strip())
    except AccessError as error:
        raise _unknown(str(error)) from None


def _unknown(text: str) -> RequestError:
    return errors.RequestError(grpc.StatusCode.UNAUTHENTICATED, text)
