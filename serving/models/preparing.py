"""Banks and calibrations that a model came without: whether they can be made, and how."""

import logging

from torch import Tensor

import steering
from serving.engine.task import Routine
from serving.models.described import reverts
from serving.models.evaluations import evaluations
from serving.models.model import Model, Sampler

_log = logging.getLogger(__name__)


def lacks(model: Model) -> bool:
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
        samples = yield from evaluations(steering.draw_bank(problem, steering.BANK_SIZE), model, None)
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
