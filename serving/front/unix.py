"""Unix sockets that a gRPC server listens on, for the user alone whose server it is."""

import os
import socket
import stat
from pathlib import Path

import grpc

LONGEST = 107
"""Bytes of a path: what the kernel has room for."""


class PortError(RuntimeError):
    """A port or a socket cannot be listened on; the text is one line."""


def address(path: Path) -> str:
    """As gRPC and its clients write it."""
    return f"unix:{path}"


def check(path: Path) -> None:
    """Raises PortError where no server can listen on a path; a socket that was left there is no obstacle."""
    if (length := len(os.fsencode(path))) > LONGEST:
        raise PortError(f"socket: expected a path of at most {LONGEST} bytes, got {length}: {path}")
    try:
        found = path.lstat()
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise PortError(f"socket: expected a path for a socket, got {path}: {error.strerror}") from None
    if found is None:
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PortError(f"socket: expected a folder that can be written to, got {path.parent}")
    elif not stat.S_ISSOCK(found.st_mode):
        raise PortError(f"socket: expected no file or a socket, got {path}, which is something else")
    elif _answers(path):
        raise PortError(f"socket: expected a free one, got {path}, which a server listens on")


def listen(server: grpc.aio.Server, path: Path) -> None:
    """Let a server listen on a path; raises PortError. A socket that a killed server left is replaced."""
    check(path)
    path.unlink(missing_ok=True)  # gRPC would, but without a look at who listens on it
    before = os.umask(0o177)  # set when the socket is made: changed later, there would be a moment for others
    try:
        server.add_insecure_port(address(path))
    except RuntimeError:
        raise PortError(f"socket: expected a path for a socket, {path} cannot be listened on") from None
    finally:
        os.umask(before)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # its queue is full, or it is another user's
            return True
        return True
