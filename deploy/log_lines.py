"""Log lines of a server's processes on its own standard error: Ray keeps what they write there in files of its own."""

import contextlib
import os
import selectors
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

LONGEST = 2**17
"""Bytes of a line at most; `logs.ToSocket` sends shorter ones."""


@contextlib.contextmanager
def log_lines(folder: Path) -> Iterator[Path]:
    """A socket in a folder of its own in `folder`; each packet that comes is a line, and is written to standard error.

    Senders never wait: where lines come faster than standard error takes them, some are lost.
    """
    with (
        tempfile.TemporaryDirectory(prefix="lines-", dir=folder) as place,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        path = Path(place) / "log"
        listener.bind(str(path))
        listener.listen(64)
        waiting, waking = os.pipe()
        writing = threading.Thread(target=_write, args=(listener, waiting), name="log lines", daemon=True)
        writing.start()
        try:
            yield path
        finally:
            os.close(waking)
            writing.join(1.0)  # it takes longer only where nobody reads standard error
            if not writing.is_alive():
                os.close(waiting)


def _write(listener: socket.socket, ending: int) -> None:
    """Write lines as they come, and those that are left once the other end of the pipe is closed."""
    with selectors.DefaultSelector() as ready, contextlib.ExitStack() as senders:
        ready.register(listener, selectors.EVENT_READ)
        ready.register(ending, selectors.EVENT_READ)
        ended = False
        while events := ready.select(0 if ended else None):
            for key, _ in events:
                if key.fileobj == ending:
                    ready.unregister(ending)
                    ended = True
                elif key.fileobj is listener:
                    sender, _ = listener.accept()
                    ready.register(senders.enter_context(sender), selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket) and not _pass_on(key.fileobj):
                    ready.unregister(key.fileobj)
                    key.fileobj.close()


def _pass_on(sender: socket.socket) -> bool:
    """Write a sender's next line; False if it has ended."""
    with contextlib.suppress(ConnectionError):
        line = sender.recv(LONGEST)
        with contextlib.suppress(OSError):  # standard error is closed
            os.write(2, line)
        return bool(line)
    return False
