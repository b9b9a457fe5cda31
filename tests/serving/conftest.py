"""Real models on ONNX Runtime, and an engine to run them."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from serving.backends import Array, Backend
from serving.backends.ort import OrtNetwork
from serving.backends.profiling import measured
from serving.engine.engine import Engine
from serving.engine.metrics import ReplicaMetrics
from serving.engine.task import Network
from serving.models.folders import scan
from serving.models.model import RAW, Model, PlainModel, Sampler
from serving.models.repository import load


class Gated:
    """A network that notes its calls and, while the gate is shut, holds them before they run.

    Each then takes `slower_s` seconds more: where times are compared, enough that a busy machine does not matter.
    """

    def __init__(self, network: Network, slower_s: float = 0.0) -> None:
        self.network = Network(network.name, self, network.costs)
        self._backend: Backend = network.backend
        self.inputs, self.outputs, self.kind = self._backend.inputs, self._backend.outputs, self._backend.kind
        self.invariant, self.sizes, self.close = True, self._backend.sizes, self._backend.close
        self.gate, self.entered = threading.Event(), threading.Event()
        self.calls: list[dict[str, Array]] = []
        self.slower_s = slower_s

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        self.calls.append({name: value.copy() for name, value in feeds.items()})
        self.entered.set()
        assert self.gate.wait(30)
        time.sleep(self.slower_s)
        return self._backend.run(feeds, outputs)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """As in a replica: how many threads share a product decides its last bits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(small_models: Path) -> dict[str, Model]:
    """The models of `small_models` by name, with the samplers' raw networks, as a replica holds them."""
    found: dict[str, Model] = {
        folder.name: load(
            folder, lambda file: OrtNetwork(file, 1), lambda backend, _, made_up: measured(backend, 256, made_up)
        )
        for folder in scan(small_models)
    }
    for model in [each for each in found.values() if isinstance(each, Sampler)]:
        raw = PlainModel(model.name + RAW, model.version, model.network, model.digest[:16])
        found[raw.name] = raw
    return found


MakeEngine = Callable[..., SimpleNamespace]


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    """Makes (engine, metrics); every engine is stopped in the end."""
    engines: list[Engine] = []

    def make(**settings: int) -> SimpleNamespace:
        metrics = ReplicaMetrics()
        engines.append(Engine(metrics, **settings))
        return SimpleNamespace(engine=engines[-1], metrics=metrics)

    yield make
    for engine in engines:
        engine.stop()


@pytest.fixture
def log_levels() -> Iterator[None]:
    """The log settings of this process are as before afterwards: servers of tests run in it, and change them."""
    root = logging.getLogger()
    level, before = root.level, {handler: list(handler.filters) for handler in root.handlers}
    yield
    root.setLevel(level)
    for handler, filters in before.items():
        handler.filters = filters
