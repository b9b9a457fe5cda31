"""Files that are read again when they change: certificates, keys, tokens."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)
Content = TypeVar("Content")
LOOK_S = 1.0
"""Seconds between two looks at the files."""


class AccessError(ValueError):
    """A file of certificates, keys or tokens that cannot be used; one line that holds no secret."""


class Watched(Generic[Content]):
    """What `read` makes of some files, and makes again when one of them changed. For any thread.

    What cannot be read is passed over: what was read before stays, the log says why, and each look tries again.

    Args:
        paths: `read` may add some that it finds named in the others.
        read: raises AccessError.

    Raises:
        AccessError: the first time.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], Content], every_s: float = LOOK_S) -> None:
        self._paths, self._read, self._every_s = paths, read, every_s
        self._lock = threading.Lock()
        self._seen: object = self._look()
        self._content = read()
        self._looked = time.monotonic()
        self._complained: object = None

    def get(self) -> Content:
        """What the files hold, or held when they could last be read."""
        now = time.monotonic()
        if now - self._looked < self._every_s:
            return self._content
        with self._lock:
            if now - self._looked >= self._every_s:
                self._looked = now
                self._refresh()
            return self._content

    def _refresh(self) -> None:
        if (seen := self._look()) == self._seen:
            return
        try:
            self._content = self._read()
        except AccessError as error:
            if self._complained != seen:
                _log.error("%s; going on with what was there before", error)
            self._complained = seen
            return
        self._seen, self._complained = seen, None
        _log.info("read again: %s", ", ".join(map(str, self._paths)))

    def _look(self) -> tuple[tuple[int, ...], ...]:
        """What changes with a file: Kubernetes exchanges a link above it, others write or rename."""
        return tuple(_signature(each) for each in self._paths)


def _signature(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def content(path: Path, what: str, most: int = 2**20) -> bytes:
    """A file's bytes; AccessError where there are none, or more than `most`."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise AccessError(f"{path}: expected {what}, got: {error.strerror or error}") from None
    if len(data) > most:
        raise AccessError(f"{path}: expected {what} of at most {most} bytes, got more")
    return data
