"""Settings of every gRPC server and channel between clients, front and replicas."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import grpc

LONGEST_MESSAGE = 256 * 2**20
"""Most bytes of one message, in either direction."""

BESIDE = 2**20
"""Bytes of an answer for what comes with its tensors."""

LONGEST_ANSWER = LONGEST_MESSAGE - BESIDE
"""Most bytes of an answer's tensors, unless a setting says otherwise."""

# A peer whose machine or link vanished, or that was stopped, sends no reset; pings find out in 20 s, where TCP would
# take a quarter of an hour, or for ever.
PING_EVERY_S, PONG_WITHIN_S = 10.0, 10.0

Options = Sequence[tuple[str, int]]
Compression = Literal["none", "gzip", "deflate"]


def messages(longest: int = LONGEST_MESSAGE) -> Options:
    """Both directions take messages of at most so many bytes, counted once they are decompressed."""
    return (("grpc.max_receive_message_length", longest), ("grpc.max_send_message_length", longest))


@dataclass(frozen=True)
class Connections:
    """How the servers and channels of front and replicas are made; all processes of a server have the same.

    Args:
        max_message: most bytes of one message.
        compression: of the front's answers; requests may come compressed as they like.
        keepalive_s: seconds between two pings of a peer that has calls. keepalive_timeout_s: within which it answers.
        max_age_s: a client's connection to the front ends after so many seconds, within a tenth more or less; None: it
            lasts. Calls that run then may go on for grace_s.
        max_streams: most calls under way on one connection to the front; more wait in the client.
    """

    max_message: int = LONGEST_MESSAGE
    compression: Compression = "none"
    keepalive_s: float = PING_EVERY_S
    keepalive_timeout_s: float = PONG_WITHIN_S
    max_age_s: float | None = None
    grace_s: float = 30.0
    max_streams: int = 1000

    @property
    def longest_answer(self) -> int:
        """Most bytes of an answer's tensors."""
        return self.max_message - BESIDE

    @property
    def answers(self) -> grpc.Compression:
        """How the front compresses its answers."""
        kinds = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
        return kinds.get(self.compression, grpc.Compression.NoCompression)

    def front(self) -> Options:
        """Options of the public server."""
        ages = () if self.max_age_s is None else (("grpc.max_connection_age_ms", _ms(self.max_age_s)),)
        return (
            *self._server(),
            *ages,
            ("grpc.max_connection_age_grace_ms", _ms(self.grace_s)),
            ("grpc.max_concurrent_streams", self.max_streams),
        )

    def replica(self) -> Options:
        """Options of a replica's server."""
        return (
            *self._server(),
            # Pings here are a front's own keepalive. A replica that computes for long reads many of them at once; it
            # must not take them for an attack and hang up, which the front would take for its loss.
            ("grpc.http2.max_ping_strikes", 0),
            # Calls that wait to be taken in gRPC cancels in part beyond 1,000, and all after 30 s, which fronts would
            # take for the replica's loss too. How much may wait, the engine decides; how long, a call's own deadline.
            ("grpc.server.max_pending_requests", 2**20),
            ("grpc.server.max_pending_requests_hard_limit", 2**20),
            ("grpc.server_max_unrequested_time_in_server", 86_400),
        )

    def channel(self) -> Options:
        """Options of a front's channel to a replica."""
        return (
            *messages(self.max_message),
            *self._pings(),
            ("grpc.enable_http_proxy", 0),  # never through http_proxy: replicas are on our own network
            # A replica that starts on a dead one's port must not inherit its reconnect back-off.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        )

    def _server(self) -> Options:
        return (
            *messages(self.max_message),
            *self._pings(),  # clients answer any number of them, whatever they are made with: only servers count pings
            ("grpc.so_reuseport", 0),  # otherwise two servers would share a port silently
            # clients with a keepalive of their own may ping as often, and twice as often as our own channels do
            ("grpc.http2.min_recv_ping_interval_without_data_ms", min(5_000, _ms(self.keepalive_s / 2))),
        )

    def _pings(self) -> Options:
        timeout = _ms(self.keepalive_timeout_s)
        return (
            ("grpc.keepalive_time_ms", _ms(self.keepalive_s)),
            ("grpc.keepalive_timeout_ms", timeout),
            ("grpc.http2.ping_timeout_ms", timeout),  # the longer of both counts, and this one's default is a minute
        )


def _ms(seconds: float) -> int:
    return max(1, round(1000 * seconds))


CHANNEL = Connections().channel()
"""Of a channel to a server of ours whose settings are not known."""


def address(host: str, port: int) -> str:
    """`host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def to_service(
    service: str, *, attempts: int, first_ms: int, longest_ms: int, longest_reply: int = LONGEST_MESSAGE
) -> Sequence[tuple[str, int | str]]:
    """Options of a channel to a server that is not one of ours, which may be restarted while we call it.

    There is no keepalive: a server with gRPC's defaults takes pings during a long call for an attack and hangs up.

    Args:
        service: the full name of the gRPC service; calls of it that end UNAVAILABLE are made again.
        attempts: calls in all, the first included; gRPC makes 5 at most.
        first_ms: the pause before the second attempt, and before a lost connection is made again; each further pause
            is about twice the last.
        longest_ms: the longest pause between attempts.
        longest_reply: most bytes of a reply; a longer one is RESOURCE_EXHAUSTED before it is parsed.
    """
    policy = {
        "maxAttempts": attempts,
        "initialBackoff": f"{first_ms / 1000:g}s",
        "maxBackoff": f"{longest_ms / 1000:g}s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    retries = {"methodConfig": [{"name": [{"service": service}], "retryPolicy": policy}]}
    return (
        ("grpc.max_receive_message_length", longest_reply),
        ("grpc.max_send_message_length", LONGEST_MESSAGE),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", first_ms),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.service_config", json.dumps(retries)),
        ("grpc.per_rpc_retry_buffer_size", LONGEST_MESSAGE),  # larger messages would not be sent again
    )
