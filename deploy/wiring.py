"""What a process of the server tells of calls, and how its connections are made, as the settings say."""

import socket

from deploy.settings import Settings
from serving.watching.watching import Watching
from serving.wire.channels import Connections


def watching(settings: Settings, part: str) -> Watching:
    """Of the `front` or a `replica`. OpenTelemetry is imported only where traces are wanted."""
    spans = None
    if settings.otlp is not None:
        from serving.watching.spans import Spans, otlp

        spans = Spans(otlp(settings.otlp), settings.trace_ratio, part=part, instance=socket.gethostname())
    return Watching(access_log=settings.access_log and part == "front", spans=spans)


def connections(settings: Settings) -> Connections:
    """Of all processes of the server."""
    return Connections(
        max_message=settings.max_message,
        compression=settings.compression,
        keepalive_s=settings.keepalive_seconds,
        keepalive_timeout_s=settings.keepalive_timeout_seconds,
        max_age_s=settings.max_connection_age_seconds,
        grace_s=settings.drain_seconds,
        max_streams=settings.max_streams,
    )
