"""From a request to a program for the engine, and from its result to a response."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, replace

import torch

import steering
from serving.backends import Array, InputError, OutOfMemoryError, UnavailableError
from serving.engine.admission import DeadlineError
from serving.engine.engine import DeadlinePassedError, ExternalError, NetworkFailedError, QueueFullError
from serving.engine.task import Routine, Step, Task
from serving.models.described import LIKELIHOODS, PREVIEWED, STATES
from serving.models.draws import Wanted
from serving.models.dynamics import Dynamics
from serving.models.dynamics_described import gives as dynamics_outputs
from serving.models.evaluations import as_it_is, evaluations, unseen
from serving.models.model import Knowledge, Model, PlainModel, Sampler
from serving.models.pipeline import AnyModel, Pipeline
from serving.requests import determinism, likelihood, previews, trajectory
from serving.requests.admitted import Admitted, guided_stages
from serving.requests.around import Around
from serving.requests.dynamics.asked import Served
from serving.requests.dynamics.task import dynamics_task
from serving.requests.methods import Steered, completed, group_size, instead, method_of, steering_for
from serving.requests.parameters import parse as parameters_of
from serving.requests.parameters import terms_of
from serving.requests.pictured import Pictured
from serving.requests.plain import plain_task
from serving.requests.plans import interval_of, notes_of, plan_for
from serving.requests.readying import ready
from serving.requests.report import echoed
from serving.requests.tensors import Tensors, tensors_of
from serving.rewards import Definition, Reward
from serving.wire import errors
from serving.wire.answer import Answer
from serving.wire.channels import LONGEST_ANSWER
from serving.wire.kserve import InferRequest
from serving.wire.parameters import Parameters
from serving.wire.tensors import Parameter
from steering.errors import PlanError
from steering.numerics.weights import checked_rewards
from steering.sampling.run import merged


def output_names(model: AnyModel) -> list[str]:
    """Every output a request for the model may ask for."""
    if isinstance(model, PlainModel):
        return [each.name for each in model.network.backend.outputs]
    if isinstance(model, Dynamics):
        return [each.name for each in dynamics_outputs(model)]
    return [*(Pictured if isinstance(model, Pipeline) else Around).known]


def task_for(
    request: InferRequest,
    model: AnyModel,
    models: Mapping[str, Model],
    remotes: Mapping[str, Definition] | None = None,
    deadline: float = math.inf,
    deliver: previews.Deliver | None = None,
    longest: int = LONGEST_ANSWER,
) -> Task:
    """The task that answers a request; its future gives an `Answer`.

    Args:
        deliver: takes what the request sends before its answer; None where the answer is all that can be sent.
        models: every model of the replica by name; rewards are found there.
        remotes: rewards that are scored elsewhere, by name.
        deadline: after which no answer is wanted, on the clock of `time.monotonic`.
        longest: most bytes of the answer's tensors.

    Raises:
        RequestError: INVALID_ARGUMENT with what was expected and what came.
    """
    terms = terms_of(request)
    if isinstance(model, PlainModel):
        task = plain_task(request, model, longest)
        task.program = _cautioned(task.program, model.network.caution)
    elif isinstance(model, Dynamics):
        task = dynamics_task(request, model, Served(models, remotes or {}, deliver, longest))
    else:

        def around(request: InferRequest) -> Around:
            if isinstance(model, Pipeline):
                return Pictured(request, model, deterministic=terms.deterministic)
            return Around(request, model)

        task = _sampling_task(request, around, models, remotes, deliver, longest, terms.deterministic)
    task.priority, task.deterministic, task.deadline = terms.priority, terms.deterministic, deadline
    return task


def _sampling_task(
    asked: InferRequest,
    surround: Callable[[InferRequest], Around],
    models: Mapping[str, Model],
    remotes: Mapping[str, Definition] | None,
    deliver: previews.Deliver | None,
    longest: int,
    deterministic: bool,
    later: Sequence[Wanted] = (),
) -> Task:
    """Args:
    later: draws that the request would have been steered by, which are made in the background.
    """
    around = surround(asked)
    request, model = around.request, around.model
    parameters, options, reward_arguments = parameters_of(request, around.defaults)
    if parameters.likelihood is not None:
        parameters = likelihood.checked(parameters, request.parameters)
    card = model.card
    exact = deterministic and parameters.likelihood is None
    parameters = around.settled(completed(parameters, card.event_shape, around.defaults, quiet=exact))
    if exact:
        parameters = determinism.settled(parameters)
    watched = previews.watched_for(parameters, card, deliver, pictures=around.pictures)
    given = around.given(parameters)
    tensors = tensors_of(request, model, parameters, given)
    if tensors.grid is not None:
        parameters = parameters.over(len(tensors.grid))
    plan = plan_for(model, parameters, options, tensors.grid)
    if exact and plan.uses_noise:
        quiet = determinism.quiet(asked, plan)
        return _sampling_task(quiet, surround, models, remotes, deliver, longest, deterministic, later)
    known = model.known  # read once: samples and fingerprint must come from the same state
    problem = steering.Problem(
        plan=plan,
        event=card.event_shape,
        dtype=torch.float32,
        condition=tensors.condition,
        guidance=parameters.guidance,
        null=tensors.null,
        guidance_interval=interval_of(plan, parameters),
        guidance_rescale=parameters.guidance_rescale,
        model=model.digest,
        mean=tensors.mean,
        start_mean=_start_mean(model, known, tensors) if parameters.start_mean else None,
        show_every=parameters.preview_every or 0,
        show_path=parameters.trajectory,
    )
    if plan.reverse and tensors.x_init is None:
        raise errors.invalid("reverse: expected the data to start from in an input x_init, got none")
    for name, what in (("strength", "data to start from"), ("start_t", "state to start from")):
        if getattr(parameters, name) is not None and tensors.x_init is None:
            raise errors.invalid(f"{name}: expected the {what} in an input x_init, got none")
    if parameters.likelihood is not None:
        program = _cautioned(
            likelihood.program(model, problem, parameters, tensors, request.outputs), model.network.caution
        )
        load = Admitted(around, model, problem, parameters, options).likelihoods()
        return Task(model=model.name, program=program, network=model.network, **asdict(load))
    around.check_answer(parameters, longest)
    if absent := [name for name in request.outputs if name in LIKELIHOODS]:
        raise errors.invalid(f"output {absent[0]!r}: expected a parameter likelihood beside it, got none")
    if PREVIEWED in request.outputs and parameters.preview_every is None:
        raise errors.invalid(f"output {PREVIEWED!r}: expected a parameter preview_every beside it, got none")
    if STATES in request.outputs and not parameters.trajectory:
        raise errors.invalid(f"output {STATES!r}: expected a parameter trajectory beside it, got none")
    reward = None
    if parameters.reward is not None:
        reward = around.reward(parameters, models, reward_arguments, tensors.reward, remotes)
        if exact:
            determinism.check_reward(reward)
        parameters = around.budgeted(parameters)
    elif reward_arguments or tensors.reward:
        raise errors.invalid(
            f"{[*reward_arguments, *tensors.reward][0]}: expected a parameter reward beside it, got none"
        )
    elif (method := method_of(parameters)) != "none":
        raise errors.invalid(f"steering {method!r}: expected a parameter reward beside it, got none")
    elif "rewards" in request.outputs:
        raise errors.invalid("output 'rewards': expected a parameter reward beside it, got none")
    if parameters.threshold is not None:
        _check_threshold(parameters, reward)
    fixed = deterministic and not model.network.backend.invariant
    steered = steering_for(model, known, problem, parameters, reward, tensors, fixed)
    if steered.by_law is not None and not parameters.residual_wait:
        if watched is not None:
            raise errors.invalid("residual_wait: expected true beside previews and stream_samples, got false")
        if later := steered.by_law.laws.wanted(fixed):
            other = instead(asked, parameters, plan)
            return _sampling_task(other, surround, models, remotes, deliver, longest, deterministic, later)
    if later:
        steered.notes.append(
            f"draws were not there yet and are being made: {steered.method!r} by {plan.solver!r} steered instead"
        )
    if exact:
        steered.notes.extend(determinism.check_bank(model, steered.method))
    group = min(parameters.samples, group_size(steered.steer, card.event_shape))
    if parameters.trajectory:
        trajectory.check(plan, steered.steer)
        group = trajectory.group_size(group, card.event_shape, longest)
    load = Admitted(around, model, problem, parameters, options).samples(steered, reward, group)
    if tensors.x_init is None:
        steered.notes.extend(notes_of(plan))
    steered.notes.extend(previews.notes_of(watched, plan, steered, problem.show_every))
    if problem.guidance != 1 and problem.guidance_interval is not None and plan.stages and not guided_stages(problem):
        steered.notes.append("guidance: no row of the plan lies in its interval, it acts nowhere")
    program = _cautioned(
        _sample(around, known, problem, parameters, reward, steered, tensors, watched, later, exact, group),
        model.network.caution,
        *around.cautions,
        *(() if reward is None else reward.cautions),
    )
    return Task(model=around.name, program=program, network=model.network, heavy=reward is not None, **asdict(load))


def _start_mean(model: Sampler, known: Knowledge, tensors: Tensors) -> torch.Tensor:
    """The mean of the model's samples [*event], as its bank has it.

    Raises:
        RequestError: INVALID_ARGUMENT for a model with conditions, whose laws the bank does not know, and where the
            request says itself where samples start; UNAVAILABLE while there is no bank.
    """
    if model.card.conditions:
        raise errors.invalid(f"start_mean: expected a model without conditions, got {model.name!r}, which has some")
    for name, given in (("x_init", tensors.x_init), ("mean", tensors.mean)):
        if given is not None and len(given):
            raise errors.invalid(f"start_mean: expected no {name} beside it, got some")
    if known.cloud is None:
        raise errors.unavailable(f"start_mean: model {model.name!r} has no bank yet")
    return known.cloud.samples.to(torch.float64).mean(dim=0).to(torch.float32)


def _cautioned(program: Routine, *cautions: str) -> Routine:
    """The program; where it rests on networks that call for caution, its answer says so."""
    said = dict.fromkeys(filter(None, cautions))

    def warning() -> Routine:
        answer = yield from program
        warnings = "; ".join(filter(None, (answer.parameters.get("warnings"), *said)))
        return replace(answer, parameters={**answer.parameters, "warnings": warnings})

    return warning() if said else program


def _check_threshold(parameters: Parameters, reward: Reward | None) -> None:
    """Refuse a threshold without a reward, with a beta, or for a reward that has its own."""
    if reward is None:
        raise errors.invalid("threshold: expected a parameter reward beside it, got none")
    if "beta" in parameters.model_fields_set:
        raise errors.invalid("threshold: expected no beta beside it (an event has no temperature), got both")
    if reward.threshold is not None:
        raise errors.invalid(f"threshold: expected none beside reward {reward.name!r}, which has its own, got one")


def request_error(error: BaseException, hint: str = "") -> errors.RequestError:
    """The error that the caller gets when a task failed.

    Args:
        hint: what the request could ask for instead, where it is not taken on.
    """
    if isinstance(error, errors.RequestError):
        return error
    if isinstance(error, steering.UnsuitableError | PlanError):
        return errors.invalid(str(error))
    if isinstance(error, steering.SteeringError | steering.BudgetError):
        return errors.failed_precondition(str(error))
    if isinstance(error, InputError):
        return errors.invalid(f"expected inputs the network accepts, got: {error}")
    if isinstance(error, QueueFullError | DeadlineError):
        return errors.exhausted("; ".join(filter(None, (str(error), hint))))
    if isinstance(error, OutOfMemoryError):
        return errors.exhausted(str(error))
    if isinstance(error, DeadlinePassedError):
        return errors.deadline(str(error))
    if isinstance(error, ExternalError | UnavailableError):
        return errors.unavailable(str(error))
    if isinstance(error, NetworkFailedError | steering.NetworkError):
        return errors.internal(str(error))
    return errors.internal(f"{type(error).__name__}: {error}")


def _sample(
    around: Around,
    known: Knowledge,
    problem: steering.Problem,
    parameters: Parameters,
    reward: Reward | None,
    steered: Steered,
    tensors: Tensors,
    watched: previews.Watched | None,
    later: Sequence[Wanted],
    exact: bool,
    group: int,
) -> Routine:
    """Run the samplers of a request, group after group, and put the answer together.

    Args:
        exact: the answer has a hash.
        group: samples that are drawn together.
    """
    seal = determinism.Seal() if exact else None
    yield from around.prepare()
    model, n, parts = around.model, parameters.samples, []
    for wanted in later:
        model.draws.want(replace(wanted, tables=model.adapter.tables))  # what this request has just read its prompts to
    start: steering.Start | None = tensors.x_init
    if tensors.x_init is not None and parameters.strength is not None:
        start = steering.Noised(tensors.x_init)
    streamed = watched is not None and watched.groups
    try:
        for run in steered.runs(n):
            steer = yield from ready(steered, run.start, model, known, problem, reward)
            if tensors.known is not None and tensors.mask is not None:  # its values may have come only now
                steer = steering.inpaint(tensors.mask, tensors.known)
            for rows in previews.groups(run, group, 1 if steer is None else steer.together, watched):
                sampler = steering.sample(
                    problem.rows(rows),
                    steering.Noise(parameters.seed, range(rows.start, rows.stop)),
                    replace(steer, values=steer.values[rows]) if isinstance(steer, steering.Project) else steer,
                    None if start is None else start[rows],
                )
                shown = as_it_is
                if watched is not None:
                    sampler = watched.watched(sampler, rows.start, len(problem.plan.stages))
                    shown = around.shown if watched.looks else as_it_is
                passed = unseen if watched is None else watched.along(problem.plan, rows.start).passed
                x, report = yield from evaluations(sampler, model, reward, shown=shown, passed=passed)
                if streamed:
                    yield from _score(reward, x, report)
                parts.append((x, report))
                if watched is not None:
                    sent = (yield from around.outputs(x)) if watched.sends(rows, n) else {}
                    if seal is not None and watched.sends(rows, n):
                        seal.add(sent, x)
                    watched.finished(rows, n, sent, report)
            steered.leave(run.stop)
    finally:
        steered.leave(n)
    x, report = torch.cat([part for part, _ in parts]), merged([r for _, r in parts])
    yield from _score(reward, x, report)
    last = rows if streamed else slice(0, n)
    outputs = yield from around.outputs(x[last])
    if report.rewards is not None:
        outputs["rewards"] = report.rewards[last].to(torch.float32).numpy()
    fingerprint = around.fingerprint(known.fingerprint)
    fingerprint = fingerprint if reward is None else f"{fingerprint}-{reward.fingerprint}"
    if later:  # the same request has other bytes once the draws are there
        fingerprint += f"-{steered.method}"
    said: dict[str, Parameter] = {"seed": parameters.seed, "solver": parameters.solver, "fingerprint": fingerprint}
    if streamed:
        said["first"] = last.start
    if seal is not None:
        seal.add(outputs, x[last])
        said["samples_sha256"] = seal.hex
    steered.notes.extend(around.notes())
    return Answer(outputs, {**said, **echoed(report, steered, x), **around.told()}, steered.method)


def _score(reward: Reward | None, x: torch.Tensor, report: steering.Report) -> Generator[Step, list[Array], None]:
    """The rewards of samples [n, *event] that were asked for without steering."""
    if reward is not None and report.rewards is None:
        report.rewards = checked_rewards((yield from reward.scores(x)), len(x), reward.name)
        report.reward_rows += len(x)
