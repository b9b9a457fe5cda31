"""A page of metrics, of a front or a replica: Prometheus' own, with a token and TLS where there are any."""

import hmac
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from serving.access.certificates import Certificates
from serving.access.watched import Watched

_log = logging.getLogger(__name__)
PATIENCE_S = 10.0
"""Seconds in which a client must go on with a handshake or a request."""
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Page:
    """Serves a registry over HTTP from threads of its own.

    Args:
        port: 0 for any free one.
        token: what readers must send as `Authorization: Bearer`; None for nothing.
        certificates: of HTTPS; None for HTTP.
        parts: other registries by their path; every other path shows the whole `registry`.

    Raises:
        OSError: the port cannot be listened on.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        token: Watched[bytes] | None = None,
        certificates: Certificates | None = None,
        parts: Mapping[str, CollectorRegistry] = MappingProxyType({}),
    ) -> None:
        pages = _by_path(make_wsgi_app(registry), {path: make_wsgi_app(part) for path, part in parts.items()})
        (family, *_, found), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)

        class Server(ThreadingWSGIServer):
            """Each reader's handshake is on the reader's own thread: a slow one holds up nobody."""

            address_family = family

            def get_request(self) -> tuple[socket.socket, Any]:
                connection, address = super().get_request()
                if certificates is not None:
                    connection = certificates.context().wrap_socket(
                        connection, server_side=True, do_handshake_on_connect=False
                    )
                return connection, address

            def handle_error(self, request: Any, client_address: Any) -> None:
                _log.debug("a reader of the metrics page left", exc_info=True)

        application = pages if token is None else _guarded(pages, token)
        self._server: WSGIServer = make_server(str(found[0]), port, application, Server, handler_class=_Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it, after the page that is being made."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: a scrape every few seconds is no news."""


def _by_path(whole: Wsgi, parts: Mapping[str, Wsgi]) -> Wsgi:
    def chosen(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        return parts.get(environment.get("PATH_INFO", "").rstrip("/"), whole)(environment, start)

    return chosen


def _guarded(pages: Wsgi, token: Watched[bytes]) -> Wsgi:
    def guarded(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        scheme, _, came = environment.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(came.strip().encode("latin-1"), token.get()):
            return pages(environment, start)
        start("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Type", "text/plain; charset=utf-8")])
        return [b"expected the token of the metrics page as Authorization: Bearer\n"]

    return guarded
