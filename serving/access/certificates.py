"""TLS: a server's certificate and key and the authority of its clients, as files that are exchanged while it runs."""

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from serving.access.watched import LOOK_S, AccessError, Watched, content

Parsed = TypeVar("Parsed")
_AUTHORITY = "an authority's certificates in PEM"


@dataclass(frozen=True)
class Pems:
    """A certificate with the chain behind it, its key, and an authority's certificates; b"" for none."""

    chain: bytes
    key: bytes
    authority: bytes

    def __repr__(self) -> str:
        return "Pems(...)"


class Certificates:
    """The files of one side of a connection, read again when they change.

    Args:
        chain, key: of this side.
        authority: of the other side, which must then show a certificate that it signed; None for no such demand.

    Raises:
        AccessError: a file cannot be read, or the key is not the certificate's.
    """

    def __init__(self, chain: Path, key: Path, authority: Path | None = None, every_s: float = LOOK_S) -> None:
        self._paths = chain, key, authority
        files = [each for each in self._paths if each is not None]
        self._watched = Watched(files, lambda: _read(chain, key, authority), every_s)
        self._lock = threading.Lock()
        self._context: tuple[Pems, ssl.SSLContext] | None = None

    def current(self) -> Pems:
        """The files as they could last be read."""
        return self._watched.get()

    @property
    def mutual(self) -> bool:
        """Whether the other side must show a certificate."""
        return self._paths[2] is not None

    def server(self) -> grpc.ServerCredentials:
        """Of a gRPC server; each new connection gets the certificate of its time, others go on with theirs."""
        given = self.current()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            now = self.current()
            if now is given:
                return None
            given = now
            return _configuration(now)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given), fetch, require_client_authentication=self.mutual
        )

    def client(self) -> grpc.ChannelCredentials:
        """Of a channel to a server that shows a certificate of the authority; they stay what they are now."""
        now = self.current()
        return grpc.ssl_channel_credentials(now.authority or None, now.key, now.chain)

    def context(self) -> ssl.SSLContext:
        """Of a server's next connection that is no gRPC."""
        now = self.current()
        with self._lock:
            if self._context is None or self._context[0] is not now:
                try:
                    self._context = now, self._made(now)
                except (OSError, ssl.SSLError):  # exchanged since it was read: the next look sees that
                    if self._context is None:
                        raise
            return self._context[1]

    def _made(self, now: Pems) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        chain, key, _ = self._paths
        context.load_cert_chain(chain, key)
        if now.authority:
            context.load_verify_locations(cadata=now.authority.decode())
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.chain)], pems.authority or None)


def _read(chain: Path, key: Path, authority: Path | None) -> Pems:
    """The files, each what it should be, and the key the certificate's; during an exchange they may not be."""
    pems = Pems(
        content(chain, "a certificate in PEM"),
        content(key, "a private key in PEM"),
        content(authority, _AUTHORITY) if authority else b"",
    )
    first = _parsed(chain, "a certificate in PEM", lambda: x509.load_pem_x509_certificates(pems.chain)[0])
    private = _parsed(key, "a private key in PEM without a passphrase", lambda: load_pem_private_key(pems.key, None))
    if authority is not None:
        _parsed(
            authority, "an authority's certificates in PEM", lambda: x509.load_pem_x509_certificates(pems.authority)
        )
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if first.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        raise AccessError(f"{key}: expected the key of the certificate in {chain}, got another key")
    return pems


def _parsed(path: Path, what: str, parse: Callable[[], Parsed]) -> Parsed:
    try:
        return parse()
    except Exception as error:  # ValueError, TypeError for a passphrase, UnsupportedAlgorithm; none tells of a key
        raise AccessError(f"{path}: expected {what}, got something else ({type(error).__name__})") from None
