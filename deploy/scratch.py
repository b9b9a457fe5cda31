"""Where Ray keeps its sockets, logs and shared memory: the first place that this machine lets us use."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.settings import SettingsError

SHARED = Path("/dev/shm")
FREE_BYTES = 16 * 2**20
"""Least free space for logs."""
_SESSION = "session_2026-01-01_00-00-00_000000_"  # as Ray names a session, which ends in a process's number
_LONGEST = "sockets/plasma_store.1"  # of the names of Ray's sockets in a session's folder


@dataclass(frozen=True)
class Scratch:
    """Folders for Ray: `sessions` for sockets and logs, `memory` for its object store."""

    sessions: Path
    memory: Path


@contextlib.contextmanager
def scratch(store_bytes: int) -> Iterator[Scratch]:
    """Ray's own folder (`RAY_TMPDIR`, `TMPDIR` or /tmp, then `ray`) if it can be used, else one that is made for the
    time of the context. It is kept when the context ends in an error, for its logs.

    Args:
        store_bytes: size of the object store, which lies in /dev/shm if there is so much room.

    Raises:
        SettingsError: there is no such folder; one line says what is wrong with each.
    """
    places = [Path(os.environ[name]).absolute() for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    places.append(Path("/tmp"))
    faults, made = [], None
    sessions = places[0] / "ray"
    if fault := unusable(sessions):
        faults.append(fault)
        for place in dict.fromkeys([*places, Path("/var/tmp"), SHARED]):
            try:
                made = Path(tempfile.mkdtemp(prefix="ray-", dir=place))
            except OSError as error:
                faults.append(f"{place}: {error.strerror}")
                continue
            if not (fault := unusable(made)):
                sessions = made
                break
            faults.append(fault)
            made.rmdir()
            made = None
        else:
            room = f"{FREE_BYTES >> 20} MiB of room"
            raise SettingsError(
                f"TMPDIR: expected a folder for Ray's sockets and logs, with {room}, got {'; '.join(faults)}"
            )
    yield Scratch(sessions, SHARED if not unusable(SHARED, store_bytes) else sessions)
    if made is not None:
        shutil.rmtree(made, ignore_errors=True)


def unusable(folder: Path, room: int = FREE_BYTES) -> str:
    """Why Ray cannot work in a folder, empty if it can. Tried out, in a folder with a path as long as Ray's."""
    session = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        status = os.statvfs(folder)
        if (free := status.f_bavail * status.f_frsize) < room:
            return f"{folder}: {free >> 20} MiB of {room >> 20} MiB are free"
        session = Path(tempfile.mkdtemp(prefix=_SESSION, dir=folder))
        path = session / _LONGEST
        path.parent.mkdir()
        (session / "log").write_bytes(b"\n")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
        str(path).encode()
    except UnicodeEncodeError:
        return f"{folder}: the name is not UTF-8"
    except OSError as error:
        return f"{folder}: {error.strerror or error}"  # a path that is too long has no number
    finally:
        if session is not None:
            shutil.rmtree(session, ignore_errors=True)
    return ""
