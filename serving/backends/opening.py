"""Chooses the backend of a graph: by the server it runs on, its file, and the configured provider."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from serving.access.service import Service, service
from serving.backends import Backend, LoadError
from serving.backends.cuda import open_cuda
from serving.backends.ort import OrtNetwork
from serving.backends.torch import TorchNetwork
from serving.backends.triton import TritonNetwork

Provider = Literal["cpu", "cuda", "tensorrt"]
CACHE = Path("~/.cache/tiltserve/tensorrt")


@dataclass(frozen=True)
class Opener:
    """Opens graphs, `<root>/<model>/<version>/<file>`.

    Attributes:
        threads: threads of one network on the CPU.
        most: the most rows of a call, for backends that prepare sizes.
        cache: the folder of TensorRT's engines.
        half: whether TensorRT may compute in float16.
        remote: HOST:PORT or HOST:PORT/MODEL, or more of the server, by name of models whose network runs on another
            one (MODEL: the same name).
        remote_s: how long a call to such a server may take.
    """

    threads: int = 1
    provider: Provider = "cpu"
    most: int = 256
    cache: Path = CACHE
    half: bool = False
    remote: Mapping[str, str | Service] = field(default_factory=dict)
    remote_s: float = 30.0

    def __call__(self, file: Path) -> Backend:
        """The backend of a graph; raises `LoadError`."""
        name = file.parents[1].name
        if name in self.remote:  # its file, if there is one, is not opened
            where = service(self.remote[name])
            address, _, model = where.address.partition("/")
            return TritonNetwork(name, replace(where, address=address), model or name, seconds=self.remote_s)
        if not file.is_file():
            came = "a folder" if file.is_dir() else "a link that leads nowhere" if file.is_symlink() else "no such file"
            raise LoadError(f"{file}: expected an ONNX graph, got {came}")
        if file.suffix == ".pt2":
            return TorchNetwork.load(file)
        if self.provider == "cuda":
            return open_cuda(file, self.threads, self.most)
        if self.provider == "tensorrt":
            from serving.backends.tensorrt import open_tensorrt  # onnx is slow to import

            return open_tensorrt(file, self.threads, self.most, self.cache.expanduser(), half=self.half)
        return OrtNetwork(file, self.threads)
