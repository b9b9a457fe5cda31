"""The models of one replica: loads them, makes missing banks and calibrations, and reports their states."""

import asyncio
import contextlib
import logging
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Generator
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge
from torch import Tensor

import steering
from serving.backends import Backend, LoadError
from serving.backends.costs import Costs
from serving.backends.examination import Findings
from serving.backends.made_up import MadeUp
from serving.backends.opening import Opener
from serving.backends.profiling import measured
from serving.engine.engine import Engine
from serving.engine.task import Routine, Task
from serving.fleet.directory import ModelState, State
from serving.models.described import plain_state, reverts, sampler_state
from serving.models.evaluations import evaluations
from serving.models.folders import Folder, readable, scan
from serving.models.memory import Memory, TooLargeError
from serving.models.model import RAW, Model, PlainModel, Sampler
from serving.models.repository import load
from serving.models.trial import Trials
from serving.models.unloaded import Kept, unloaded
from serving.wire import errors
from serving.wire.kserve import InferRequest

_log = logging.getLogger(__name__)
_AGAIN_S = 1.0


class LoadedModels:
    """Models by name. Each sampler also lends its network to a plain model `<name>.network`.

    At most `most_bytes` of models are in memory (None: no bound): the least recently used of those that no request is
    using make room, and are loaded again when they are asked for. The bound counts the bytes of graph and weight files
    and of banks. It does not count what the runtime needs to compute, nor the scores and grown banks that requests
    leave with a bank; these are dropped with their model. Models that are not in memory are listed too, with their
    shapes.

    For one event loop.

    Args:
        registry: receives the metrics of loaded bytes, loads and unloads.
        opener: chooses the backend of a graph; None for ONNX Runtime on `threads` threads.
        release: closes a backend when no call runs on it any more.
        trust: names of models that are served even if their rows are not independent.
    """

    def __init__(
        self,
        root: Path,
        threads: int,
        most_bytes: int | None = None,
        registry: CollectorRegistry | None = None,
        opener: Opener | None = None,
        release: Callable[[Backend], None] = Backend.close,
        trust: Collection[str] = (),
    ) -> None:
        self._release, self._trust = release, frozenset(trust)
        self._open, self._bounded = opener or Opener(threads), most_bytes is not None
        self.folders = scan(root)
        self.models: dict[str, Model] = {}
        self._by_name = {folder.name: folder for folder in self.folders}
        self._faults: dict[str, str] = {}
        self._kept: dict[str, Kept] = {}
        self._costs: dict[str, Costs] = {}
        self._findings: dict[str, Findings] = {}
        self._shown: dict[str, tuple[ModelState, ...]] = {}  # the listing of models that are not in memory
        self._lacking: deque[str] = deque()
        self._making: asyncio.Task[None] | None = None
        self._memory = Memory(
            most_bytes, expected=self._file_bytes, load=self._load, unload=self._unload, short=self._make_way
        )
        registry = registry or CollectorRegistry()
        self._bytes = Gauge(
            "tiltserve_model_bytes", "Bytes of a model in memory: files and bank", ["model"], registry=registry
        )
        self._loads = Counter("tiltserve_model_loads", "Times a model was loaded", ["model"], registry=registry)
        self._unloads = Counter(
            "tiltserve_model_unloads", "Times a model made room for another", ["model"], registry=registry
        )

    async def load_all(self) -> None:
        """Load every model; one that cannot be loaded is remembered with the reason, and the others go on."""
        for folder in self.folders:
            try:
                async with self._memory.holding([folder.name]):
                    pass
            except (LoadError, TooLargeError) as error:
                self._faults[folder.name] = readable(str(error))
            except OSError as error:
                where = error.filename or folder.root
                self._faults[folder.name] = readable(f"{where}: expected to read it, got: {error.strerror}")
            except Exception as error:
                _log.exception("loading %s", folder.name)
                self._faults[folder.name] = readable(f"{folder.root}: {type(error).__name__}: {error}")
            if folder.name in self._faults:
                for name in (folder.name, folder.name + RAW):
                    self.models.pop(name, None)
                _log.error("model %s: %s", folder.name, self._faults[folder.name])

    @contextlib.asynccontextmanager
    async def holding(self, request: InferRequest) -> AsyncIterator[None]:
        """Within, the models that a request can touch are in memory; it waits for those that are not.

        Raises:
            RequestError: UNAVAILABLE with the reason why one cannot be loaded, RESOURCE_EXHAUSTED where they do not fit
                into the memory together.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self._bounded:
                try:
                    await stack.enter_async_context(self._memory.holding(self._touched(request)))
                except TooLargeError as error:
                    raise errors.exhausted(f"model {request.model!r}: {error}") from None
                except Exception as error:
                    cause = str(error) if isinstance(error, LoadError) else f"{type(error).__name__}: {error}"
                    raise errors.unavailable(f"model {request.model!r} cannot be loaded again: {cause}") from error
            yield

    def states(self) -> tuple[ModelState, ...]:
        """Every model for the directory, raw networks of samplers included."""
        return tuple(state for folder in self.folders for state in self._states(folder))

    async def prepare(self, engine: Engine) -> None:
        """Make missing banks and calibrations, one model after another, while requests leave memory for it."""
        while self._lacking:
            name = self._lacking.popleft()
            if name not in self.models:  # larger than the memory
                continue
            self._making = asyncio.create_task(self._make(name, engine))
            try:
                await self._making
            except asyncio.CancelledError:
                if (me := asyncio.current_task()) is None or me.cancelling():
                    raise
                self._lacking.append(name)  # requests need the memory
                await asyncio.sleep(_AGAIN_S)
            except Exception as error:
                _log.error("model %s: its bank and calibration could not be made: %s", name, error)

    async def _make(self, name: str, engine: Engine) -> None:
        async with self._memory.holding([name]):
            model = self.models[name]
            assert isinstance(model, Sampler)
            task = Task(model=name, program=_prepared(model), network_rows=0, background=True, deterministic=True)
            made = await asyncio.wrap_future(engine.submit(task))
            await asyncio.to_thread(_learn, model, *made)  # choosing a local posterior takes time
            if self._bounded:
                self._kept[name] = await asyncio.to_thread(Kept, model)
            self._memory.resize(name, self._measured(model))

    def close(self) -> None:
        """Close every backend in memory, once nothing runs on them."""
        for name in self._by_name.keys() & self.models.keys():
            self.models[name].network.backend.close()

    def _make_way(self) -> None:
        """A request waits for memory: cancel the bank that is made in the background, which frees its model."""
        if self._making is not None:
            self._making.cancel()

    def _touched(self, request: InferRequest) -> set[str]:
        """Names of the models a request can touch: its own, and every model named in its reward."""
        said = [each for key, each in request.parameters.items() if key.startswith("reward") and isinstance(each, str)]
        words = [word for text in said for pattern in (r"[\w.-]+", r"\w+") for word in re.findall(pattern, text)]
        return {request.model, request.model.removesuffix(RAW), *words} & self._by_name.keys() & self.models.keys()

    def _load(self, name: str) -> int:
        """Bring a model into memory, as it was if it was there before; its bytes. Runs on a thread."""
        trials = Trials(self._open.most, trusted=name in self._trust, known=self._findings)
        model = load(self._by_name[name], self._open, self._measure, trials)
        if (kept := self._kept.get(name)) is not None:
            if not kept.fits(model):
                model.network.backend.close()
                raise LoadError(f"{self._by_name[name].root}: expected the files it was loaded from, got others")
            kept.restore(model)
        else:
            if isinstance(model, Sampler) and model.known.cloud is not None:
                _learn(model, model.known.cloud.samples, model.known.calibration)
            if _lacks(model):
                self._lacking.append(name)
            if self._bounded:
                self._kept[name] = Kept(model)
        self._add(model)
        self._shown.pop(name, None)
        self._loads.labels(name).inc()
        return self._measured(model)

    def _measure(self, backend: Backend, graph: str, made_up: MadeUp | None) -> Costs:
        """Costs of calls, measured when a graph is first loaded."""
        if graph not in self._costs:
            self._costs[graph] = measured(backend, self._open.most, made_up)
        return self._costs[graph]

    def _unload(self, name: str) -> None:
        """Drop a model; its memory is free when the last call that ran on it is over."""
        self._shown[name] = tuple(self._states(self._by_name[name]))
        self._release(self.models[name].network.backend)
        self._add(unloaded(self.models[name]))
        self._bytes.labels(name).set(0)
        self._unloads.labels(name).inc()

    def _add(self, model: Model) -> None:
        if isinstance(model, Sampler):  # first: the heartbeat looks for it where the sampler is
            name = model.name + RAW
            self.models[name] = PlainModel(
                name, model.version, replace(model.network, name=name), model.digest[:16], model.ranges
            )
        self.models[model.name] = model

    def _file_bytes(self, name: str) -> int:
        """The estimated size of a model that was never loaded."""
        files = self._by_name[name].graph.parent.rglob("*")  # the graph is not read for that
        return sum(file.stat().st_size for file in files if file.is_file())

    def _measured(self, model: Model) -> int:
        """The bytes of a model in memory, which the metrics show too."""
        folder = self._by_name[model.name]
        size = sum(file.stat().st_size for file in (*folder.files, *folder.others) if file != folder.programs)
        if isinstance(model, Sampler) and model.known.cloud is not None:
            size += model.known.cloud.samples.nbytes
        self._bytes.labels(model.name).set(size)
        return size

    def _states(self, folder: Folder) -> Generator[ModelState, None, None]:
        model = self.models.get(folder.name)
        if model is None:
            state: State = "UNAVAILABLE" if folder.name in self._faults else "LOADING"
            yield ModelState(folder.name, folder.version, "network", state, self._faults.get(folder.name, ""))
        elif folder.name in self._shown:
            yield from self._shown[folder.name]
        elif isinstance(model, PlainModel):
            yield plain_state(model)
        else:
            raw = self.models[folder.name + RAW]
            assert isinstance(raw, PlainModel)
            yield sampler_state(model)
            yield plain_state(raw)


def _lacks(model: Model) -> bool:
    """Whether a bank or a calibration is missing and can be made. A bank belongs to one law: models with conditions or
    means have many."""
    if not isinstance(model, Sampler) or model.card.conditions or reverts(model):
        return False
    return model.known.cloud is None or model.known.calibration is None


def _prepared(model: Sampler) -> Routine:
    """Draw the model's bank and measure its calibration if they are missing; a pure function of the model."""
    card = model.card
    assert card.prediction is not None
    plan = model.plan("dpmpp_2m", 20)
    known = model.known
    samples = known.cloud.samples if known.cloud is not None else None
    if samples is None:
        problem = steering.Problem(plan=plan, event=card.event_shape)
        samples = yield from evaluations(steering.draw_bank(problem, steering.BANK_SIZE), model, None)
    calibration = known.calibration
    if calibration is None:
        measuring = steering.calibrate(
            samples, model.path, card.prediction, card.preconditioning, card.sigma_data, limit=model.limit
        )
        calibration = yield from evaluations(measuring, model, None)
    return samples, calibration


def _learn(model: Sampler, samples: Tensor, calibration: steering.Calibration | None) -> None:
    """Take on a bank and a calibration, with the local posterior that fits them."""
    try:
        model.learn(samples, calibration, choose=True)
    except Exception:
        _log.exception("model %s: no local posterior could be chosen", model.name)
        model.learn(samples, calibration)
    _log.info("model %s: %s", model.name, model.known.choice.why if model.known.choice else "bank taken on")
