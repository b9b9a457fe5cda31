"""Settings of every gRPC server and channel between clients, front and replicas."""

from collections.abc import Sequence

LONGEST_MESSAGE = 256 * 2**20
"""Most bytes of one message, in either direction."""

# A peer whose machine vanished sends no reset; pings find out in 20 s, where TCP would take a quarter of an hour.
_PING_EVERY_MS, _PONG_WITHIN_MS = 10_000, 10_000

Options = Sequence[tuple[str, int]]

MESSAGES: Options = (
    ("grpc.max_receive_message_length", LONGEST_MESSAGE),
    ("grpc.max_send_message_length", LONGEST_MESSAGE),
)

SERVER: Options = (
    *MESSAGES,
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
    ("grpc.keepalive_time_ms", _PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", _PONG_WITHIN_MS),
    ("grpc.http2.ping_timeout_ms", _PONG_WITHIN_MS),  # the longer of both counts, and this one's default is a minute
    ("grpc.enable_http_proxy", 0),  # never through http_proxy: replicas are on our own network
    # A replica that starts on a dead one's port must not inherit its reconnect back-off.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def address(host: str, port: int) -> str:
    """`host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
