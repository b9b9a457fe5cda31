"""From a request to a program for the engine, and from its result to a response."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

import steering
from protos.complaint import unknown
from serving import errors, rewards
from serving.backends import Array, GraphTensor, InputError
from serving.engine import Evaluation, NetworkFailedError, Program, QueueFullError, Task
from serving.kserve import InferRequest, Parameter
from serving.parameters import EVERYWHERE, Parameters
from serving.parameters import parse as parameters_of
from serving.plans import plan_for
from serving.programs import evaluations, scored
from serving.repository import Knowledge, Model, PlainModel, Sampler
from serving.rewards import Reward
from steering.posteriors import Bank, Local
from steering.run import merged
from steering.tiles import ROWS
from steering.weights import checked_rewards

GROUP = 64
"""Most samples of one sampler, and a multiple of steering's tile."""
CANDIDATES = 2**22
"""Most numbers in the candidates of a stage: bounds a request's memory, and its turn on the engine's thread."""


@dataclass(frozen=True)
class Answer:
    """What a finished request sends back."""

    outputs: dict[str, Array]
    parameters: dict[str, Parameter]
    mean_ess: float | None = None


def output_names(model: Model) -> list[str]:
    """Every output a request for the model may ask for."""
    if isinstance(model, PlainModel):
        return [each.name for each in model.network.backend.outputs]
    return ["samples", "rewards"]


def task_for(request: InferRequest, model: Model, models: Mapping[str, Model]) -> Task:
    """The task that answers a request; its future gives an `Answer`.

    Args:
        models: every model of the replica by name; rewards are found there.

    Raises:
        RequestError: INVALID_ARGUMENT with what was expected and what came.
    """
    if isinstance(model, PlainModel):
        return _plain_task(request, model)
    parameters, options, reward_arguments = parameters_of(request)
    n, card = parameters.samples, model.card
    names = {"x_init", *card.conditions}
    reward_inputs = {name: value for name, value in request.inputs.items() if name.startswith(rewards.PREFIX)}
    for name in request.inputs:
        if name not in names and name not in reward_inputs:
            raise errors.invalid(unknown("input", name, names))
    plan = plan_for(model, parameters, options)
    reward = None
    if parameters.reward is not None:
        reward = rewards.bind(parameters.reward, models, card.event_shape, reward_arguments, reward_inputs)
    elif reward_arguments or reward_inputs:
        raise errors.invalid(
            f"{[*reward_arguments, *reward_inputs][0]}: expected a parameter reward beside it, got none"
        )
    elif parameters.steering == "doob":
        raise errors.invalid("steering 'doob': expected a parameter reward beside it, got none")
    elif "rewards" in request.outputs:
        raise errors.invalid("output 'rewards': expected a parameter reward beside it, got none")
    condition, null = _conditions(request, model, n, parameters.guidance)
    problem = steering.Problem(
        plan, card.event_shape, torch.float32, condition, parameters.guidance, null, model.digest
    )
    x_init = _x_init(request, (n, *card.event_shape))
    if plan.reverse and x_init is None:
        raise errors.invalid("reverse: expected the data to start from in an input x_init, got none")
    if reward is not None and parameters.steering != "none" and (plan.reverse or plan.direct):
        which = "a plan in reverse" if plan.reverse else f"solver {plan.solver!r}"
        raise errors.invalid(f"{which} cannot be steered: expected steering 'none' or another solver, such as dpmpp_2m")
    known = model.known  # one state of it from here to the answer's fingerprint
    steer, notes = _steering(model, plan, known, parameters, reward, bool(condition))
    fingerprint = known.fingerprint if reward is None else f"{known.fingerprint}-{reward.fingerprint}"
    program = _sample(model, problem, parameters, reward, steer, x_init, notes, fingerprint)
    rows = n * plan.rows * (2 if condition and parameters.guidance != 1 else 1)
    return Task(model.name, program, rows)


def request_error(error: BaseException) -> errors.RequestError:
    """What a caller is told when a task failed."""
    if isinstance(error, errors.RequestError):
        return error
    if isinstance(error, steering.SteeringError):
        return errors.failed_precondition(str(error))
    if isinstance(error, InputError):
        return errors.invalid(f"expected inputs the network accepts, got: {error}")
    if isinstance(error, QueueFullError):
        return errors.exhausted(str(error))
    if isinstance(error, NetworkFailedError | steering.NetworkError):
        return errors.internal(str(error))
    return errors.internal(f"{type(error).__name__}: {error}")


def _x_init(request: InferRequest, shape: tuple[int, ...]) -> Tensor | None:
    if "x_init" not in request.inputs:
        return None
    x = request.inputs["x_init"]
    if x.dtype != np.float32 or x.shape != shape:
        raise errors.invalid(f"input 'x_init': expected FP32 {list(shape)} (samples, then the event), got {_came(x)}")
    return torch.from_numpy(x.copy())


def _conditions(
    request: InferRequest, model: Sampler, n: int, guidance: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Condition tensors [n, ...] and null tensors [1, ...]; a condition that was not sent is null."""
    condition: dict[str, Tensor] = {}
    null: dict[str, Tensor] = {}
    for name, spec in model.card.conditions.items():
        if spec.null is not None:
            null[name] = torch.from_numpy(np.broadcast_to(np.asarray(spec.null, spec.dtype), spec.shape)[None].copy())
        value = request.inputs.get(name)
        if value is None:
            if spec.null is None:
                raise errors.invalid(f"condition {name!r}: expected {spec.dtype} [{n}, ...] or [1, ...], got none")
            condition[name] = null[name].expand(n, *spec.shape)
            continue
        if value.dtype != spec.dtype or value.shape not in ((n, *spec.shape), (1, *spec.shape)):
            wanted = f"{spec.dtype} {[n, *spec.shape]} or {[1, *spec.shape]}"
            raise errors.invalid(f"condition {name!r}: expected {wanted}, got {_came(value)}")
        condition[name] = torch.from_numpy(value.copy()).expand(n, *spec.shape)
    if guidance != 1 and set(null) != set(condition):
        lacking = ", ".join(sorted(set(condition) - set(null)))
        raise errors.invalid(f"guidance {guidance}: expected a null value for {lacking} in the model's card, got none")
    if guidance != 1 and not condition:
        raise errors.invalid(f"guidance: model {model.name!r} has no conditions, expected 1.0, got {guidance}")
    return condition, null


def _steering(
    model: Sampler,
    plan: steering.Plan,
    known: Knowledge,
    parameters: Parameters,
    reward: Reward | None,
    conditional: bool,
) -> tuple[steering.Doob | None, list[str]]:
    """The steering method a request asks for, and what the caller should know of the choice."""
    if reward is None or parameters.steering == "none":
        return None, []
    notes = []
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
        posterior = Bank(cloud, local, known.scored)

    def score(x: Tensor) -> Tensor:
        raise AssertionError("the engine answers reward rows itself")

    score.__name__ = reward.name
    steer = steering.Doob(
        score, parameters.beta, parameters.particles, posterior,
        reward_budget=parameters.reward_budget, key=reward.key,
    )  # fmt: skip
    return steer, notes


def _sample(
    model: Sampler,
    problem: steering.Problem,
    parameters: Parameters,
    reward: Reward | None,
    steer: steering.Doob | None,
    x_init: Tensor | None,
    notes: list[str],
    fingerprint: str,
) -> Program:
    """Run the samplers of a request, group after group, and put the answer together."""
    parts = []
    n = parameters.samples
    fitting = CANDIDATES // (parameters.particles * math.prod(problem.event)) // ROWS * ROWS
    group = GROUP if steer is None else min(GROUP, max(ROWS, fitting))
    for first in range(0, n, group):
        rows = slice(first, min(first + group, n))
        condition = {name: c[rows] for name, c in problem.condition.items()}
        sampler = steering.sample(
            replace(problem, condition=condition),
            steering.Noise(parameters.seed, range(rows.start, rows.stop)),
            steer,
            None if x_init is None else x_init[rows],
        )
        parts.append((yield from evaluations(sampler, model, reward)))
    x, report = torch.cat([part for part, _ in parts]), merged([r for _, r in parts])
    if reward is not None and steer is None:  # asked for scores without steering
        report.rewards = checked_rewards((yield from scored(x, reward)), n, reward.name)
        report.reward_rows += n
    outputs: dict[str, Array] = {"samples": x.numpy()}
    if report.rewards is not None:
        outputs["rewards"] = report.rewards.to(torch.float32).numpy()
    ess = float(report.ess.mean()) if report.ess.numel() else None
    echoed: dict[str, Parameter] = {
        "seed": parameters.seed,
        "network_rows": report.network_rows,
        "reward_rows": report.reward_rows,
        # once per reward and replica; said every time, since equal requests have equal answers
        "bank_reward_rows": len(steer.posterior.samples) if steer and isinstance(steer.posterior, Bank) else 0,
        "solver": parameters.solver,
        "steering": "none" if steer is None else "doob",
        "fingerprint": fingerprint,
        "warnings": "; ".join([*notes, *report.warnings]),
    }
    if ess is not None:
        echoed["ess"] = ess
    return Answer(outputs, echoed, ess)


def _plain_task(request: InferRequest, model: PlainModel) -> Task:
    """Plain inference: the graph's own inputs, all of them, with one batch size."""
    for name in request.parameters:
        if name not in EVERYWHERE and not name.startswith("triton_"):
            raise errors.invalid(f"model {model.name!r} is a plain network and takes no parameters, got {name!r}")
    tensors = {each.name: each for each in model.network.backend.inputs}
    for name in request.inputs:
        if name not in tensors:
            raise errors.invalid(unknown("input", name, tensors))
    for name, tensor in tensors.items():
        if name not in request.inputs:
            raise errors.invalid(f"input {name!r}: expected {tensor.dtype} {_batched(tensor)}, got none")
        value = request.inputs[name]
        fits = value.ndim == len(tensor.row) + 1 and all(
            a in (None, b) for a, b in zip(tensor.row, value.shape[1:], strict=True)
        )
        if value.dtype != tensor.dtype or not fits or len(value) < 1:
            raise errors.invalid(f"input {name!r}: expected {tensor.dtype} {_batched(tensor)}, got {_came(value)}")
    sizes = {name: len(value) for name, value in request.inputs.items()}
    if len(set(sizes.values())) != 1:
        raise errors.invalid(f"inputs: expected one batch size, got {sizes}")
    rows = next(iter(sizes.values()))
    names = tuple(request.outputs) or tuple(output_names(model))

    def program() -> Program:
        results = yield Evaluation(model.network, request.inputs, names, rows)
        return Answer(dict(zip(names, results, strict=True)), {"fingerprint": model.fingerprint})

    return Task(model.name, program(), rows)


def _batched(tensor: GraphTensor) -> str:
    return "[" + ", ".join(["n", *("?" if axis is None else str(axis) for axis in tensor.row)]) + "]"


def _came(value: Array) -> str:
    return f"{value.dtype} {list(value.shape)}"
