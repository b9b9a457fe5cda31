"""From a request for a distillation gradient to a program for the engine, see `steering.distillation`."""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

import steering
from protos.complaint import unknown
from serving.backends import Array
from serving.engine.task import Evaluation, Routine, Step, Task
from serving.models.described import LATENTS
from serving.models.dynamics import Dynamics
from serving.models.evaluations import evaluations
from serving.models.model import Knowledge, Model, PlainModel, Sampler
from serving.models.pipeline import AnyModel, Pipeline
from serving.requests.admitted import STATE_BYTES
from serving.requests.around import Around
from serving.requests.methods import Steered, scored_elsewhere, steering_for
from serving.requests.parameters import parse as parameters_of
from serving.requests.parameters import terms_of
from serving.requests.pictured import Pictured
from serving.requests.plans import interval_of
from serving.requests.readying import ready
from serving.requests.tensors import came, tensors_of
from serving.rewards import PREFIX, Definition, Reward
from serving.wire import errors
from serving.wire.distillation import Distilled, Part, Schedule, Settings, Tensors
from serving.wire.distillation import evaluations as estimates
from serving.wire.kserve import InferRequest
from serving.wire.parameters import NEGATIVE, NULL, PROMPT, Parameters
from steering import distillation
from steering.distillation.gradient import MOST_VIEW
from steering.paths import MeanReverting
from steering.sampling.sampler import Tilting
from steering.targets.target import Target

MOST_NUMBERS = 2**25
"""Most numbers of all views, once for each of their noises; and in the candidates of all of them."""
HEAVY = 2**16
"""Numbers of the views from which their computations go to the second thread: they take some milliseconds."""
CONSISTENCY = "consistency"
"""The solver that the card of a flow map has by default."""
ALONE = "beta", "threshold", "particles", "posterior"
"""Parameters that need a reward."""


@dataclass(frozen=True)
class Prior:
    """A model whose gradient is asked for, and its weight in the sum."""

    model: AnyModel
    weight: float = 1.0


def task_for(
    request: InferRequest,
    settings: Settings,
    tensors: Tensors,
    priors: Sequence[Prior],
    models: Mapping[str, Model],
    remotes: Mapping[str, Definition] | None = None,
    deadline: float = math.inf,
) -> Task:
    """The task that answers a request for a gradient; its future gives a `Distilled`.

    Args:
        request: what it shares with a request for inference: conditions, guidance, steering, a reward.
        models: every model of the replica by name; rewards are found there.
        remotes: rewards that are scored elsewhere, by name.
        deadline: as of `job.task_for`.

    Raises:
        RequestError: INVALID_ARGUMENT with what was expected and what came.
    """
    terms = terms_of(request)
    _check_names(request, priors)
    if settings.first_view + len(tensors.input) > MOST_VIEW:
        raise errors.invalid(
            f"first_view: expected numbers of views below {MOST_VIEW}, got {settings.first_view} for the first of "
            f"{len(tensors.input)}"
        )
    for each in priors:
        _check_shape(tensors.input, each.model)
    numbers = tensors.input.size * settings.noises_a_view
    if numbers > MOST_NUMBERS:  # before a copy is made of them
        raise errors.invalid(
            f"input: expected at most {MOST_NUMBERS} numbers in all views with each of their noises, got {numbers}"
        )
    x = torch.from_numpy(tensors.input.astype(np.float32))
    asked = _Asked(request, settings, tensors, x, models, remotes, terms.deterministic, several=len(priors) > 1)
    try:
        made = [_made(asked, each) for each in priors]
    except ValueError as error:  # of steering
        raise errors.invalid(str(error)) from None
    first = made[0]
    units = [each.model.network.costs.row_s / first.model.network.costs.row_s for each in made]
    return Task(
        model=first.around.name,
        program=_run(asked, made, units),
        network_rows=math.ceil(sum(each.rows * unit for each, unit in zip(made, units, strict=True))),
        network=first.model.network,
        rows_at_once=first.rows_at_once,
        bytes=2 * STATE_BYTES * asked.numbers + sum(each.bytes for each in made),
        heavy=asked.numbers >= HEAVY or any(each.reward is not None for each in made),
        deterministic=terms.deterministic,
        priority=terms.priority,
        deadline=deadline,
        hint=next(filter(None, (each.hint for each in made)), ""),
    )


@dataclass(frozen=True)
class _Asked:
    """What is asked of each prior.

    Attributes:
        x: the views in float32.
        fixed: rows are evaluated in calls of one size.
        several: it is one of several priors.
    """

    request: InferRequest
    settings: Settings
    tensors: Tensors
    x: Tensor
    models: Mapping[str, Model]
    remotes: Mapping[str, Definition] | None
    fixed: bool
    several: bool

    @property
    def views(self) -> int:
        return len(self.x)

    @property
    def numbers(self) -> int:
        """Of all views, once for each of their noises."""
        return self.x.numel() * self.settings.noises_a_view


@dataclass(frozen=True)
class _Made:
    """A prior with what it is asked.

    Attributes:
        known: read once, since gradient and fingerprint must come from the same state.
        rows: network rows, in rows of its own network, at most; rows_at_once: asked for at a time, about.
        bytes: held beside states, about.
        hint: as of `Task`.
        notes: warnings.
    """

    around: Around
    known: Knowledge
    problem: steering.Problem
    kinds: distillation.Settings
    weight: float
    reward: Reward | None = None
    target: Target | None = None
    steered: Steered = field(default_factory=lambda: Steered("none"))
    negatives: distillation.Negatives | None = None
    rows: int = 0
    rows_at_once: int = 1
    bytes: int = 0
    hint: str = ""
    notes: Sequence[str] = ()

    @property
    def model(self) -> Sampler:
        return self.around.model

    @property
    def fingerprint(self) -> str:
        """Equal ones give equal bytes."""
        mine = self.around.fingerprint(self.known.fingerprint)
        return mine if self.reward is None else f"{mine}-{self.reward.fingerprint}"

    @property
    def cautions(self) -> Sequence[str]:
        """What must be said of the networks that it rests on."""
        return (
            self.model.network.caution,
            *self.around.cautions,
            *(() if self.reward is None else self.reward.cautions),
        )


def _check_names(request: InferRequest, priors: Sequence[Prior]) -> None:
    """Refuse plain networks, and conditions that no model has."""
    known: set[str] = set()
    for each in priors:
        if isinstance(each.model, PlainModel | Dynamics):
            got = "dynamics" if isinstance(each.model, Dynamics) else "a plain network"
            raise errors.invalid(f"model {each.model.name!r}: expected a sampler or a pipeline, got {got}")
        known |= _names(each.model)
    for name in request.inputs:
        if name in (PROMPT, NEGATIVE) and name not in known:
            raise errors.invalid(f"{name}: expected none, no model here reads prompts, got one")
        if name not in known and not name.startswith(PREFIX):
            raise errors.invalid(unknown("condition", name, known - {PROMPT, NEGATIVE}))


def _names(model: Sampler | Pipeline) -> set[str]:
    """The inputs of a request that a model takes."""
    sampler = model.sampler if isinstance(model, Pipeline) else model
    names = {*sampler.card.conditions, *(NULL + each for each in sampler.card.conditions)}
    if isinstance(model, Pipeline):
        names |= {PROMPT, NEGATIVE}
    return names | ({"mean"} if isinstance(sampler.path, MeanReverting) else set())


def _made(asked: _Asked, prior: Prior) -> _Made:
    """A model's part of a request; raises RequestError, and ValueError as `steering` does."""
    settings, model = asked.settings, prior.model
    assert not isinstance(model, PlainModel | Dynamics)
    request = _request(asked, model)
    around = (
        Pictured(request, model, deterministic=asked.fixed) if isinstance(model, Pipeline) else Around(request, model)
    )
    parameters, _, arguments = parameters_of(around.request, around.defaults)
    parameters = around.settled(parameters)
    given, sampler = around.given(parameters), around.model
    if sampler.other_size:
        raise errors.invalid(f"height, width: expected the size of the pictures of {model.name!r}, got another one")
    inputs = tensors_of(around.request, sampler, parameters, given)
    plan = sampler.plan("ddim", 2, eta=0.0)  # how the network is asked; none of its steps is taken
    problem = steering.Problem(
        plan=plan,
        event=sampler.card.event_shape,
        dtype=torch.float32,
        condition=inputs.condition,
        guidance=parameters.guidance,
        null=inputs.null,
        guidance_interval=interval_of(plan, parameters),
        model=sampler.digest,
        mean=inputs.mean,
    )
    made = _Made(
        around, sampler.known, problem, _kinds(settings), prior.weight,
        negatives=_negatives(asked, sampler, {*given.condition}), notes=_notes(model),
    )  # fmt: skip
    if parameters.reward is not None:
        reward = around.reward(parameters, asked.models, arguments, inputs.reward, asked.remotes)
        made = replace(made, reward=reward)
        if made.kinds.kind.weighs:
            threshold = reward.threshold if parameters.threshold is None else parameters.threshold
            made = replace(made, target=Target(scored_elsewhere(reward), parameters.beta, threshold, reward.key))
        else:
            steered = steering_for(sampler, made.known, problem, parameters, reward, inputs, asked.fixed)
            made = replace(made, steered=steered)
    elif arguments or inputs.reward:
        name = [*arguments, *inputs.reward][0].removeprefix(PREFIX)
        raise errors.invalid(f"reward_arguments: expected a reward beside {name!r}, got none")
    elif made.kinds.kind.weighs:
        raise errors.invalid(f"mode {settings.mode!r}: expected a reward, by which it weighs noises, got none")
    elif needing := [name for name in ALONE if name in parameters.model_fields_set]:
        raise errors.invalid(f"{needing[0]}: expected a reward beside it, got none")
    return _counted(asked, made, parameters)


def _check_shape(given: Array, model: AnyModel) -> None:
    """Refuse views that are no samples of the model, or no latents of the pipeline."""
    assert not isinstance(model, PlainModel | Dynamics)  # which `_check_names` refuses
    sampler = model.sampler if isinstance(model, Pipeline) else model
    event = tuple(sampler.card.event_shape)
    if given.shape[1:] == event:
        return
    wanted = ", ".join(map(str, ("views", *event)))
    if isinstance(model, Pipeline):
        raise errors.invalid(
            f"input: expected latents [{wanted}] of pipeline {model.name!r}, got {came(given)}; engines here only run "
            "forwards, so it is the client who encodes pictures, with a gradient"
        )
    raise errors.invalid(f"input: expected FP32 or FP16 [{wanted}] for model {model.name!r}, got {came(given)}")


def _request(asked: _Asked, model: Sampler | Pipeline) -> InferRequest:
    """The request for samples that has the same conditions, guidance and reward."""
    inputs, scale = asked.request.inputs, asked.settings.scale
    if asked.several:  # each model has the conditions that it knows
        names = _names(model)
        inputs = {name: each for name, each in inputs.items() if name in names or name.startswith(PREFIX)}
        sampler = model.sampler if isinstance(model, Pipeline) else model
        scale = scale if sampler.card.conditions else 1.0
    parameters = {**asked.request.parameters, "samples": asked.views, "seed": asked.settings.seed, "guidance": scale}
    outputs = [LATENTS] if isinstance(model, Pipeline) else []
    return replace(asked.request, model=model.name, inputs=inputs, parameters=parameters, outputs=outputs)


def _kinds(settings: Settings) -> distillation.Settings:
    """The settings as `steering` has them."""
    return distillation.Settings(
        mode=settings.mode,
        times=_times(settings.schedule),
        noise=settings.noise,
        noises=settings.noises_a_view,
        weighting=settings.weighting,
        clip=settings.clip,
        rescale=settings.rescale,
        stride=settings.stride,
        scale=settings.schedule.scale or 1.0,
    )


def _times(sent: Schedule) -> distillation.Schedule | distillation.Times:
    """A schedule, or the times that were sent in its place."""
    said = {name: each for name, each in sent.model_dump().items() if each not in (None, ())}
    if sent.t1 or sent.t2:
        if beside := [name for name in said if name not in ("t1", "t2", "scale")]:
            raise errors.invalid(f"schedule.{beside[0]}: expected none beside times t1 and t2, got {said[beside[0]]!r}")
        if not sent.t1:
            raise errors.invalid("schedule.t1: expected times beside t2, got none")
        t1, t2 = (torch.tensor(each, dtype=torch.float64) for each in (sent.t1, sent.t2))
        return distillation.Times(t1, t2 if sent.t2 else None)
    preset = said.pop("preset", None)
    if said.get("unit", "step") != "step":
        if preset is not None:
            raise errors.invalid(f"schedule.unit: expected step beside a preset, which counts so, got {sent.unit!r}")
        for name in ("c0", "c1", "gap", "smin", "smax"):
            if name not in said:
                raise errors.invalid(f"schedule.{name}: expected a number beside unit {sent.unit!r}, got none")
        said = {"perturb": 0.0, "narrowed": False, **said}  # no preset's levels, which move to what the model knows
    return distillation.schedule(preset or "coarse", **said)


def _negatives(asked: _Asked, model: Sampler, made: set[str]) -> distillation.Negatives | None:
    """The conditions that views are pushed away from.

    Args:
        made: names of conditions that are made of prompts.
    """
    if asked.tensors.weights is None:
        return None
    weights, views = torch.from_numpy(asked.tensors.weights.copy()), asked.views
    condition: dict[str, Tensor] = {}
    for name, value in asked.tensors.negatives.items():
        spec = model.card.conditions.get(name)
        if spec is None:
            raise errors.invalid(unknown("negative", name, model.card.conditions))
        if name in made:
            raise errors.invalid(f"negative {name!r}: expected the condition itself as a tensor too, got a prompt")
        if value.dtype != spec.dtype or not spec.fits(value.shape[2:]):
            raise errors.invalid(
                f"negative {name!r}: expected {spec.dtype} [views, K, {', '.join(map(str, spec.shape))}], "
                f"got {came(value)}"
            )
        flat = value.reshape(-1, *value.shape[2:])
        if why := model.adapter.fault(name, flat):
            raise errors.invalid(f"negative {name!r}: {why}")
        for key, each in model.adapter.filled(name, flat).items():
            tensor = torch.from_numpy(each.copy()).reshape(*value.shape[:2], *each.shape[1:])
            condition[key] = tensor.expand(views, *tensor.shape[1:])
    return distillation.Negatives(condition, weights.expand(views, -1))


def _notes(model: Sampler | Pipeline) -> list[str]:
    """Warnings about a model."""
    sampler = model.sampler if isinstance(model, Pipeline) else model
    card = sampler.card
    scaled = isinstance(model, Pipeline) and model.card.guidance_input is not None
    if scaled or (card.defaults is not None and card.defaults.solver == CONSISTENCY):
        return [
            f"model {model.name!r} is a flow map: its estimates are samples and not means of them, and this gradient "
            "leads to no law of the model"
        ]
    return []


def _counted(asked: _Asked, made: _Made, parameters: Parameters) -> _Made:
    """The prior with the rows and the memory that it takes; raises as `_made`."""
    settings, problem, views = asked.settings, made.problem, asked.views
    if made.negatives is not None and (problem.guidance == 1 or not problem.null):
        raise errors.invalid(f"negatives: expected guidance other than 1 beside them, got {settings.scale:g}")
    first, second = distillation.times_of(problem, made.kinds, settings.iteration, settings.seed, _numbers(asked))
    k = 0 if made.negatives is None else made.negatives.weights.shape[1]
    rows = distillation.network_rows(problem, made.kinds, second.rho, k)
    guided = 2 + k if problem.guidance != 1 and problem.condition and problem.null else 1
    inverted = rows - views - views * guided if settings.mode == "ism" else None
    count, steer = estimates(settings, views, inverted), made.steered.steer
    held = 0
    if steer is not None:
        held = steer.held * asked.numbers
        if held > MOST_NUMBERS:
            raise errors.invalid(
                f"particles: expected at most {MOST_NUMBERS} numbers in the candidates of all views, got {held}: fewer "
                "particles, views or noises"
            )
        unguided = count - views if settings.mode == "ism" else 0  # of an inversion
        rows += (steer.stage_rows - 1) * (unguided + (count - unguided) * min(2, guided))
    beside = made.around.rows(parameters.model_copy(update={"steps": math.ceil(count / views)}), made.reward)
    size, hint = STATE_BYTES // 4 * held + made.around.held(parameters), ""
    if made.steered.by_law is not None and (lacking := made.steered.by_law.laws.lacking):
        once_only = sum(each.network_rows for each in lacking)
        rows += once_only
        size += sum(each.bytes for each in lacking)
        size += lacking[0].draws * math.prod(problem.event) * STATE_BYTES
        hint = f"{once_only} of its rows are draws that are made once; posterior 'gaussian' steers without them"
    at_once = views * settings.noises_a_view * guided
    # the times are drawn once: drawing them takes as long as a third of a small gradient
    drawn = replace(made.kinds, times=distillation.Times(first.t, second.t), scale=made.kinds.data_scale)
    return replace(made, kinds=drawn, rows=rows + beside, rows_at_once=at_once, bytes=size, hint=hint)


def _numbers(asked: _Asked) -> range:
    """The numbers of the views."""
    return range(asked.settings.first_view, asked.settings.first_view + asked.views)


def _run(asked: _Asked, made: Sequence[_Made], units: Sequence[float]) -> Routine:
    """Ask one prior after another, and put the answer together."""
    found = []
    for each, unit in zip(made, units, strict=True):
        asking = _gradient(asked, each)
        found.append((yield from asking if unit == 1 else _weighed(asking, unit)))
    weights = [each.weight for each in made]
    whole = distillation.summed([*zip(weights, found, strict=True)]) if weights != [1.0] else found[0]
    gradient, lost = _rounded(whole.gradient.numpy(), asked.tensors.input.dtype)
    setup = [each.steered.setup_rows for each in made]
    told: dict[str, Any] = {
        "gradient_norm": float(whole.norm.square().sum().sqrt()),
        "nonfinite": whole.nonfinite + lost,
        "network_rows": whole.network_rows,
        "reward_rows": whole.reward_rows,
        "setup_rows": sum(network for network, _ in setup),
        "setup_reward_rows": sum(reward for _, reward in setup),
        "fingerprint": "+".join(each.fingerprint for each in made),
    }
    sizes = [each.ess.to(torch.float64) for each in found if each.ess.numel()]
    if sizes and (ess := float(torch.cat([each.flatten() for each in sizes]).nanmean())) == ess:
        told["ess"] = ess
    said = [
        line
        for each, one in zip(made, found, strict=True)
        for line in (*each.notes, *each.steered.notes, *one.warnings, *each.around.notes(), *each.cautions)
    ]
    return Distilled(
        {"gradient": gradient},
        told,
        next((each.steered.method for each in made if each.steered.steer is not None), ""),
        loss=whole.loss.tolist(),
        parts=[_part(each, one) for each, one in zip(made, found, strict=True)],
        warnings=[*dict.fromkeys(filter(None, said))],
    )


def _gradient(asked: _Asked, made: _Made) -> Generator[Step, list[Array], distillation.Distilled]:
    """The gradient of one prior."""
    yield from made.around.prepare()
    steered, settings = made.steered, asked.settings
    try:
        steer: Tilting | list[Tilting] | None = None
        if steered.steer is not None:
            methods = []
            for view in range(asked.views if steered.by_law is not None else 1):
                method = yield from ready(steered, view, made.model, made.known, made.problem, made.reward)
                methods.append(cast(Tilting, method))
            steer = methods if steered.by_law is not None else methods[0]
        asking = distillation.gradient(
            made.problem, asked.x, made.kinds, iteration=settings.iteration, seed=settings.seed, views=_numbers(asked),
            over=settings.over, steer=steer, target=made.target, negatives=made.negatives, deviation=_deviation(made),
        )  # fmt: skip
        return (yield from evaluations(asking, made.model, made.reward))
    finally:
        steered.leave(asked.views)


def _deviation(made: _Made) -> float | None:
    """The standard deviation of the data under a condition: that of the estimate's error where noise hides all."""
    if made.known.calibration is None:
        return None
    path = made.model.path.finite
    return math.sqrt(made.known.calibration.variance(path, path.t_max))


def _weighed(program: Routine, unit: float) -> Routine:
    """The program, each of whose network rows counts as so many of its task's own network."""
    try:
        step = next(program)
        while True:
            if isinstance(step, Evaluation) and step.kind == "network":
                step = replace(step, units=unit * step.weight)
            step = program.send((yield step))
    except StopIteration as stop:
        return stop.value


def _rounded(gradient: Array, dtype: np.dtype[np.generic]) -> tuple[Array, int]:
    """The gradient in the type of the input, and how many of its numbers that cannot hold: they are 0."""
    with np.errstate(over="ignore"):
        rounded = gradient.astype(dtype)
    beyond = ~np.isfinite(rounded)
    if lost := int(beyond.sum()):
        rounded[beyond] = 0
    return rounded, lost


def _part(made: _Made, found: distillation.Distilled) -> Part:
    return Part(
        made.around.name, made.model.version, made.fingerprint, found.loss.tolist(),
        found.t1.tolist(), found.t2.tolist(), found.rho1.tolist(), found.rho2.tolist(),
    )  # fmt: skip
