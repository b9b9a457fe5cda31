"""The models one replica holds: loads them, makes the banks and calibrations they lack, and says how they are."""

import logging
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import steering
from serving.backends import LoadError
from serving.backends.ort import OrtNetwork
from serving.directory import ModelState, State, TensorSpec
from serving.engine import Engine, Program, Task
from serving.kserve import datatype
from serving.programs import evaluations
from serving.repository import RAW, Folder, Model, PlainModel, Sampler, load, scan

_log = logging.getLogger(__name__)


class Shelf:
    """Models by name. Each sampler also lends its network to a plain model `<name>.network`."""

    def __init__(self, root: Path, threads: int) -> None:
        self._threads = threads
        self.folders = scan(root)
        self.models: dict[str, Model] = {}
        self._faults: dict[str, str] = {}
        self._chooser = ThreadPoolExecutor(1, "chooser")

    def load_all(self) -> None:
        """Load every model; one that cannot be loaded is remembered with the reason, and the others go on."""
        for folder in self.folders:
            try:
                model = load(folder, lambda file: OrtNetwork(file, self._threads))
                if isinstance(model, Sampler) and model.known.cloud is not None:
                    _learn(model, model.known.cloud.samples, model.known.calibration)
                self._add(model)
            except LoadError as error:
                self._faults[folder.name] = str(error)
            except Exception as error:
                _log.exception("loading %s", folder.name)
                self._faults[folder.name] = f"{folder.root}: {type(error).__name__}: {error}"
            if folder.name in self._faults:
                _log.error("model %s: %s", folder.name, self._faults[folder.name])

    def states(self) -> tuple[ModelState, ...]:
        """Every model for the directory, with the raw networks of samplers beside them."""
        return tuple(state for folder in self.folders for state in self._states(folder))

    def prepare(self, engine: Engine) -> None:
        """Start background tasks for the banks and calibrations that are missing."""
        for model in self.models.values():
            if not isinstance(model, Sampler) or model.card.conditions or reverts(model):
                continue  # a bank belongs to one law, and conditions and means make many
            if model.known.cloud is None or model.known.calibration is None:
                task = Task(model.name, _prepared(model), 0, background=True)
                engine.submit(task).add_done_callback(partial(self._made, model))

    def _made(self, model: Sampler, future: Any) -> None:
        """Off the engine's thread, which this is called on: choosing a local posterior takes time."""
        if not future.cancelled() and (error := future.exception()) is not None:
            _log.error("model %s: its bank and calibration could not be made: %s", model.name, error)
        elif not future.cancelled():
            self._chooser.submit(_learn, model, *future.result())

    def _add(self, model: Model) -> None:
        self.models[model.name] = model
        if isinstance(model, Sampler):
            name = model.name + RAW
            raw = PlainModel(name, model.version, replace(model.network, name=name), model.digest[:16])
            self.models[name] = raw

    def _states(self, folder: Folder) -> Generator[ModelState, None, None]:
        model = self.models.get(folder.name)
        if model is None:
            state: State = "UNAVAILABLE" if folder.name in self._faults else "LOADING"
            yield ModelState(folder.name, folder.version, "network", state, self._faults.get(folder.name, ""))
        elif isinstance(model, PlainModel):
            yield _plain_state(model)
        else:
            raw = self.models[folder.name + RAW]
            assert isinstance(raw, PlainModel)
            yield _sampler_state(model)
            yield _plain_state(raw)


def reverts(model: Sampler) -> bool:
    """Whether every request brings the mean its samples revert to."""
    return isinstance(model.path, steering.paths.MeanReverting)


def _sampler_state(model: Sampler) -> ModelState:
    event = model.card.event_shape
    states = ("x_init", "mean") if reverts(model) else ("x_init",)
    conditions = (
        TensorSpec(name, datatype(np.dtype(c.dtype)), (-1, *c.shape)) for name, c in model.card.conditions.items()
    )
    return ModelState(
        model.name,
        model.version,
        "sampler",
        "READY",
        fingerprint=model.known.fingerprint,
        inputs=(*(TensorSpec(name, "FP32", (-1, *event)) for name in states), *conditions),
        outputs=(TensorSpec("samples", "FP32", (-1, *event)), TensorSpec("rewards", "FP32", (-1,))),
    )


def _plain_state(model: PlainModel) -> ModelState:
    specs = [
        tuple(TensorSpec(e.name, datatype(e.dtype), (-1, *(axis or -1 for axis in e.row))) for e in side)
        for side in (model.network.backend.inputs, model.network.backend.outputs)
    ]
    return ModelState(
        model.name, model.version, "network", "READY", fingerprint=model.fingerprint, inputs=specs[0], outputs=specs[1]
    )


def _prepared(model: Sampler) -> Program:
    """Draw the model's bank and measure its calibration, as far as they are missing; a pure function of the model."""
    card = model.card
    assert card.prediction is not None
    plan = model.plan("dpmpp_2m", 20)
    known = model.known
    samples = known.cloud.samples if known.cloud is not None else None
    if samples is None:
        problem = steering.Problem(plan, card.event_shape)
        samples = yield from evaluations(steering.draw_bank(problem, steering.BANK_SIZE), model, None)
    calibration = known.calibration
    if calibration is None:
        measuring = steering.calibrate(samples, model.path, card.prediction, card.preconditioning, card.sigma_data)
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
