"""Settings of every gRPC server and channel between clients, front and replicas."""

import json
from collections.abc import Sequence

LONGEST_MESSAGE = 256 * 2**20
"""Most bytes of one message, in either direction."""

LONGEST_ANSWER = LONGEST_MESSAGE - 2**20
"""Most bytes of an answer's tensors: the rest is for what comes with them."""

# A peer whose machine or link vanished, or that was stopped, sends no reset; pings find out in 20 s, where TCP would
# take a quarter of an hour, or for ever.
_PING_EVERY_MS, _PONG_WITHIN_MS = 10_000, 10_000

Options = Sequence[tuple[str, int]]

MESSAGES: Options = (
    ("grpc.max_receive_message_length", LONGEST_MESSAGE),
    ("grpc.max_send_message_length", LONGEST_MESSAGE),
)

_PINGS: Options = (
    ("grpc.keepalive_time_ms", _PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", _PONG_WITHIN_MS),
    ("grpc.http2.ping_timeout_ms", _PONG_WITHIN_MS),  # the longer of both counts, and this one's default is a minute
)

SERVER: Options = (
    *MESSAGES,
    *_PINGS,  # clients answer any number of them, whatever they are made with: only servers count pings
    ("grpc.so_reuseport", 0),  # otherwise two servers would share a port silently
    ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_EVERY_MS // 2),
)

REPLICA: Options = (
    *SERVER,
    # Pings here are a front's own keepalive. A replica that computes for long reads many of them at once; it must not
    # take them for an attack and hang up, which the front would take for its loss.
    ("grpc.http2.max_ping_strikes", 0),
)

CHANNEL: Options = (
    *MESSAGES,
    *_PINGS,
    ("grpc.enable_http_proxy", 0),  # never through http_proxy: replicas are on our own network
    # A replica that starts on a dead one's port must not inherit its reconnect back-off.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


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
