"""The steering method a request asks for."""

from torch import Tensor

import steering
from serving import errors
from serving.outside import lasting
from serving.parameters import Parameters
from serving.repository import Knowledge, Sampler
from serving.rewards import Reward
from serving.tensors import Tensors
from steering.posteriors import Bank, Local
from steering.sampler import unsteerable

Method = steering.Doob | steering.Project
STEADY = 2
"""Up to this order a solver's weights stay near 1 in size, and steered samples of few particles near the data."""


def steering_for(
    model: Sampler,
    known: Knowledge,
    plan: steering.Plan,
    parameters: Parameters,
    reward: Reward | None,
    tensors: Tensors,
) -> tuple[Method | None, list[str]]:
    """The method, None for plain samples, and what the caller should know of the choice.

    Raises:
        RequestError: INVALID_ARGUMENT where the plan cannot be steered, or two methods are asked for.
    """
    doob = reward is not None and parameters.steering != "none"
    inpainting = tensors.known is not None
    if doob and inpainting:
        raise errors.invalid("known: expected no reward beside it, or steering 'none', got both")
    if not doob and not inpainting:
        return None, []
    if why := unsteerable(plan, tensors.mean is not None):
        raise errors.invalid(why)
    if inpainting:
        assert tensors.known is not None
        assert tensors.mask is not None
        return steering.inpaint(tensors.mask, tensors.known), []
    assert reward is not None
    return _doob(model, known, plan, parameters, reward, bool(tensors.condition))


def _doob(
    model: Sampler, known: Knowledge, plan: steering.Plan, parameters: Parameters, reward: Reward, conditional: bool
) -> tuple[steering.Doob, list[str]]:
    notes = []
    if plan.order > STEADY:
        notes.append(f"solver {plan.solver!r} carries steering's noise far in long steps; dpmpp_2m is steadier")
    cloud = None if conditional else known.cloud
    if cloud is None and parameters.posterior in (None, "bank"):
        why = "its bank belongs to no condition" if conditional else "it has no bank yet"
        notes.append(f"model {model.name!r}: {why}; a local posterior was used throughout")
    if known.calibration is None:
        notes.append(f"model {model.name!r} is not calibrated; the variance of Gaussian data was used instead")
    wanted = parameters.posterior if parameters.posterior != "bank" else None
    local = known.local(wanted or ("gaussian" if conditional else None))
    if isinstance(local.calibration, steering.Calibration):
        local = local.calibrated(local.calibration.rescheduled(plan.trained, plan.path))
    if parameters.posterior == "neighbours" and known.cloud is None:
        notes.append("neighbours need a bank; gaussian was used instead")
    posterior: Bank | Local = local
    if cloud is not None and parameters.posterior in (None, "bank"):
        posterior = Bank(cloud, local, None, known.scored if lasting(reward.key) else {})

    def score(x: Tensor) -> Tensor:
        raise AssertionError("the engine answers reward rows itself")

    score.__name__ = reward.name
    steer = steering.Doob(
        score, parameters.beta, parameters.particles, posterior,
        threshold=reward.threshold if parameters.threshold is None else parameters.threshold,
        reward_budget=parameters.reward_budget, key=reward.key,
    )  # fmt: skip
    return steer, notes
