"""The real server on machines as they are: what Kubernetes, proxies, locales and file systems do to it, and signals."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import tritonclient.grpc as triton

from tests.e2e.conftest import ENVIRONMENT, START_S, TILTSERVE, tiltserve

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

TAG = "TILTSERVE_TEST_SERVICE_PORT_TAG"  # such a variable is taken for one of a Kubernetes Service
HERE = Path(__file__).parent


@dataclass
class Started:
    """A run of `tiltserve serve`; `lines` are those of standard output."""

    process: "subprocess.Popen[str]"
    errors: Path
    tag: str
    lines: list[str] = field(default_factory=list)

    def ready(self) -> "re.Match[str]":
        """The ready line's addresses and models, and the address of the HTTP port if there is one."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.fullmatch(r"ready grpc=(\S+) metrics=(\S+) models=(.*?)(?: http=(\S+))?\n", line):
                return found
        raise AssertionError(f"the server ended: {self.told()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def told(self) -> str:
        """Standard error, without what is only for information."""
        return "".join(line for line in self.errors.read_text().splitlines(True) if " INFO " not in line)

    def left(self) -> list[str]:
        """What still runs of all that was started."""
        found = []
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if each.environ().get(TAG) == self.tag:
                    found.append(" ".join(each.cmdline()))
        return found


@contextlib.contextmanager
def started(
    models: Path, folder: Path, *options: str, within: Sequence[str] = (), **environment: str
) -> Iterator[Started]:
    """The server with these variables; `within` is a command that runs another one."""
    tag = os.urandom(8).hex()
    command = [
        *within,
        TILTSERVE,
        "serve",
        "--models",
        str(models),
        "--grpc-port",
        "0",
        "--metrics-port",
        "0",
        *options,
    ]
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
            env=ENVIRONMENT | {TAG: tag} | environment,
        )  # fmt: skip
    server = Started(process, folder / "stderr", tag)
    watch = threading.Timer(START_S, process.kill)  # ready() then fails, and says what the server said
    watch.start()
    try:
        yield server
    finally:
        watch.cancel()
        if process.poll() is None:
            own = psutil.Process(process.pid)
            for each in [*own.children(recursive=True), own]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def drawn(address: str) -> tuple[int, ...]:
    """The shape of samples of the rings."""
    with triton.InferenceServerClient(address) as client:
        return tuple(client.infer("rings", [], parameters={"samples": 2, "seed": 1}).as_numpy("samples").shape)


@contextlib.contextmanager
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy's address, and what it was asked for; it answers nothing."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as caller:
                        asked.append(caller.recv(1024))

        thread = threading.Thread(target=listen)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


SERVICES = {
    "TILTSERVE_SERVICE_HOST": "10.0.0.1",
    "TILTSERVE_SERVICE_PORT": "8001",
    "TILTSERVE_SERVICE_PORT_GRPC": "8001",
    "TILTSERVE_PORT": "tcp://10.0.0.1:8001",
    "TILTSERVE_PORT_8001_TCP": "tcp://10.0.0.1:8001",
    "TILTSERVE_PORT_8001_TCP_PROTO": "tcp",
    "TILTSERVE_PORT_8001_TCP_PORT": "8001",
    "TILTSERVE_PORT_8001_TCP_ADDR": "10.0.0.1",
    "TILTSERVE_METRICS_PORT": "tcp://10.0.0.2:8002",
}


def test_a_pod_behind_a_proxy_without_a_home_among_odd_folders(small_models: Path, tmp_path: Path):
    """One server on a machine where everything is odd at once: it serves, and names each folder once."""
    root = tmp_path / "models"
    for name in ("rings", "nearness"):
        shutil.copytree(small_models / name, root / name)
    shutil.copytree(small_models / "nearness", root / "nähe")
    shutil.copytree(small_models / "nearness", root / "rings.network")
    shutil.copytree(small_models / "nearness" / "1", root / "second" / "v1")
    shutil.copy(root / "rings" / "card.yaml", root / "nearness" / "card.yml")
    os.mkdir(os.fsencode(root) + b"/caf\xe9")  # noqa: PTH102 - latin-1
    (root / "lost+found").mkdir(mode=0o700)
    (root / "gone").symlink_to("/no/such/model")
    (root / "README").write_text("")
    (root / ".git" / "1").mkdir(parents=True)
    far = tmp_path / ("long" * 40)
    far.mkdir()
    with proxy() as (url, asked):
        odd = SERVICES | dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "ALL_PROXY"), url)
        odd |= {"HOME": "/no/such/home", "TMPDIR": str(far), "no_proxy": "", "no_grpc_proxy": ""}
        odd |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
        with started(root, tmp_path, **odd) as server:
            ready = server.ready()
            assert set(ready[3].split(",")) == {"nearness", "n\\xe4he", "rings", "rings.network"}
            assert drawn(ready[1]) == (2, 2)
            told = server.told()
            listed = subprocess.run(
                [TILTSERVE, "models", "--address", ready[1]], capture_output=True, text=True, check=False,
                env=ENVIRONMENT | odd,
            )  # fmt: skip
            assert listed.returncode == 0, listed.stderr
            assert "n\\xe4he" in listed.stdout
            assert server.stop() == 0
            assert server.left() == []
    assert asked == []
    lines = told.splitlines()
    names = ("nearness/card.yml", "caf\\xe9", "lost+found", "gone", "README", "rings.network", "second/v1")
    assert len(lines) == len(names), told
    for name in names:
        assert sum(line.startswith(f"warning: {root}/{name}: expected ") for line in lines) == 1, (name, told)


RAYS_REPORT = re.compile(r"\*\*\* SIG|PC: @|    @ |\[.*logging\.cc")


@pytest.mark.parametrize("after", [1.0, 3.0, 6.0, 9.0])
def test_a_signal_while_it_starts_ends_everything_at_once(small_models: Path, tmp_path: Path, after: float):
    """Whatever it is at: its imports, Ray, the replicas or the front."""
    with started(small_models, tmp_path) as server:
        time.sleep(after)
        children = psutil.Process(server.process.pid).children(recursive=True)
        begin = time.monotonic()
        assert server.stop(signal.SIGTERM if after != 3.0 else signal.SIGINT) == 0
        assert time.monotonic() - begin < 15
        # a signal in the tenth of a second after Ray has taken them is reported by Ray, and then handled by us
        assert [line for line in server.told().splitlines() if not RAYS_REPORT.match(line)] == []
        assert server.left() == []
        assert (
            psutil.wait_procs(children, timeout=5)[1] == []
        )  # with those that have a title in place of their variables


@pytest.mark.parametrize("flag", ["--grpc-port", "--metrics-port"])
def test_a_port_that_is_lost_after_it_was_looked_at_is_one_line(small_models: Path, tmp_path: Path, flag: str):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with started(small_models, tmp_path, flag, str(port)) as server:
        while True:  # until the server holds it
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    break
            assert server.process.poll() is None, server.told()
            time.sleep(0.05)
        with socket.create_server(("127.0.0.1", port)):  # it sets SO_REUSEADDR
            assert server.process.wait(START_S) == 1
    assert server.told().startswith("error: front: ")
    assert f"expected a free port, {'got ' if 'metrics' in flag else ''}127.0.0.1:{port}" in server.told()
    assert server.told().count("\n") == 1
    assert server.left() == []


def allowed(*command: str) -> bool:
    """Whether this machine lets us run a command, such as one in a namespace of its own."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_nothing_connects_to_the_outside(small_models: Path, tmp_path: Path):
    """In a network of its own whose way out is watched: no packet leaves, not even a question for a name."""
    alone = ["unshare", "--net", sys.executable, str(HERE / "outside.py")]
    if not allowed(*alone, "true"):
        pytest.skip("needs root and unshare --net with ip")
    asking = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'hello', ('8.8.8.8', 53))"
    seen = subprocess.run([*alone, sys.executable, "-c", asking], capture_output=True, text=True, check=True).stdout
    assert seen == "outside:\nudp 8.8.8.8:53 b'hello'\n"
    home = tmp_path / "home"
    home.mkdir()
    without = {"ORT_DISABLE_TELEMETRY": "", "XDG_CACHE_HOME": "", "HOME": str(home)}
    environment = {name: value for name, value in without.items() if value}
    with pytest.MonkeyPatch.context() as patch:
        for name in without:
            patch.delitem(ENVIRONMENT, name, raising=False)
        with started(small_models, tmp_path, within=alone, **environment) as server:
            server.ready()
            time.sleep(5)
            inner = psutil.Process(server.process.pid).children()[0]
            inner.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
            assert server.process.stdout is not None
            assert server.process.stdout.read() == "outside:\n"
    assert list(home.rglob("*")) == []


POD = """
mount --make-rprivate /
mount -t tmpfs models /mnt && cp -r {models}/. /mnt && chmod -R a+rX /mnt
mount -t tmpfs -o size=64m,mode=1777 shm /dev/shm
mount -o remount,ro,bind /
exec setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps=-all,+dac_read_search \
  --ambient-caps=-all,+dac_read_search "$@"
"""


def test_a_read_only_root_and_a_user_without_a_name(small_models: Path, tmp_path: Path):
    """Only /dev/shm can be written to, and it is smaller than Ray asks for."""
    pod = ["unshare", "--mount", "sh", "-c", POD.format(models=small_models), "sh"]
    if not allowed(*pod, "sh", "-c", "! touch /tmp/no-file 2>/dev/null && ls /mnt/rings"):
        pytest.skip("needs root and unshare --mount with setpriv")
    with started(Path("/mnt"), tmp_path, within=pod, HOME="/root") as server:
        assert drawn(server.ready()[1]) == (2, 2)
        assert server.stop() == 0
        assert server.told() == ""
        assert server.left() == []


def test_no_place_for_rays_files_is_one_line(small_models: Path, tmp_path: Path):
    pod = ["unshare", "--mount", "sh", "-c", POD.format(models=small_models).replace("64m", "1m"), "sh"]
    if not allowed(*pod, "ls", "/mnt/rings"):
        pytest.skip("needs root and unshare --mount with setpriv")
    with started(Path("/mnt"), tmp_path, within=pod, HOME="/root") as server:
        assert server.process.wait(60) == 2
    assert server.told().startswith(
        "error: TMPDIR: expected a folder for Ray's sockets and logs, with 16 MiB of room, "
    )
    assert "/tmp: Read-only file system" in server.told()
    assert server.told().count("\n") == 1


def test_a_repository_with_nothing_to_serve_says_what_is_wrong_with_it(small_models: Path, tmp_path: Path):
    shutil.copytree(small_models / "nearness" / "1", tmp_path / "near" / "v1")
    (tmp_path / "gone").symlink_to("/no/such/model")
    ended = tiltserve("serve", "--models", str(tmp_path), "--grpc-port", "0", "--metrics-port", "0")
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: --models: expected folders NAME/VERSION/model.onnx in {tmp_path}, got none: "
        f"{tmp_path}/gone: expected a file or folder, got a link to /no/such/model, which leads nowhere; "
        f"{tmp_path}/near/v1: expected a number as the name of a version's folder\n"
    )
