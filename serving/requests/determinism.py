"""What `deterministic` promises: equal bytes for an equal request under an equal fingerprint, with a hash to compare.

Every sample here is a function of the request, its seed and number, and the fingerprint. A deterministic request asks
for more: a path without noise, which has one start for each end and can be run backwards; nothing of which fingerprints
know nothing, such as a service's scores; and nothing that is about to change, such as a bank that is still being made.
What the request says itself is refused where it does not go with that. A default that does not is replaced.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

import steering
from serving.models.model import Sampler
from serving.models.preparing import lacks
from serving.requests.methods import TAKES
from serving.requests.parameters import OPTIONS
from serving.rewards import Reward
from serving.rewards.external import OUTSIDE
from serving.wire import errors
from serving.wire.kserve import InferRequest
from serving.wire.parameters import Parameters
from serving.wire.tensors import Array, viewed

QUIET = ("none", "doob", "best_of", "bank_resampling", "classifier_guidance", "dps", "lgd_mc", "tfg")
"""Steering methods that draw by plans without noise."""
ON_BANK = ("doob", "bank_resampling")
"""Those whose bytes depend on the model's bank or calibration."""
HASHED = ("samples", "images", "latents")
"""Outputs that are hashed: the first of them that the answer has."""


def settled(parameters: Parameters) -> Parameters:
    """The parameters of a request for samples without an eta: 0 says what holds anyway, and another is a default.

    Raises:
        RequestError: INVALID_ARGUMENT for those that ask for noise, and for what is not the same tomorrow.
    """
    if parameters.preset is not None:
        raise errors.invalid(f"deterministic: expected no preset, whose plan draws noise, got {parameters.preset!r}")
    if parameters.eta and "eta" in parameters.model_fields_set:
        raise errors.invalid(f"deterministic: expected eta 0, got {parameters.eta:g}")
    if parameters.method in TAKES and parameters.method not in QUIET:
        quiet = ", ".join(QUIET)
        raise errors.invalid(f"deterministic: expected steering without noise ({quiet}), got {parameters.method!r}")
    if not parameters.residual_wait:
        raise errors.invalid("deterministic: expected residual_wait true, got false, which has other bytes later")
    return parameters.model_copy(update={"eta": None})


def quiet(asked: InferRequest, plan: steering.Plan) -> InferRequest:
    """The request by the usual solver, for one whose noise comes from a default.

    Raises:
        RequestError: INVALID_ARGUMENT where the request itself says the solver or its options.
    """
    said = [name for name in asked.parameters if name == "solver" or name in OPTIONS]
    if not said:
        usual: str = Parameters.model_fields["solver"].default
        return replace(asked, parameters={**asked.parameters, "solver": usual})
    options = ", ".join(f"{name} {value:g}" for name, value in plan.options if name in said)
    twin = steering.solvers[plan.solver].twin
    raise errors.invalid(
        f"deterministic: expected a plan without noise, got solver {plan.solver!r}"
        + (f" with {options}" if options else "")
        + (f"; without noise: {twin}" if twin else "")
    )


def check_reward(reward: Reward) -> None:
    """Refuse rewards that are scored elsewhere: nobody knows whether they will be scored alike again."""
    if outside := OUTSIDE & {*reward.fingerprint.replace("-", "+").split("+")}:
        who = "a service scores" if "remote" in outside else "the client scores"
        raise errors.invalid(f"deterministic: expected a reward that is scored here, got {reward.name!r}, which {who}")


def check_bank(model: Sampler, method: str) -> list[str]:
    """Warnings about a bank that is still being made.

    Raises:
        RequestError: UNAVAILABLE where the samples would be others once it is there.
    """
    if not lacks(model):
        return []
    if method in ON_BANK:
        raise errors.unavailable(
            f"deterministic: model {model.name!r} is still making its bank, and steered samples will be others once it "
            "is there: try again later"
        )
    return [
        f"model {model.name!r} is still making its bank: its fingerprint will be another one, with the same bytes of "
        "samples that are not steered"
    ]


class Seal:
    """The SHA-256 of samples as they go over the wire: raw little-endian bytes in row-major order, group after group.

    Groups of one request give the hash of all their samples in one answer.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, outputs: Mapping[str, Array], x: Tensor) -> None:
        """The outputs that states x [n, *event] have become; x itself, where none of these is a sample."""
        self._hash.update(viewed(next((outputs[name] for name in HASHED if name in outputs), x.numpy())))

    @property
    def hex(self) -> str:
        return self._hash.hexdigest()
