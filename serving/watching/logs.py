"""Log lines of fronts and replicas: for people, or as one JSON object each.

Whatever a client wrote is one value of a line: what is not printable is escaped, so no name can look like a line of its
own. Lines about a request carry its id, and its trace's where it has one.
"""

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import grpc

from serving.watching.record import current

Format = Literal["text", "json"]

LONGEST = 2**14
"""Most characters of a message, and of a trace of calls."""


class OfRequests(logging.Filter):
    """Gives a line the ids of the request that is being worked on, unless it has some."""

    def filter(self, line: logging.LogRecord) -> bool:
        record = current()
        if record is not None and not hasattr(line, "request_id"):
            line.request_id, line.trace_id = record.id, record.trace_id
        return True


class WithoutTheGone(logging.Filter):
    """Drops what gRPC says, with a trace of calls, of each call whose client went while it was answered: it is no fault
    of the server, and a client that resets its calls would fill the log."""

    def filter(self, line: logging.LogRecord) -> bool:
        error = line.exc_info[1] if line.exc_info else None
        return not (line.name.startswith("grpc.") and isinstance(error, grpc.aio.InternalError))


class Text(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO serving.front: text request=... key=value`; a trace of calls follows, indented."""

    def format(self, line: logging.LogRecord) -> str:
        told = " ".join(f"{key}={_quoted(value)}" for key, value in _beside(line).items() if value != "")
        text = f"{_when(line)} {line.levelname} {line.name}: {_one_line(line.getMessage())}"
        text = f"{text} {told}" if told else text
        if trace := self._trace(line):
            text += "".join(f"\n    {_one_line(each)}" for each in trace.splitlines())
        return text

    def _trace(self, line: logging.LogRecord) -> str:
        return self.formatException(line.exc_info)[-LONGEST:] if line.exc_info else ""


class Json(Text):
    """One JSON object a line, in ASCII."""

    def format(self, line: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": _when(line),
            "level": line.levelname.lower(),
            "logger": line.name,
            "message": line.getMessage()[:LONGEST],
            "pid": os.getpid(),
        }
        told |= _beside(line)
        if trace := self._trace(line):
            told["exception"] = trace
        return json.dumps(told, default=str)


class ToSocket(logging.Handler):
    """Sends each line as a packet to a Unix socket, without waiting. Lines that the reader cannot take are lost; a line
    of their own counts them once it can.

    Raises:
        OSError: there is no such socket.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._socket, self._lost = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), 0
        try:
            self._socket.setblocking(False)
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if self._lost:
                record = logging.makeLogRecord({"name": __name__, "msg": f"{self._lost} log lines were lost"})
                self._socket.send(self.format(record).encode() + b"\n")
                self._lost = 0
            self._socket.send(line.encode(errors="backslashreplace") + b"\n")
        except OSError:
            self._lost += 1
        except Exception:
            self.handleError(record)


def formatter(form: Format) -> logging.Formatter:
    return Json() if form == "json" else Text()


def configure(level: str, form: Format, sink: Path | None = None) -> None:
    """All lines of this process, of at least this level, go to a socket, or to standard error where there is none."""
    handler: logging.Handler = logging.StreamHandler()
    if sink is not None:
        with contextlib.suppress(OSError):  # on another machine
            handler = ToSocket(sink)
    handler.setFormatter(formatter(form))
    handler.addFilter(WithoutTheGone())
    handler.addFilter(OfRequests())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def said(form: Format, text: str) -> str:
    """A warning of a process without loggers as a line."""
    if form == "text":
        return f"warning: {text}"
    return Json().format(
        logging.makeLogRecord({"name": "tiltserve", "levelno": 30, "levelname": "WARNING", "msg": text})
    )


def _when(line: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(line.created)) + f".{int(line.msecs):03d}Z"


def _beside(line: logging.LogRecord) -> Mapping[str, Any]:
    """What a line has beside its message."""
    ids = {"request": getattr(line, "request_id", ""), "trace": getattr(line, "trace_id", "")}
    return {name: value for name, value in ids.items() if value} | getattr(line, "fields", {})


def _one_line(text: str) -> str:
    """The text with what is not printable escaped."""
    text = text[:LONGEST]
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _quoted(value: object) -> str:
    """A value as it is, or as a JSON text where it would not be one word."""
    text = str(value)
    plain = text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if plain else json.dumps(text)
