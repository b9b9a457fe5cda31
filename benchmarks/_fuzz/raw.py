"""Bytes that are no gRPC, and connections that say nothing."""

import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SILENT = 64
"""Connections that are held open and say nothing."""
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_SETTINGS, _HEADERS, _DATA, _RESET, _PING, _AWAY, _WINDOW, _MORE = 4, 1, 0, 3, 6, 7, 8, 9


class Raw:
    """Sends garbage to addresses, from a thread of its own, until it is stopped; a context."""

    def __init__(self, addresses: Sequence[str], seed: int) -> None:
        self._addresses = [(each.rpartition(":")[0], int(each.rpartition(":")[2])) for each in addresses]
        self._rng, self._stop = random.Random(seed), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent: Counter[str] = Counter()

    def __enter__(self) -> "Raw":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        rng = self._rng
        with contextlib.ExitStack() as held:
            for _ in range(SILENT):
                with contextlib.suppress(OSError):
                    held.enter_context(socket.create_connection(rng.choice(self._addresses), 5))
                    self.sent["silent"] += 1
            while not self._stop.wait(0.05):
                name, data = self._data()
                self.sent[name] += 1
                with contextlib.suppress(OSError), socket.create_connection(rng.choice(self._addresses), 5) as to:
                    to.settimeout(0.05)
                    to.sendall(data)
                    to.recv(4096)

    def _data(self) -> tuple[str, bytes]:
        rng = self._rng
        begun = PREFACE + _frame(_SETTINGS)
        call = begun + _frame(_HEADERS, _headers(_INFER), 4, 1)
        lie = struct.pack(">BI", rng.choice((0, 1, 2)), rng.choice((0, 3, 2**31, 2**32 - 1)))
        resets = (_frame(_HEADERS, _headers("/a/b"), 4, k) + _frame(_RESET, bytes(4), 0, k) for k in range(1, 400, 2))
        zipped = _frame(_HEADERS, _headers(_INFER, ("grpc-encoding", "gzip")), 4, 1)
        patient = _frame(_HEADERS, _headers(_INFER, ("grpc-timeout", "99999999999H")), 4, 1)
        choices = {
            "random": rng.randbytes(rng.randint(1, 4096)),
            "HTTP/1": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            "half a preface": PREFACE[: rng.randrange(len(PREFACE))],
            "random frames": begun + b"".join(self._frame() for _ in range(20)),
            "settings": PREFACE + _frame(_SETTINGS, rng.randbytes(6 * rng.randint(1, 50))),
            "pings": begun + _frame(_PING, bytes(8)) * 500,
            "resets": begun + b"".join(resets),
            "endless headers": begun + _frame(_HEADERS, _headers("/a/b"), 0, 1) + _frame(_MORE, bytes(8000), 0, 1) * 40,
            "a lie about a length": call + _frame(_DATA, lie + b"garbage", 1, 1),
            "half a message": call + _frame(_DATA, b"\0\0\0\0\x20half", 0, 1),
            "garbage said to be compressed": begun + zipped + _frame(_DATA, b"\1\0\0\0\x07garbage", 1, 1),
            "odd timeouts": begun + patient + _frame(_DATA, b"\0\0\0\0\0", 1, 1),
            "windows": begun + _frame(_WINDOW, struct.pack(">I", 2**31 - 1), 0, 0) * 3,
            "away": call + _frame(_AWAY, bytes(8)),
        }
        name = rng.choice(sorted(choices))
        return name, choices[name]

    def _frame(self) -> bytes:
        rng = self._rng
        return _frame(rng.randrange(12), rng.randbytes(rng.randint(0, 64)), rng.randrange(256), rng.randrange(2**31))


def _frame(kind: int, data: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    """A frame of HTTP/2."""
    return len(data).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + data


def _headers(path: str, *more: tuple[str, str]) -> bytes:
    """A call's headers, each as a literal that no table keeps."""
    usual = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers"))
    said = (*usual, ("content-type", "application/grpc"), *more)
    return b"".join(b"\0" + bytes((len(name),)) + name.encode() + bytes((len(to),)) + to.encode() for name, to in said)
