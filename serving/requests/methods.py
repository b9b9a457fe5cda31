"""The steering method a request asks for."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

import steering
from serving.backends import Array
from serving.engine.task import Step
from serving.models.model import Knowledge, Sampler
from serving.requests.laws import Laws
from serving.requests.posterior import Found, posterior_for, shared_bank
from serving.requests.shared_setup import Pinned
from serving.requests.tensors import Tensors
from serving.rewards import Reward
from serving.rewards.external import lasting
from serving.wire import errors
from serving.wire.kserve import InferRequest
from serving.wire.parameters import Parameters
from serving.wire.rows import PULLING, TFG_STEPS
from steering.baselines import (
    PRESETS,
    BankResampling,
    BestOf,
    ClassifierGuidance,
    Dps,
    LgdMc,
    Svdd,
    Tfg,
    fk_steering,
    tds,
)
from steering.numerics.tiles import ROWS
from steering.posteriors import Bank, Local
from steering.posteriors.residuals import Residuals
from steering.sampling.sampler import Steering, unsteerable

STEADY = 2
"""Up to this order a solver does not amplify steering's noise: its weights stay near 1."""
NOISY = "sde_dpmpp_2m"
"""The solver that draws noise, where steering needs one and the request names none."""
STEPS_FOR_NOISE = 16
"""Steps from which steered images are drawn with noise by default: in eight its own error is 7 to 15%."""
GROUP = 64
"""Most samples drawn together. Populations may be larger, since they are never divided."""
CANDIDATES = 2**22
"""Most numbers in one stage's candidates: bounds memory, and how long a request holds the second thread at a time."""
MOST_CANDIDATES = 2**25
"""The same bound for samples that cannot be divided, such as a population."""

AIM = ("beta", "threshold")
DOOB = ("particles", "posterior", "rollout_steps", "residual_draws", "residual_wait", "refresh")
TAKES: Mapping[str, Sequence[str]] = {
    "doob": (*AIM, *DOOB, "reward_budget"),
    "smc": (*AIM, *DOOB, "population", "keep", "inner", "potential"),
    "best_of": ("chains",),
    "svdd": (*AIM, "candidates"),
    "fk_steering": (*AIM, "population", "keep", "potential"),
    "doit": ("chains", "preset"),
    "bank_resampling": AIM,
    "classifier_guidance": ("beta",),
    "dps": ("beta",),
    "lgd_mc": ("beta", "candidates", "spread"),
    "tfg": ("beta", "candidates", "spread", "rho", "mu"),
    "tds": ("beta", "population", "keep"),
}
"""Methods by name, with the parameters they take."""
OPTIONS = tuple(dict.fromkeys(name for names in TAKES.values() for name in names))


ByPosterior = tuple[Steering, steering.Doob | None]
"""A method with some posterior, and what is prepared once for a target."""


@dataclass(frozen=True)
class ByLaw:
    """The laws of a request's samples, and the method for what the draws of one make.

    Attributes:
        shared: later requests may use the reward's scores of the draws.
        ready: the methods of laws whose draws are there, by their number.
    """

    laws: Laws
    method: Callable[[Bank | Local], ByPosterior]
    shared: bool
    ready: dict[int, Steering] = field(default_factory=dict)

    def made(self, number: int) -> Generator[Step, list[Array], ByPosterior]:
        """The method for a law, whose draws are made first if they are not there."""
        record = yield from self.laws.record(number)
        posterior = record.posterior
        assert posterior is not None
        if isinstance(posterior, Bank):
            posterior = replace(posterior, scored=Pinned(record.scored if self.shared else None))
            self.laws.reward_rows += len(posterior.samples)
        elif isinstance(posterior, Residuals):
            self.laws.scales.extend(posterior.scale)
        return self.method(posterior)

    def leave(self, after: int) -> None:
        """Let go of what no sample from number `after` on needs."""
        self.laws.leave(after)
        for number in set(self.ready).difference(self.laws.of[after:]):
            del self.ready[number]


@dataclass(frozen=True)
class Steered:
    """How the samples of a request are drawn.

    Attributes:
        method: its name in the response.
        steer: None for plain samples.
        setup: what is prepared once for a target, before any sample.
        bank: keeps the target's scores and grown samples.
        posterior: where candidates come from, for methods that have some.
        by_law: where another method takes the place of `steer` for each law of the samples, once that is known.
        threshold: of the event the samples shall meet.
        choices: what was chosen automatically, and why.
        notes: warnings for the caller.
    """

    method: str
    steer: Steering | None = None
    setup: steering.Doob | BankResampling | None = None
    bank: Bank | None = None
    posterior: str = ""
    by_law: ByLaw | None = None
    threshold: float | None = None
    choices: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def runs(self, n: int) -> Sequence[slice]:
        """Which of n samples are drawn by one method, one after another."""
        together = 1 if self.steer is None else self.steer.together
        return [slice(0, n)] if self.by_law is None else self.by_law.laws.runs(together)

    def leave(self, after: int) -> None:
        """Let go of what no sample from number `after` on needs."""
        if self.by_law is not None:
            self.by_law.leave(after)

    @property
    def setup_rows(self) -> tuple[int, int]:
        """Network and reward rows that the target's setup takes once, whichever request does it. Call it after the
        setup."""
        if self.by_law is not None:
            return self.by_law.laws.network_rows, self.by_law.laws.reward_rows
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
    if name not in (*TAKES, "none"):
        raise errors.invalid(f"unknown steering {name!r}, expected one of {', '.join((*TAKES, 'none'))}")
    return name


def completed(
    parameters: Parameters,
    event: Sequence[int] = (),
    defaults: Mapping[str, Any] | None = None,
    *,
    quiet: bool = False,
) -> Parameters:
    """The parameters, with what the request leaves out: solver and eta of its preset, or the solver that steers best.

    Steered images, and steered samples under guidance, are drawn by the time-reversed process where neither the request
    nor the model's own `defaults` say a solver. On digits it comes closer to the tilted law at the same rows; and
    guidance has another law with noise than without, of which draws for steering are made.

    Args:
        quiet: no solver that draws noise is chosen.
    """
    if parameters.preset is None:
        unsaid = "solver" not in {*parameters.model_fields_set, *(defaults or ())}
        if unsaid and not quiet and _better_with_noise(parameters, event):
            return parameters.model_copy(update={"solver": NOISY})
        return parameters
    if parameters.preset not in PRESETS:
        raise errors.invalid(f"unknown preset {parameters.preset!r}, expected one of {', '.join(PRESETS)}")
    missing = {"solver": "ddim", "eta": PRESETS[parameters.preset].eta}
    return parameters.model_copy(update={k: v for k, v in missing.items() if k not in parameters.model_fields_set})


def instead(request: InferRequest, parameters: Parameters, plan: steering.Plan) -> InferRequest:
    """The request that steers at once, for one that would be steered by draws which are not there.

    SVDD, by a plan that draws noise, as it needs; SMC goes on without proposals of its own. A plan without noise that
    was asked for by name leaves a Gaussian.
    """
    given = {name: each for name, each in request.parameters.items() if name != "residual_wait"}
    without = {name: each for name, each in given.items() if name not in (*DOOB, "reward_budget")}
    if method_of(parameters) == "smc":
        return replace(request, parameters={**without, "inner": "none"})
    unnamed = "solver" not in given and "eta" not in given
    if unnamed and (plan.solver == NOISY or not plan.uses_noise):
        return replace(request, parameters={**without, "steering": "svdd", "solver": NOISY})
    if plan.uses_noise:
        return replace(request, parameters={**without, "steering": "svdd"})
    return replace(request, parameters={**given, "posterior": "gaussian"})


def _better_with_noise(parameters: Parameters, event: Sequence[int]) -> bool:
    """Whether samples are steered by `doob`, forwards, and the stochastic plan steers them better."""
    if parameters.reward is None or parameters.method != "doob" or parameters.reverse or parameters.eta is not None:
        return False
    return (len(event) > 1 or parameters.guidance != 1) and parameters.steps_taken >= STEPS_FOR_NOISE


def steering_for(
    model: Sampler,
    known: Knowledge,
    problem: steering.Problem,
    parameters: Parameters,
    reward: Reward | None,
    tensors: Tensors,
    fixed: bool = False,
) -> Steered:
    """The method with its settings.

    Args:
        fixed: rows are evaluated in calls of one size.

    Raises:
        RequestError: INVALID_ARGUMENT if the method cannot steer the plan, does not take a parameter that was sent, or
            if two methods are asked for.
    """
    method = method_of(parameters)
    if method != "none" and reward is not None and tensors.known is not None:
        raise errors.invalid("known: expected no reward beside it, or steering 'none', got both")
    if tensors.known is not None:
        if why := unsteerable(problem.plan, tensors.mean is not None):
            raise errors.invalid(why)
        assert tensors.mask is not None
        return Steered("project", steering.inpaint(tensors.mask, tensors.known))
    if method == "none" or reward is None:
        return Steered("none")
    _check_options(method, parameters)
    plan, whole_chains = problem.plan, method in ("best_of", "bank_resampling")  # these leave the plan alone
    if why := "" if whole_chains and not plan.reverse else unsteerable(plan, tensors.mean is not None):
        raise errors.invalid(why)
    try:
        made = _MAKE[method](_Asked(model, known, problem, parameters, reward, fixed))
    except (steering.SteeringError, steering.PlanError) as error:
        raise errors.invalid(str(error)) from None
    if why := "" if made.steer is None else made.steer.unsuitable(plan):
        raise errors.invalid(why)
    if made.steer is not None and made.steer.needs_gradients:
        _check_gradients(method, model, problem, reward)
    return made


def _check_gradients(method: str, model: Sampler, problem: steering.Problem, reward: Reward) -> None:
    """Refuse a method whose gradients are not to be had."""
    if method in PULLING:
        if model.backward is None:
            raise errors.invalid(
                f"steering {method!r}: expected a model with a vector-Jacobian graph (tiltserve export --vjp), got "
                f"{model.name!r} without; classifier_guidance needs the reward's alone, and doob none"
            )
        if model.limit is not None:
            raise errors.invalid(f"steering {method!r}: expected a model without a limit of D (clip), got one")
        if problem.guidance != 1 and problem.guidance_rescale:
            raise errors.invalid(f"steering {method!r}: expected guidance_rescale 0, got {problem.guidance_rescale:g}")
    if why := reward.no_gradient:
        raise errors.invalid(f"steering {method!r}: expected a reward with a gradient, got {reward.name!r}: {why}")


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
    problem: steering.Problem
    parameters: Parameters
    reward: Reward
    fixed: bool

    @property
    def threshold(self) -> float | None:
        return self.reward.threshold if self.parameters.threshold is None else self.parameters.threshold

    @property
    def aim(self) -> dict[str, Any]:
        """The target, for methods that have one. Scores that were made in calls of one size are used by those alone who
        need such ones."""
        key = (*self.reward.key, "fixed") if self.fixed else self.reward.key
        return {"beta": self.parameters.beta, "threshold": self.threshold, "key": key}


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


def scored_elsewhere(reward: Reward) -> Callable[[Tensor], Tensor]:
    """A stand-in with the reward's name: steering asks for reward rows, and the engine answers them."""

    def score(x: Tensor) -> Tensor:
        raise AssertionError("the engine answers reward rows itself")

    score.__name__ = reward.name
    return score


def _doob(asked: _Asked) -> Steered:
    found, score = _found(asked), scored_elsewhere(asked.reward)

    def of(posterior: Bank | Local) -> ByPosterior:
        steer = _doob_with(asked, score, found, posterior)
        return steer, steer if isinstance(posterior, Bank) else None

    return _steered("doob", asked, found, of)


def _found(asked: _Asked) -> Found:
    plan = asked.problem.plan
    shared = lasting(asked.reward.key)
    found = posterior_for(asked.model, asked.known, asked.problem, asked.parameters, shared, asked.fixed)
    if plan.order > STEADY:
        found.notes.append(f"solver {plan.solver!r} carries steering's noise far in long steps; dpmpp_2m is steadier")
    return found


def _doob_with(
    asked: _Asked, score: Callable[[Tensor], Tensor], found: Found, posterior: Bank | Local
) -> steering.Doob:
    """`Doob` with a posterior: the one that was found, or that of a law's draws, which are no bank to grow."""
    parameters = asked.parameters
    return steering.Doob(
        score, particles=parameters.particles, posterior=posterior,
        refresh=parameters.refresh if found.laws is None else False, reward_budget=parameters.reward_budget,
        **asked.aim,
    )  # fmt: skip


def _steered(method: str, asked: _Asked, found: Found, of: Callable[[Bank | Local], ByPosterior]) -> Steered:
    """The method with the posterior that was found, which is only a stand-in where there are laws."""
    steer, setup = of(found.posterior)
    by_law = None if found.laws is None else ByLaw(found.laws, of, lasting(asked.reward.key))
    return Steered(method, steer, setup, found.bank, found.name, by_law, asked.threshold, found.choices, found.notes)


def _smc(asked: _Asked) -> Steered:
    parameters, score = asked.parameters, scored_elsewhere(asked.reward)
    make = partial(
        steering.Smc, score, population=parameters.chains_together, keep=parameters.kept,
        potential=parameters.potential, **asked.aim,
    )  # fmt: skip
    if parameters.inner == "none":
        return Steered("smc", make(), threshold=asked.threshold)

    found = _found(asked)

    def of(posterior: Bank | Local) -> ByPosterior:
        inner = _doob_with(asked, score, found, posterior)
        return make(inner=inner), inner if isinstance(posterior, Bank) else None

    return _steered("smc", asked, found, of)


def _fk_steering(asked: _Asked) -> Steered:
    parameters = asked.parameters
    potential: Any = parameters.potential or "difference"
    steer = fk_steering(
        scored_elsewhere(asked.reward), particles=parameters.chains_together, keep=parameters.kept,
        potential=potential, **asked.aim,
    )  # fmt: skip
    return Steered("fk_steering", steer, threshold=asked.threshold)


def _svdd(asked: _Asked) -> Steered:
    steer = Svdd(scored_elsewhere(asked.reward), candidates=asked.parameters.candidates, **asked.aim)
    return Steered("svdd", steer, threshold=asked.threshold)


def _best_of(asked: _Asked) -> Steered:
    chains = asked.parameters.chains_a_sample
    return Steered("best_of", BestOf(scored_elsewhere(asked.reward), chains, key=asked.reward.key))


def _doit(asked: _Asked) -> Steered:
    parameters = asked.parameters
    chosen = PRESETS.get(parameters.preset or "")
    make = partial(steering.baselines.Doit, scored_elsewhere(asked.reward), key=asked.reward.key)
    chains = parameters.chains_a_sample
    if chosen is None:
        return Steered("doit", make(particles=chains))
    return Steered("doit", make(tau=chosen.tau, gamma=chosen.gamma, t_star=chosen.t_star, probes=32, particles=chains))


def _bank_resampling(asked: _Asked) -> Steered:
    name = asked.model.name
    if asked.problem.condition:
        raise errors.invalid(f"bank_resampling: expected a model without conditions, got {name!r}")
    if asked.known.cloud is None:
        raise errors.unavailable(f"bank_resampling: model {name!r} has no bank yet")
    bank = shared_bank(asked.known, None, lasting(asked.reward.key))
    steer = BankResampling(scored_elsewhere(asked.reward), samples=bank.samples, scored=bank.scored, **asked.aim)
    return Steered("bank_resampling", steer, steer, bank, threshold=asked.threshold)


def _by_gradients(make: Callable[..., Steering], asked: _Asked, options: Mapping[str, Any] | None = None) -> Steered:
    """A baseline that differentiates the reward, and mostly the network."""
    parameters = asked.parameters
    made = make(scored_elsewhere(asked.reward), parameters.beta, key=asked.aim["key"], **(options or {}))
    return Steered(parameters.method, made)


def _lgd_mc(asked: _Asked) -> Steered:
    spread = {} if asked.parameters.spread is None else {"spread": asked.parameters.spread}
    return _by_gradients(LgdMc, asked, {"draws": asked.parameters.gradient_draws, **spread})


def _tfg(asked: _Asked) -> Steered:
    parameters = asked.parameters
    spread = {} if parameters.spread is None else {"spread": parameters.spread}
    strengths = {"rho": parameters.rho, "mu": parameters.mu, "iterations": TFG_STEPS}
    return _by_gradients(Tfg, asked, {"draws": parameters.gradient_draws, **strengths, **spread})


def _tds(asked: _Asked) -> Steered:
    return _by_gradients(tds, asked, {"particles": asked.parameters.chains_together, "keep": asked.parameters.kept})


_MAKE: Mapping[str, Callable[[_Asked], Steered]] = {
    "doob": _doob,
    "smc": _smc,
    "best_of": _best_of,
    "svdd": _svdd,
    "fk_steering": _fk_steering,
    "doit": _doit,
    "bank_resampling": _bank_resampling,
    "classifier_guidance": partial(_by_gradients, ClassifierGuidance),
    "dps": partial(_by_gradients, Dps),
    "lgd_mc": _lgd_mc,
    "tfg": _tfg,
    "tds": _tds,
}
