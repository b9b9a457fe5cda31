"""The access log: a line for each call that has ended."""

import logging

import grpc

from serving.watching import times
from serving.watching.record import Record, escaped

_log = logging.getLogger("tiltserve.access")

PROBES = frozenset({"ServerLive", "ServerReady", "ModelReady"})
"""Asked every second or so by whoever watches the server: their lines are of level debug, unless they fail."""


def write(record: Record) -> None:
    """Write the line of a call, as a message and as fields; never contents of tensors, parameters or credentials."""
    level = logging.DEBUG if record.method in PROBES and record.code is grpc.StatusCode.OK else logging.INFO
    if not _log.isEnabledFor(level):
        return
    told, rows = times.milliseconds(record.times), times.rows(record.times)
    fields: dict[str, str | int | float] = {
        "peer": record.peer,
        "identity": record.identity,
        "method": record.method,
        "model": escaped(record.model),
        "version": escaped(record.version),
        "status": record.code.name,
        "rows": rows.get("network", 0),
        "queue_ms": round(told.get("queue", 0.0), 3),
        "total_ms": round(1000 * record.seconds, 3),
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "tries": record.tries,
    }
    _log.log(level, "call", extra={"request_id": record.id, "trace_id": record.trace_id, "fields": fields})
