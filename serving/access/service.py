"""A server of somebody else: where it is, how its certificate is judged, and what it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grpc

from serving.access.watched import AccessError, Watched, content

LEAST, MOST = 16, 4096
"""Characters of a token that somebody else made: fewer could be tried out, more do not fit into a call's headers."""


def secret(path: Path) -> Watched[bytes]:
    """A file that holds a token and nothing else, read again when it changes; AccessError where it does not."""

    def read() -> bytes:
        found = content(path, "a token").strip()
        if not LEAST <= len(found) <= MOST or not found.isascii() or len(found.split()) != 1:
            raise AccessError(f"{path}: expected a token of {LEAST} to {MOST} characters without spaces, got another")
        return found

    return Watched([path], read)


@dataclass(frozen=True)
class Service:
    """A gRPC server.

    Attributes:
        address: host:port, and what else the user of it writes there.
        tls: whether it shows a certificate.
        ca: certificates of the authority that signed it; None for those that the world trusts.
        cert, key: what it is shown; None for nothing.
        token_file: holds the token that goes with each call; None for none.
    """

    address: str
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token_file: Path | None = None

    @cached_property
    def _token(self) -> Watched[bytes] | None:
        return None if self.token_file is None else secret(self.token_file)

    @property
    def headers(self) -> dict[str, str]:
        """Metadata of a call."""
        return {} if self._token is None else {"authorization": f"Bearer {self._token.get().decode()}"}

    def channel(self, options: Sequence[tuple[str, int | str]]) -> grpc.aio.Channel:
        """A channel to it, with the certificates of now; AccessError where they cannot be read."""
        if not self.tls:
            return grpc.aio.insecure_channel(self.address, options=options)
        files = (self.ca, "certificates"), (self.key, "a key"), (self.cert, "a certificate")
        given = [None if path is None else content(path, f"{what} in PEM") for path, what in files]
        return grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(*given), options=options)


def service(where: "str | Service") -> Service:
    """A service that is given by its address alone is asked in plain text."""
    return Service(where) if isinstance(where, str) else where
