"""Where a server is and how it is reached: URLs, TLS, and options of the channel."""

import ipaddress
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from tiltserve.errors import InvalidArgument

DEFAULT = "127.0.0.1:8001"
LONGEST_MESSAGE = 256 * 2**20
"""Most bytes of one message, as the server has it."""
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", LONGEST_MESSAGE),
    ("grpc.max_send_message_length", LONGEST_MESSAGE),
    ("grpc.primary_user_agent", "tiltserve-client"),
    # a server that was restarted is found again within the pauses between retries; min_reconnect_backoff_ms is left
    # alone, since it is how long a handshake may take
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True)
class TLS:
    """What a TLS connection needs: PEM files by path, or their bytes.

    Attributes:
        ca: certificates that are trusted; None for those of the system.
        cert, key: the client's own, where the server asks for them.
        server_name: the name that the server's certificate has, where it is not the address's.
    """

    ca: str | Path | bytes | None = None
    cert: str | Path | bytes | None = None
    key: str | Path | bytes | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InvalidArgument("tls: expected cert and key together, got one of them")

    def credentials(self) -> grpc.ChannelCredentials:
        """gRPC's form of it; `InvalidArgument` for a file that cannot be read."""
        return grpc.ssl_channel_credentials(
            root_certificates=_pem("ca", self.ca),
            private_key=_pem("key", self.key),
            certificate_chain=_pem("cert", self.cert),
        )


@dataclass(frozen=True)
class Address:
    """A server: `target` is gRPC's name for it, `tls` None for plain text."""

    target: str
    tls: TLS | None = None

    @classmethod
    def of(cls, url: str, tls: TLS | bool | None = None) -> "Address":
        """From `host:port`, `grpc://host:port`, `grpcs://host:port` (TLS) or `unix:/path`; raises `InvalidArgument`.

        Args:
            tls: True for TLS with the system's certificates; None for what the URL says.
        """
        scheme, found, rest = url.partition("://")
        if not found:
            scheme, rest = ("unix", url.removeprefix("unix:")) if url.startswith("unix:") else ("grpc", url)
        if scheme not in ("grpc", "grpcs", "unix"):
            raise InvalidArgument(f"url: expected grpc://, grpcs:// or unix:, got {url!r}")
        if scheme == "grpcs" and tls is False:
            raise InvalidArgument(f"tls: expected TLS for {url!r}, got False")
        if scheme == "grpc" and found and tls:
            raise InvalidArgument(f"url: expected grpcs:// beside tls, got {url!r}")
        chosen = tls if isinstance(tls, TLS) else TLS() if tls or scheme == "grpcs" else None
        if scheme == "unix":
            if not rest.startswith("/"):
                raise InvalidArgument(f"url: expected unix:/path, got {url!r}")
            return cls(f"unix:{rest}", chosen)
        host, colon, port = rest.rstrip("/").rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
            raise InvalidArgument(f"url: expected HOST:PORT, got {url!r}")
        return cls(f"{host}:{port}", chosen)

    @property
    def local(self) -> bool:
        """Whether it is a socket of this machine."""
        host = self.target.rpartition(":")[0].strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return self.target.startswith("unix:") or host == "localhost"

    def headers(self, token: str | None) -> list[tuple[str, str]]:
        """The metadata of every call. Warns where the token would be readable on its way; `InvalidArgument` for one
        that no header can carry."""
        if not token:
            return []
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise InvalidArgument("token: expected printable ASCII without spaces, got something else")
        if self.tls is None and not self.local:
            told = f"the token is sent to {self.target} in plain text; grpcs:// or tls= would hide it"
            warnings.warn(told, stacklevel=3)
        return [("authorization", f"Bearer {token}")]

    @property
    def options(self) -> list[tuple[str, int | str]]:
        """Of the channel. This machine, addresses of private networks and names without a dot are reached directly;
        only for others does gRPC look at http_proxy, and at no_proxy."""
        options = list(_OPTIONS)
        if not _far(self.target):
            options.append(("grpc.enable_http_proxy", 0))
        if self.tls is not None and self.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options


def _far(target: str) -> bool:
    host = target.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not target.startswith("unix:")


def _pem(name: str, value: str | Path | bytes | None) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    try:
        return Path(value).read_bytes()
    except OSError as error:
        raise InvalidArgument(
            f"tls: expected a readable file for {name}, got {str(value)!r}: {error.strerror}"
        ) from None
