"""Where the candidates of a request come from."""

import math
from dataclasses import dataclass, field

import steering
from serving.models.model import Knowledge, Sampler
from serving.requests.laws import MOST_LAWS, Laws
from serving.requests.shared_setup import Pinned
from serving.wire import errors
from serving.wire.parameters import Parameters
from steering.posteriors import Bank, Local
from steering.posteriors.draws import enough
from steering.posteriors.mixture import MOST_DIMENSIONS


@dataclass
class Found:
    """A posterior, with the automatic choices and their reasons, and warnings for the caller.

    Attributes:
        laws: whose draws take the place of `posterior`, law by law, once they are there; None where it stands.
    """

    posterior: Bank | Local
    laws: Laws | None = None
    choices: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What candidates come from."""
        return "residuals" if self.laws is not None else type(self.posterior).__name__.lower()

    @property
    def bank(self) -> Bank | None:
        return self.posterior if isinstance(self.posterior, Bank) else None


def shared_bank(known: Knowledge, local: Local | None, shared: bool) -> Bank:
    """The model's bank. If `shared`, later requests use what this one adds to it (scores, growth)."""
    assert known.cloud is not None
    scored, refreshed = (known.scored, known.refreshed) if shared else (None, None)
    return Bank(known.cloud, local, None, Pinned(scored), Pinned(refreshed))


def posterior_for(
    model: Sampler, known: Knowledge, problem: steering.Problem, parameters: Parameters, shared: bool, fixed: bool
) -> Found:
    """The posterior a request asks for, or the model's best. If that is missing, the closest one there is, with a note.

    Under conditions, for which no bank is kept, it is made of draws of each law.

    Args:
        shared: later requests may use the reward's scores of the bank.
        fixed: rows are evaluated in calls of one size.

    Raises:
        RequestError: INVALID_ARGUMENT for a mixture of more dimensions than can be fitted.
    """
    wanted, name, notes, plan = parameters.posterior, model.name, list[str](), problem.plan
    conditional = bool(problem.condition)
    on_bank = wanted in (None, "bank")
    if conditional and wanted == "bank":
        notes.append(f"model {name!r}: its bank belongs to no condition; draws under each condition were used instead")
    if wanted == "residuals" or (on_bank and conditional):
        draws = parameters.residual_draws or enough(model.card.event_shape)
        laws = Laws.among(model, problem, parameters.samples, draws, fixed)
        many = f"{len(laws.laws)} different conditions, and draws are made for up to {MOST_LAWS}"
        if wanted == "residuals" or len(laws.laws) <= MOST_LAWS:
            return Found(known.local("gaussian"), laws, [laws.choice], notes)
        notes.append(f"model {name!r}: {many} unless posterior is 'residuals'; a Gaussian was used throughout")
    elif on_bank and known.cloud is None:
        notes.append(f"model {name!r}: it has no bank yet; a local posterior was used throughout")
    if known.calibration is None:
        notes.append(f"model {name!r} is not calibrated; the variance of Gaussian data was used instead")
    kind = None if wanted in (None, "bank", "rollout") else wanted
    if kind == "mixture" and (size := math.prod(model.card.event_shape)) > MOST_DIMENSIONS:
        raise errors.invalid(f"posterior 'mixture': expected at most {MOST_DIMENSIONS} numbers a sample, got {size}")
    local = known.local(kind or ("gaussian" if conditional else None))
    if isinstance(local.calibration, steering.Calibration):
        local = local.calibrated(local.calibration.rescheduled(plan.trained, plan.path))
    used = type(local).__name__.lower()
    if kind is not None and used != kind:
        lacking = "neighbours need a bank" if kind == "neighbours" else f"no mixture was fitted to model {name!r}"
        notes.append(f"{lacking}; {used} was used instead")
    if wanted == "rollout":
        assert local.calibration is not None
        return Found(steering.posteriors.rollout(parameters.rollout_steps).calibrated(local.calibration), notes=notes)
    if not on_bank or conditional or known.cloud is None:
        return Found(local, notes=notes)
    if model.card.posterior is not None:
        choices = [f"local posterior {used}: the model's card says so"]
    else:
        choices = [] if known.choice is None else [known.choice.why]
        if known.choice is None and known.calibration is not None:
            notes.append(f"model {name!r}: its local posterior was not chosen yet; {used} was used")
    return Found(shared_bank(known, local, shared), None, choices, notes)
