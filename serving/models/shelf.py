"""Small files by name that several replicas share: each is whole or not there, and of two that create one, one does."""

import contextlib
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Protocol, TypeVar

Result = TypeVar("Result")
LATE_S = 60.0
"""Seconds that a call may take: a bank has up to 256 MiB."""


class Shelf(Protocol):
    """Files by name. Calls block, for threads; any may raise OSError, and what it was to do is then left undone."""

    def get(self, name: str, most: int) -> bytes | None:
        """The content of a file; None where there is none of at most `most` bytes."""
        ...

    def put(self, name: str, content: bytes) -> None:
        """Write a file, in place of one that is there."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there; False where it is."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...


class FolderShelf:
    """A folder of this machine, or a volume that several share. It is made for this user alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    def get(self, name: str, most: int) -> bytes | None:
        """Implements `Shelf.get`; a file that is read counts as used now, by its modification time."""
        try:
            # not through links, and not waiting for who writes to a pipe of this name
            number = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise OSError(f"{self._folder / name}: expected a file, got something else")
        with os.fdopen(number, "rb") as file:
            content = file.read(most + 1)
            with contextlib.suppress(OSError):  # it may not be ours, or the volume only to be read
                os.utime(file.fileno())
        return content if len(content) <= most else None

    def put(self, name: str, content: bytes) -> None:
        """Implements `Shelf.put`."""
        with self._written(name, content) as there:
            there.replace(self._folder / name)

    def create(self, name: str, content: bytes) -> bool:
        """Implements `Shelf.create`."""
        with self._written(name, content) as there:
            try:
                os.link(there, self._folder / name)
            except FileExistsError:
                return False
            return True

    def remove(self, name: str) -> None:
        """Implements `Shelf.remove`."""
        (self._folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _written(self, name: str, content: bytes) -> Iterator[Path]:
        """A complete file of another name, which is gone afterwards."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = self._folder / f".{name}.{uuid.uuid4().hex}"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(there, flags, 0o600), "wb") as file:
                file.write(content)
            yield there
        finally:
            there.unlink(missing_ok=True)


class PatientShelf:
    """Another one, whose calls end within `late_s` seconds: a volume whose server is away may answer none for hours.
    While a call hangs others fail at once."""

    def __init__(self, shelf: Shelf, late_s: float = LATE_S) -> None:
        self._shelf, self._late_s = shelf, late_s
        self._hanging: threading.Thread | None = None

    def __str__(self) -> str:
        return str(self._shelf)

    def get(self, name: str, most: int) -> bytes | None:
        """Implements `Shelf.get`."""
        return self._within(lambda: self._shelf.get(name, most))

    def put(self, name: str, content: bytes) -> None:
        """Implements `Shelf.put`."""
        self._within(lambda: self._shelf.put(name, content))

    def create(self, name: str, content: bytes) -> bool:
        """Implements `Shelf.create`."""
        return self._within(lambda: self._shelf.create(name, content))

    def remove(self, name: str) -> None:
        """Implements `Shelf.remove`."""
        self._within(lambda: self._shelf.remove(name))

    def _within(self, call: Callable[[], Result]) -> Result:
        if self._hanging is not None and self._hanging.is_alive():
            raise OSError("expected an answer, an earlier call still waits for one")
        done = Future[Result]()

        def run() -> None:
            try:
                done.set_result(call())
            except BaseException as error:
                done.set_exception(error)

        thread = threading.Thread(target=run, name="shelf", daemon=True)
        thread.start()
        try:
            return done.result(self._late_s)
        except FutureTimeoutError:
            self._hanging = thread
            raise OSError(f"expected an answer within {self._late_s:g} s, got none") from None
