"""The steering method a request asks for."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

import steering
from serving.models.model import Knowledge, Sampler
from serving.requests.posterior import Found, posterior_for, shared_bank
from serving.requests.tensors import Tensors
from serving.rewards import Reward
from serving.rewards.external import lasting
from serving.wire import errors
from serving.wire.parameters import Parameters
from steering.baselines import BASELINES, PRESETS, BankResampling, BestOf, Svdd, fk_steering
from steering.numerics.tiles import ROWS
from steering.posteriors import Bank
from steering.sampling.sampler import Steering, unsteerable

STEADY = 2
"""Up to this order a solver does not amplify steering's noise: its weights stay near 1."""
GROUP = 64
"""Most samples drawn together. Populations may be larger, since they are never divided."""
CANDIDATES = 2**22
"""Most numbers in one stage's candidates: bounds memory, and how long a request holds the second thread at a time."""
MOST_CANDIDATES = 2**25
"""The same bound for samples that cannot be divided, such as a population."""

AIM = ("beta", "threshold")
DOOB = ("particles", "posterior", "rollout_steps", "refresh")
TAKES: Mapping[str, Sequence[str]] = {
    "doob": (*AIM, *DOOB, "reward_budget"),
    "smc": (*AIM, *DOOB, "population", "keep", "inner", "potential"),
    "best_of": ("chains",),
    "svdd": (*AIM, "candidates"),
    "fk_steering": (*AIM, "population", "keep", "potential"),
    "doit": ("chains", "preset"),
    "bank_resampling": AIM,
}
"""Methods by name, with the parameters they take."""
OPTIONS = tuple(dict.fromkeys(name for names in TAKES.values() for name in names))


@dataclass(frozen=True)
class Steered:
    """How the samples of a request are drawn.

    Attributes:
        method: its name in the response.
        steer: None for plain samples.
        setup: what is prepared once for a target, before any sample.
        bank: keeps the target's scores and grown samples.
        threshold: of the event the samples shall meet.
        choices: what was chosen automatically, and why.
        notes: warnings for the caller.
    """

    method: str
    steer: Steering | None = None
    setup: steering.Doob | BankResampling | None = None
    bank: Bank | None = None
    threshold: float | None = None
    choices: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def setup_rows(self) -> tuple[int, int]:
        """Network and reward rows that the target's setup takes once, whichever request does it. Call it after the
        setup."""
        if self.bank is None:
            return 0, 0
        levels = [level for union in self.bank.refreshed.values() for level in union.levels]
        network = sum(level.network_rows for level in levels)
        return network, len(self.bank.samples) + sum(level.reward_rows for level in levels)


def method_of(parameters: Parameters) -> str:
    """The name of the method a request asks for, "none" for plain samples.

    Raises:
        RequestError: INVALID_ARGUMENT for unknown names and methods that are not served.
    """
    name = parameters.method
    if name in BASELINES and name not in TAKES:
        raise errors.invalid(
            f"steering {name!r} needs gradients, and engines here only run forwards: expected one of "
            f"{', '.join(TAKES)}; in a notebook, steering.baselines has it"
        )
    if name not in (*TAKES, "none"):
        raise errors.invalid(f"unknown steering {name!r}, expected one of {', '.join((*TAKES, 'none'))}")
    return name


def completed(parameters: Parameters) -> Parameters:
    """The parameters, with solver and eta of the preset where the request leaves them out."""
    if parameters.preset is None:
        return parameters
    if parameters.preset not in PRESETS:
        raise errors.invalid(f"unknown preset {parameters.preset!r}, expected one of {', '.join(PRESETS)}")
    missing = {"solver": "ddim", "eta": PRESETS[parameters.preset].eta}
    return parameters.model_copy(update={k: v for k, v in missing.items() if k not in parameters.model_fields_set})


def steering_for(
    model: Sampler,
    known: Knowledge,
    plan: steering.Plan,
    parameters: Parameters,
    reward: Reward | None,
    tensors: Tensors,
) -> Steered:
    """The method with its settings.

    Raises:
        RequestError: INVALID_ARGUMENT if the method cannot steer the plan, does not take a parameter that was sent, or
            if two methods are asked for.
    """
    method = method_of(parameters)
    if method != "none" and reward is not None and tensors.known is not None:
        raise errors.invalid("known: expected no reward beside it, or steering 'none', got both")
    if tensors.known is not None:
        if why := unsteerable(plan, tensors.mean is not None):
            raise errors.invalid(why)
        assert tensors.mask is not None
        return Steered("project", steering.inpaint(tensors.mask, tensors.known))
    if method == "none" or reward is None:
        return Steered("none")
    _check_options(method, parameters)
    asked = _Asked(model, known, plan, parameters, reward, bool(tensors.condition))
    try:
        made = _MAKE[method](asked)
    except steering.SteeringError as error:
        raise errors.invalid(str(error)) from None
    whole_chains = method in ("best_of", "bank_resampling")  # these leave the plan alone
    why = "" if whole_chains and not plan.reverse else unsteerable(plan, tensors.mean is not None)
    if why := why or ("" if made.steer is None else made.steer.unsuitable(plan)):
        raise errors.invalid(why)
    return made


def group_size(steer: Steering | None, event: Sequence[int]) -> int:
    """How many samples are drawn together: a multiple of steering's tile where that is possible.

    Raises:
        RequestError: INVALID_ARGUMENT if samples that cannot be divided exceed `MOST_CANDIDATES`.
    """
    if steer is None:
        return GROUP
    together, each = steer.together, steer.held * math.prod(event)
    if together * each > MOST_CANDIDATES:
        raise errors.invalid(
            f"steering: expected at most {MOST_CANDIDATES} numbers in the candidates of what is drawn together, "
            f"got {together * each}: fewer particles, or a smaller population"
        )
    most = min(GROUP, CANDIDATES // each)
    for unit in (math.lcm(ROWS, together), together):
        if unit <= most:
            return most // unit * unit
    return together


@dataclass(frozen=True)
class _Asked:
    """What is needed to make a method."""

    model: Sampler
    known: Knowledge
    plan: steering.Plan
    parameters: Parameters
    reward: Reward
    conditional: bool

    @property
    def threshold(self) -> float | None:
        return self.reward.threshold if self.parameters.threshold is None else self.parameters.threshold

    @property
    def aim(self) -> dict[str, Any]:
        """The target, for methods that have one."""
        return {"beta": self.parameters.beta, "threshold": self.threshold, "key": self.reward.key}


def _check_options(method: str, parameters: Parameters) -> None:
    """Refuse parameters that the method does not take."""
    taken = set(TAKES[method])
    if method == "smc" and parameters.inner == "none":
        taken -= set(DOOB)
    for name in OPTIONS:
        if name in parameters.model_fields_set and name not in taken:
            takers = ", ".join(each for each, names in TAKES.items() if name in names)
            also = " with inner 'none'" if method == "smc" and name in DOOB else ""
            raise errors.invalid(f"{name}: steering {method!r}{also} does not take it; those that do: {takers}")


def _scored_elsewhere(reward: Reward) -> Callable[[Tensor], Tensor]:
    """A stand-in with the reward's name: steering asks for reward rows, and the engine answers them."""

    def score(x: Tensor) -> Tensor:
        raise AssertionError("the engine answers reward rows itself")

    score.__name__ = reward.name
    return score


def _doob(asked: _Asked) -> Steered:
    steer, found = _make_doob(asked, _scored_elsewhere(asked.reward))
    setup = None if found.bank is None else steer
    return Steered("doob", steer, setup, found.bank, asked.threshold, found.choices, found.notes)


def _make_doob(asked: _Asked, score: Callable[[Tensor], Tensor]) -> tuple[steering.Doob, Found]:
    parameters, plan = asked.parameters, asked.plan
    found = posterior_for(asked.model, asked.known, plan, parameters, asked.conditional, lasting(asked.reward.key))
    if plan.order > STEADY:
        found.notes.append(f"solver {plan.solver!r} carries steering's noise far in long steps; dpmpp_2m is steadier")
    steer = steering.Doob(
        score, particles=parameters.particles, posterior=found.posterior, refresh=parameters.refresh,
        reward_budget=parameters.reward_budget, **asked.aim,
    )  # fmt: skip
    return steer, found


def _smc(asked: _Asked) -> Steered:
    parameters, score = asked.parameters, _scored_elsewhere(asked.reward)
    make = partial(
        steering.Smc, score, population=parameters.chains_together, keep=parameters.kept,
        potential=parameters.potential, **asked.aim,
    )  # fmt: skip
    if parameters.inner == "none":
        return Steered("smc", make(), threshold=asked.threshold)
    inner, found = _make_doob(asked, score)
    setup = None if found.bank is None else inner
    return Steered("smc", make(inner=inner), setup, found.bank, asked.threshold, found.choices, found.notes)


def _fk_steering(asked: _Asked) -> Steered:
    parameters = asked.parameters
    potential: Any = parameters.potential or "difference"
    steer = fk_steering(
        _scored_elsewhere(asked.reward), particles=parameters.chains_together, keep=parameters.kept,
        potential=potential, **asked.aim,
    )  # fmt: skip
    return Steered("fk_steering", steer, threshold=asked.threshold)


def _svdd(asked: _Asked) -> Steered:
    steer = Svdd(_scored_elsewhere(asked.reward), candidates=asked.parameters.candidates, **asked.aim)
    return Steered("svdd", steer, threshold=asked.threshold)


def _best_of(asked: _Asked) -> Steered:
    chains = asked.parameters.chains_a_sample
    return Steered("best_of", BestOf(_scored_elsewhere(asked.reward), chains, key=asked.reward.key))


def _doit(asked: _Asked) -> Steered:
    parameters = asked.parameters
    chosen = PRESETS.get(parameters.preset or "")
    make = partial(steering.baselines.Doit, _scored_elsewhere(asked.reward), key=asked.reward.key)
    chains = parameters.chains_a_sample
    if chosen is None:
        return Steered("doit", make(particles=chains))
    return Steered("doit", make(tau=chosen.tau, gamma=chosen.gamma, t_star=chosen.t_star, probes=32, particles=chains))


def _bank_resampling(asked: _Asked) -> Steered:
    name = asked.model.name
    if asked.conditional:
        raise errors.invalid(f"bank_resampling: expected a model without conditions, got {name!r}")
    if asked.known.cloud is None:
        raise errors.unavailable(f"bank_resampling: model {name!r} has no bank yet")
    bank = shared_bank(asked.known, None, lasting(asked.reward.key))
    steer = BankResampling(_scored_elsewhere(asked.reward), samples=bank.samples, scored=bank.scored, **asked.aim)
    return Steered("bank_resampling", steer, steer, bank, asked.threshold)


_MAKE: Mapping[str, Callable[[_Asked], Steered]] = {
    "doob": _doob,
    "smc": _smc,
    "best_of": _best_of,
    "svdd": _svdd,
    "fk_steering": _fk_steering,
    "doit": _doit,
    "bank_resampling": _bank_resampling,
}
