"""Draws kept in a folder, for replicas that start later and for others that share it.

A file is named by the key of its record, which says all that decides its bytes. It is a sequence of five `.npy` arrays:
a digest, and the four tensors of `Draws`. Nothing in a file decides what is read: how long it is, and the type and
shape of each array, follow from the law, and what differs is not read. The digest finds damage. It is no signature, so
whoever may write to the folder decides how requests are steered.
"""

import contextlib
import hashlib
import io
import logging
import math
import os
import re
import stat
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from serving.backends import Array
from steering.posteriors.draws import Draws

MOST_BYTES = 2**33
"""Bytes of files that are kept where nothing else is said."""
MOST_WAITING = 2**29
"""Bytes of draws that wait to be written: a disk that is slower than the network must not fill the memory."""
LATE_S = 20.0
"""Seconds that a file may take to be read; a volume that does not answer must hold up no request for longer."""
OLD_S = 3600.0
"""Seconds after which a file that was never completed is removed: who wrote it has died."""
LOOKED_S = 1.0
"""Seconds between two looks at which files there are."""
MOST_NAMES = 100_000
_NAME = re.compile(r"([0-9a-f]{64})\.draws")
_DIGEST = (torch.uint8, (32,))
_PARTIAL = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{32}")

_log = logging.getLogger(__name__)


class MisfitError(Exception):
    """A file that is not the one that was sought; one line."""


@dataclass(frozen=True)
class Form:
    """What draws of a law look like.

    Attributes:
        log_snr: their levels.
        draws: how many.
        event: the shape of one.
    """

    log_snr: tuple[float, ...]
    draws: int
    event: tuple[int, ...]

    @property
    def arrays(self) -> tuple[tuple[torch.dtype, tuple[int, ...]], ...]:
        """Type and shape of each tensor of `Draws`."""
        levels, numbers = len(self.log_snr), math.prod(self.event)
        return (
            (torch.float64, (levels,)),
            (torch.float64, (levels,)),
            (torch.float16, (levels - 1, self.draws, numbers)),
            (torch.float32, (self.draws, *self.event)),
        )

    @cached_property
    def bytes(self) -> int:
        """Of the file."""
        return sum(
            len(_header(dtype, shape)) + dtype.itemsize * math.prod(shape) for dtype, shape in (_DIGEST, *self.arrays)
        )

    def fault(self, draws: Draws) -> str:
        """Why these are no such draws; empty if they are."""
        came = (draws.log_snr, draws.rms, draws.residuals, draws.x0)
        for tensor, (dtype, shape) in zip(came, self.arrays, strict=True):
            if (tensor.dtype, tensor.shape) != (dtype, shape):
                return f"expected {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}"
            if not bool(tensor.isfinite().all()):
                return "expected finite numbers, got others"
        if tuple(draws.log_snr.tolist()) != self.log_snr:
            return "expected the levels of its law, got others"
        return "" if bool((draws.rms >= 0).all()) else "expected root mean squares, got numbers below 0"


class DrawsOnDisk:
    """The draws in a folder, at most `most_bytes` of them; those used longest ago make room. Several processes may use
    the folder at once. For any thread; only threads of its own touch the disk.

    Args:
        folder: made if it does not exist. Where it cannot be written to, files are only read.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self._most = folder, most_bytes
        self._lock = threading.Lock()
        self._names: frozenset[str] = frozenset()
        self._looked, self._looking = 0.0, False
        self._waiting = 0  # bytes to be written
        self._reading: set[Future[list[Array]]] = set()
        self._late = False  # a read takes longer than `LATE_S`
        self._refused = False  # the last write failed, and that was said
        alone = partial(torch.set_num_threads, 1)  # the other cores are for the network
        self._reader = ThreadPoolExecutor(2, "draws read", alone)
        self._writer = ThreadPoolExecutor(1, "draws written", alone)
        self._writer.submit(self._begin)
        self._look()

    def there(self, key: str) -> bool:
        """Whether there is such a file, as it was known a moment ago."""
        with self._lock:
            if key in self._names:
                return True
        self._look()
        return False

    def read(self, key: str, form: Form) -> "Future[list[Array]]":
        """The arrays of a record, in the order of `Draws`; none where it has no file that fits. Returns at once."""
        asked = Future[list[Array]]()
        with self._lock:
            late = self._late
            if not late:
                self._reading.add(asked)
        if late:
            _answer(asked, [])
        else:
            try:
                self._reader.submit(self._read, asked, key, form)
            except RuntimeError:  # closed
                self._done(asked, [])
        return asked

    def write(self, key: str, form: Form, draws: Draws) -> None:
        """Have draws written, if there is room. Returns at once."""
        size = form.bytes
        if size > self._most:
            _log.info("draws of %d bytes are not kept in %s, which holds %d", size, self.folder, self._most)
            return
        with self._lock:
            if self._waiting and self._waiting + size > MOST_WAITING:
                _log.info("draws of %d bytes are not kept in %s: others wait to be written", size, self.folder)
                return
            self._waiting += size
        try:
            self._writer.submit(self._write, key, form, draws, size)
        except RuntimeError:  # closed
            with self._lock:
                self._waiting -= size

    def close(self) -> None:
        """Nothing is read or written any more, but for what was asked for already."""
        self._reader.shutdown(wait=False)
        self._writer.shutdown(wait=False)

    def _begin(self) -> None:
        """Make the folder, and say what is wrong with it."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self.folder / _partial("0" * 64)
            os.close(_created(probe))
            probe.unlink()
            mode = self.folder.stat().st_mode
        except OSError as error:
            self._refuse(error)
            return
        if mode & stat.S_IWOTH:
            _log.warning("%s: every user may write to it, and so decide how requests are steered", self.folder)

    def _look(self) -> None:
        """Find out soon which files there are."""
        with self._lock:
            if self._looking or self._late or time.monotonic() - self._looked < LOOKED_S:
                return
            self._looking = True
        try:
            self._reader.submit(self._list)
        except RuntimeError:  # closed
            self._looking = False

    def _list(self) -> None:
        names: frozenset[str] = frozenset()
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            found = (_NAME.fullmatch(each.name) for each in islice(entries, MOST_NAMES))
            names = frozenset(each[1] for each in found if each is not None)
        with self._lock:
            self._names, self._looked, self._looking = names, time.monotonic(), False

    def _read(self, asked: "Future[list[Array]]", key: str, form: Form) -> None:
        if asked.done():  # who asked has left, or was told that it takes too long
            self._done(asked, [])
            return
        watch = threading.Timer(LATE_S, self._give_up)
        watch.daemon = True
        watch.start()
        arrays: list[Array] = []
        path = self._path(key)
        try:
            arrays = _loaded(path, key, form)
        except FileNotFoundError:
            pass
        except MisfitError as error:
            _log.warning("%s is not used: %s", path, error)
        except OSError as error:
            _log.warning("%s is not used: %s", path, error.strerror or error)
        except Exception as error:  # memory
            _log.warning("%s is not used: %s: %s", path, type(error).__name__, error)
        watch.cancel()
        with self._lock:
            self._late = False
            self._names = self._names | {key} if arrays else self._names - {key}
        self._done(asked, arrays)

    def _done(self, asked: "Future[list[Array]]", arrays: list[Array]) -> None:
        with self._lock:
            self._reading.discard(asked)
        _answer(asked, arrays)

    def _give_up(self) -> None:
        """A file takes too long: whoever waits for one goes on without, and so do others until it has come."""
        with self._lock:
            self._late, waiting = True, list(self._reading)
            self._reading.clear()
        _log.warning("%s: no file was read within %g s; draws are made instead", self.folder, LATE_S)
        for each in waiting:
            _answer(each, [])

    def _write(self, key: str, form: Form, draws: Draws, size: int) -> None:
        try:
            if fault := form.fault(draws):
                _log.info("draws are not kept in %s: %s", self.folder, fault)
                return
            self._make_room(size)
            self._save(self._path(key), key, draws)
            self._make_room(0)  # others may have written too
        except OSError as error:
            self._refuse(error)
        except Exception:
            _log.exception("draws could not be kept in %s", self.folder)
        else:
            self._refused = False
            with self._lock:
                self._names |= {key}
        finally:
            with self._lock:
                self._waiting -= size

    def _save(self, path: Path, key: str, draws: Draws) -> None:
        """Under another name first, so that whoever opens the file finds all of it. It is not synced: the digest finds
        what a crash of the machine leaves out."""
        arrays = [each.contiguous().numpy() for each in (draws.log_snr, draws.rms, draws.residuals, draws.x0)]
        digest = np.frombuffer(_digest(key, arrays), np.uint8)
        partial = self.folder / _partial(key)
        try:
            with os.fdopen(_created(partial), "wb") as file:
                for each in (digest, *arrays):
                    np.lib.format.write_array(file, each, version=(1, 0), allow_pickle=False)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago, until so many bytes fit. Another process may do so at the same time: what
        is gone is gone."""
        found, held = [], size
        with os.scandir(self.folder) as entries:
            for each in entries:
                complete = _NAME.fullmatch(each.name) is not None
                if not complete and _PARTIAL.fullmatch(each.name) is None:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    about = each.stat(follow_symlinks=False)
                    if not stat.S_ISREG(about.st_mode):
                        continue
                    held += about.st_size
                    if complete:
                        found.append((about.st_mtime_ns, each.name, about.st_size))
                    elif time.time() - about.st_mtime > OLD_S:
                        (self.folder / each.name).unlink(missing_ok=True)
                        held -= about.st_size
        for _, name, bytes_of in sorted(found):
            if held <= self._most:
                return
            (self.folder / name).unlink(missing_ok=True)
            held -= bytes_of

    def _refuse(self, error: OSError) -> None:
        """Say once that nothing can be written."""
        if not self._refused:
            _log.warning("%s: draws cannot be kept there: %s", self.folder, error.strerror or error)
        self._refused = True

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.draws"


def _partial(key: str) -> str:
    return f".{key}.{uuid.uuid4().hex}"


def _created(path: Path) -> int:
    """A new file, for this user alone."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _answer(asked: "Future[list[Array]]", arrays: list[Array]) -> None:
    with contextlib.suppress(InvalidStateError):  # who asked has left, or has its answer
        asked.set_result(arrays)


def _loaded(path: Path, key: str, form: Form) -> list[Array]:
    """The arrays of a file that fits; marks it as used now.

    Raises:
        OSError, MisfitError: it cannot be read, or is another.
    """
    # not through links, and not waiting for who writes to a pipe of this name
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise MisfitError("expected a file, got something else")
        if about.st_size != form.bytes:
            raise MisfitError(f"expected {form.bytes} bytes, got {about.st_size}")
        # into torch's own memory: its alignment may decide last bits of what is computed
        digest, *tensors = [_filled(file, dtype, shape) for dtype, shape in (_DIGEST, *form.arrays)]
        arrays = [each.numpy() for each in tensors]
        if digest.numpy().tobytes() != _digest(key, arrays):
            raise MisfitError("expected the digest of its key and content, got another")
        if fault := form.fault(Draws(*tensors)):
            raise MisfitError(fault)
        with contextlib.suppress(OSError):  # it may not be ours, or the volume only to be read
            os.utime(file.fileno())
    return arrays


def _filled(file: io.BufferedReader, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The next array of a file."""
    header = _header(dtype, shape)
    if file.read(len(header)) != header:
        raise MisfitError(f"expected an array {dtype} {list(shape)}, got another")
    tensor = torch.empty(shape, dtype=dtype)
    if file.readinto(_bytes_of(tensor.numpy())) != tensor.nbytes:
        raise MisfitError("expected more bytes, got the end")
    return tensor


def _header(dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    """What stands in front of an array in the `.npy` format."""
    written = io.BytesIO()
    described = np.lib.format.dtype_to_descr(torch.empty(0, dtype=dtype).numpy().dtype)
    np.lib.format.write_array_header_1_0(written, {"descr": described, "fortran_order": False, "shape": shape})
    return written.getvalue()


def _digest(key: str, arrays: Sequence[Array]) -> bytes:
    """The sha256 of a key and arrays."""
    whole = hashlib.sha256(key.encode())
    for each in arrays:
        whole.update(_bytes_of(each))
    return whole.digest()


def _bytes_of(array: Array) -> memoryview:
    """The memory of an array without gaps."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # arrays are buffers
