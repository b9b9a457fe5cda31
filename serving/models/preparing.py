"""What is made in the background: banks and calibrations that a model came without, and draws of its laws under
conditions that requests want but do not wait for."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from torch import Tensor

import steering
from serving.engine.engine import Engine
from serving.engine.task import Routine, Task
from serving.models.artifacts import Artifacts, BusyError, Prepared, bank_key
from serving.models.described import reverts
from serving.models.draws import Wanted
from serving.models.evaluations import evaluations
from serving.models.memory import Memory
from serving.models.model import Sampler
from serving.models.pipeline import Opened
from serving.models.versions import Version

_log = logging.getLogger(__name__)
_AGAIN_S = 1.0
MOST_WANTED = 64
"""Laws whose draws are to be made, at most; requests name them."""


class Preparing:
    """Makes what versions lack in the background, one after another, while requests leave memory for it.

    Args:
        memory: holds the versions meanwhile.
        learned: told of a version that has it now, while it is held.
        failed: told of a version whose bank or calibration could not be made, and why.
        artifacts: where replicas find what one of them has made; None for nowhere.

    Attributes:
        making: what is being made.
    """

    def __init__(
        self,
        memory: Memory,
        learned: Callable[[Version, Sampler], Awaitable[None]],
        failed: Callable[[Version, Exception], object] = lambda version, error: None,
        artifacts: Artifacts | None = None,
    ) -> None:
        self._memory, self._learned, self._failed, self._artifacts = memory, learned, failed, artifacts
        self._lacking: deque[tuple[Version, Wanted | None]] = deque()
        self._wanted = asyncio.Event()
        self.making: tuple[Version, asyncio.Task[None]] | None = None

    def want(self, version: Version, draws: Wanted | None = None) -> None:
        """A version that is ready lacks its bank or calibration, or draws that are wanted of it."""
        if draws is not None:
            keys = [each.key for _, each in self._lacking if each is not None]
            if draws.key in keys or len(keys) >= MOST_WANTED:
                return
        self._lacking.append((version, draws))
        self._wanted.set()

    def give_way(self, version: Version | None = None) -> None:
        """Stop making what is being made, or only what a version lacks; it is begun again later, if it is ready."""
        if self.making is None or version not in (None, self.making[0]):
            return
        if not self.making[1].cancelling():  # once: a second time would stop it while it leaves its lease
            self.making[1].cancel()

    async def all(self, engine: Engine) -> None:
        """Make what is lacking now."""
        elsewhere = set[Version]()  # another replica makes their banks
        while self._lacking:
            # a bank first: all requests for its model are waiting for it
            found = [each for each in self._lacking if each[1] is not None or each[0] not in elsewhere]
            if not found:
                elsewhere.clear()
                await asyncio.sleep(_AGAIN_S)
                continue
            version, draws = item = next((each for each in found if each[1] is None), found[0])
            self._lacking.remove(item)
            if not (version.ready or version.waits):  # it was unloaded or replaced
                continue
            making = asyncio.create_task(self._make(version, draws, engine))
            self.making = version, making
            try:
                await making
            except asyncio.CancelledError:
                if (me := asyncio.current_task()) is None or me.cancelling():
                    raise
                self._lacking.append((version, draws))  # requests need the memory, or go on with the draws themselves
                await asyncio.sleep(_AGAIN_S)
            except BusyError:
                elsewhere.add(version)
                self._lacking.append((version, draws))
            except Exception as error:
                what = "its bank and calibration" if draws is None else "draws for steering under conditions"
                _log.error("model %s: %s could not be made: %s", version.folder.name, what, error)
                if draws is None:
                    self._failed(version, error)
            finally:
                self.making = None

    async def keep(self, engine: Engine) -> None:
        """As `all`, for ever."""
        while True:
            self._wanted.clear()
            await self.all(engine)
            await self._wanted.wait()

    async def _make(self, version: Version, draws: Wanted | None, engine: Engine) -> None:
        async with self._memory.holding([version.key]):
            assert version.content is not None
            model = version.content.model
            assert isinstance(model, Sampler)
            if draws is not None:
                await asyncio.wrap_future(engine.submit(drawing(model, draws)))
                return
            made = await self._prepared(model, engine)
            await asyncio.to_thread(learn, model, made.samples, made.calibration)  # choosing a posterior takes time
            version.lacking = False
            await self._learned(version, model)

    async def _prepared(self, model: Sampler, engine: Engine) -> Prepared:
        """What a model lacks, found or made; BusyError while another replica makes it."""
        if (artifacts := self._artifacts) is None:
            return await _drawn(model, engine)
        key = await asyncio.to_thread(bank_key, model)
        if (found := await asyncio.to_thread(artifacts.prepared, model, key)) is not None:
            return found
        async with _leased(artifacts, key):
            if (found := await asyncio.to_thread(artifacts.prepared, model, key)) is not None:
                return found  # it was done meanwhile
            made = await _drawn(model, engine)
            await asyncio.to_thread(artifacts.keep_prepared, key, made)
            return made


async def _drawn(model: Sampler, engine: Engine) -> Prepared:
    task = Task(model=model.name, program=prepared(model), network_rows=0, background=True, deterministic=True)
    return Prepared(*await asyncio.wrap_future(engine.submit(task)))


@contextlib.asynccontextmanager
async def _leased(artifacts: Artifacts, key: str) -> AsyncIterator[None]:
    """Within, others wait for what is made here; BusyError where that is to wait for others."""
    taking = asyncio.create_task(asyncio.to_thread(artifacts.lease, key))
    try:
        await asyncio.shield(taking)
        yield
    finally:
        with contextlib.suppress(BusyError):  # a lease is left also if whoever took it was stopped before it came
            if (lease := await asyncio.shield(taking)) is not None:
                await asyncio.to_thread(lease.leave)


def drawing(model: Sampler, wanted: Wanted) -> Task:
    """The task that makes draws in the background."""
    sampler = (model if wanted.event is None else model.sized(wanted.event)).referring(wanted.tables)
    evaluating = partial(evaluations, model=sampler, reward=None, announced=False)
    task = Task(
        model=model.name, program=wanted.program(evaluating, lambda: task.future.cancel()), network_rows=0,
        background=True, heavy=True, deterministic=wanted.fixed,
    )  # fmt: skip
    return task


def lacks(model: Opened) -> bool:
    """Whether a bank or a calibration is missing and can be made. A bank belongs to one law: models with conditions or
    means have many."""
    if not isinstance(model, Sampler) or model.card.conditions or reverts(model):
        return False
    return model.known.cloud is None or model.known.calibration is None


def prepared(model: Sampler) -> Routine:
    """Draw the model's bank and measure its calibration if they are missing; a pure function of the model."""
    card = model.card
    assert card.prediction is not None
    plan = model.plan("dpmpp_2m", 20)
    known = model.known
    samples = known.cloud.samples if known.cloud is not None else None
    if samples is None:
        problem = steering.Problem(plan=plan, event=card.event_shape)
        samples = yield from evaluations(steering.draw_bank(problem, steering.bank_size(card.event_shape)), model, None)
    calibration = known.calibration
    if calibration is None:
        measuring = steering.calibrate(
            samples, model.path, card.prediction, card.preconditioning, card.sigma_data, limit=model.limit
        )
        calibration = yield from evaluations(measuring, model, None)
    return samples, calibration


def learn(model: Sampler, samples: Tensor, calibration: steering.Calibration | None) -> None:
    """Take on a bank and a calibration, with the local posterior that fits them."""
    try:
        model.learn(samples, calibration, choose=True)
    except Exception:
        _log.exception("model %s: no local posterior could be chosen", model.name)
        model.learn(samples, calibration)
    _log.info("model %s: %s", model.name, model.known.choice.why if model.known.choice else "bank taken on")
