"""Answers to the probes of an orchestrator: plain HTTP on a port of its own, without TLS, tokens or anything to read.

Kubernetes' probes of gRPC speak no TLS, and those of HTTP show no client certificate, so neither can ask the public
port of a guarded front.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import ThreadingWSGIServer

PATIENCE_S = 5.0
"""Seconds in which a prober must go on with its request, and the front's event loop must answer."""
LIVE, READY = "/live", "/ready"
_TEXT = ("Content-Type", "text/plain; charset=utf-8")


class Probes:
    """Serves `/live` and `/ready`: 200, or 503 with the reason in one line. For the event loop of the front.

    Args:
        port: 0 for any free one.
        live: raises where the front is to be replaced; awaited in the loop, so a loop that hangs is not alive.
        ready: why it takes no requests, in one line; empty where it does. Read in the loop too.

    Raises:
        OSError: the port cannot be listened on.
    """

    def __init__(self, host: str, port: int, *, live: Callable[[], Awaitable[None]], ready: Callable[[], str]) -> None:
        self._live, self._ready, self._loop = live, ready, asyncio.get_running_loop()
        (family, *_, found), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)

        class Server(ThreadingWSGIServer):
            address_family = family

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Nothing: a prober that left tells nobody anything."""

        self._server: WSGIServer = make_server(str(found[0]), port, self._answer, Server, handler_class=_Handler)
        self.port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, name="probes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environment.get("PATH_INFO")
        if environment.get("REQUEST_METHOD") not in ("GET", "HEAD") or path not in (LIVE, READY):
            start("404 Not Found", [_TEXT])
            return [f"expected GET {LIVE} or GET {READY}\n".encode()]
        fault = self._fault(path)
        start("503 Service Unavailable" if fault else "200 OK", [_TEXT])
        return [f"{fault or 'yes'}\n".encode()]

    def _fault(self, path: str) -> str | None:
        """Asked in a thread of its own, answered in the front's loop."""
        try:
            asked = asyncio.run_coroutine_threadsafe(self._asked(path), self._loop)
        except RuntimeError:
            return "the front has stopped"
        try:
            return asked.result(PATIENCE_S)
        except (TimeoutError, CancelledError):
            asked.cancel()
            return f"the front did not answer within {PATIENCE_S:g} s"

    async def _asked(self, path: str) -> str | None:
        if path == READY:
            return self._ready() or None
        try:
            await self._live()
        except RuntimeError as error:
            return str(error)
        return None


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: a probe every few seconds is no news."""

    def handle(self) -> None:
        with suppress(TimeoutError):
            super().handle()
