"""The front on a Unix socket: for one user, after a killed server, and what cannot be listened on."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from serving.access.guards import FrontGuards, Inside, ReplicaGuards
from serving.front import unix
from serving.front.unix import PortError
from tests.serving.live import running, until


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: pytest's own are longer than a socket's path may be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(str(path)) == 0


LEFT = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(60)"


def test_a_front_on_a_socket(small_models: Path, folder: Path) -> None:
    """Only this user may connect; what a killed server left is replaced; nothing is left in the end."""
    path = folder / "front"
    killed = subprocess.Popen([sys.executable, "-c", LEFT, str(path)])
    until(lambda: listening(path), 20)
    with pytest.raises(PortError, match=r"expected a free one, got .*, which a server listens on"):
        unix.check(path)
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    assert path.exists()
    guards = FrontGuards(inside=Inside("inner")), ReplicaGuards(inside=Inside("inner"), closed=True)
    with running(small_models, guards=guards, front={"socket": path}) as live:
        assert live.address == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        live.infer(samples=2)
        live.on_loop(live.front.check_health(30))
        with (
            triton.InferenceServerClient(live.replicas[0].state().address) as direct,
            pytest.raises(InferenceServerException, match="expected a call of this server's own front"),
        ):
            direct.get_model_metadata("rings")
        with pytest.raises(PortError, match="which a server listens on"):
            unix.check(path)
    assert not path.exists()
    before = os.umask(0)
    os.umask(before)
    assert before != 0o177


def test_what_cannot_be_listened_on_is_one_line(folder: Path) -> None:
    with pytest.raises(PortError, match=r"expected a path of at most 107 bytes, got 2\d\d"):
        unix.check(folder / ("x" * 200))
    (folder / "file").write_text("precious")
    with pytest.raises(PortError, match=r"expected no file or a socket, got .*/file, which is something else"):
        unix.check(folder / "file")
    assert (folder / "file").read_text() == "precious"
    with pytest.raises(PortError, match="expected a folder that can be written to"):
        unix.check(folder / "none" / "front")
    (folder / "link").symlink_to(folder / "file")
    with pytest.raises(PortError, match="which is something else"):
        unix.check(folder / "link")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "left"))
    unix.check(folder / "left")
