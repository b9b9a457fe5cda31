"""From a request for trajectories to a program for the engine, and from its solution to an answer."""

import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protos.complaint import unknown
from serving.backends import Array
from serving.engine.task import Routine, Step, Task
from serving.models.dynamics import Dynamics, number
from serving.models.dynamics_described import DECODED, further_inputs, gives
from serving.requests.dynamics import admission
from serving.requests.dynamics.asked import Asked, Served
from serving.requests.dynamics.chunks import Chunks
from serving.requests.dynamics.evaluations import Meter, evaluations, scores
from serving.requests.dynamics.parameters import parse
from serving.requests.dynamics.piece import Solved
from serving.requests.dynamics.pieces import pieces_of
from serving.requests.dynamics.report import told
from serving.requests.dynamics.tensors import check_size, tensors_of
from serving.rewards import bind
from serving.wire import errors
from serving.wire.answer import Answer
from serving.wire.kserve import InferRequest
from steering.dynamics import Problem, Status, pose
from steering.errors import PlanError

HEAVY = 2**15
"""Numbers that a request's solver works on in a step, from which on it computes on the engine's second thread."""
SMALL = 2**20
"""Numbers of a problem that may be made before the request is taken on."""


def dynamics_task(request: InferRequest, model: Dynamics, served: Served) -> Task:
    """The task that answers a request for trajectories.

    Raises:
        RequestError: INVALID_ARGUMENT with what was expected and what came.
    """
    asked = asked_of(request, model, served)
    problem = posed(asked) if asked.n * (asked.times + math.prod(model.state)) <= SMALL else None
    expected = admission.rows(asked)
    meter = Meter(expected.rows)
    program = _solve(asked, problem, meter)
    return Task(
        model=model.name,
        program=program,
        network_rows=expected.rows,
        network=model.network,
        rows_at_once=max(1, asked.n),
        bytes=admission.held(asked),
        heavy=asked.reward is not None or admission.numbers(asked) >= HEAVY,
        hint=expected.hint,
    )


def asked_of(request: InferRequest, model: Dynamics, served: Served) -> Asked:
    """What a request asks for; INVALID_ARGUMENT for what it may not."""
    parsed = parse(request, model)
    known = [each.name for each in gives(model)]
    for name in request.outputs:
        if name not in known:
            raise errors.invalid(unknown("output", name, known))
    others = {each.name for each in further_inputs(model)}
    tensors = tensors_of(request, model, parsed.parameters, others)
    reward = None
    if parsed.parameters.reward is not None:
        reward = bind(
            parsed.parameters.reward, served.models, model.state, parsed.reward, tensors.reward, served.remotes
        )
    elif parsed.reward or tensors.reward:
        name = [*parsed.reward, *tensors.reward][0]
        raise errors.invalid(f"{name}: expected a parameter reward beside it, got none")
    elif "rewards" in request.outputs:
        raise errors.invalid("output 'rewards': expected a parameter reward beside it, got none")
    asked = Asked(
        model=model,
        served=served,
        said=parsed.said,
        parameters=parsed.parameters,
        solver=parsed.solver,
        options=parsed.options,
        y0=tensors.y0,
        encoded=tensors.encoded,
        t_eval=tensors.t_eval,
        each=tensors.each,
        condition=tensors.condition,
        inputs=tensors.others,
        outputs=frozenset(request.outputs),
        reward=reward,
        reward_arguments=parsed.reward,
    )
    row: list[Any] = [(model.state, model.dtype.itemsize)] if asked.wants("y") else []
    if model.decoder is not None and asked.wants(DECODED):
        row.append(model.decoder.output)
    admission.check_held(asked)
    if not parsed.parameters.stream:
        check_size(asked.n, asked.times, row, served.longest)
    elif served.deliver is None:
        raise errors.invalid("stream: expected a request on ModelStreamInfer, got one on a call of one answer")
    return asked


def posed(asked: Asked) -> Problem:
    """The problem that a request poses; INVALID_ARGUMENT where it is none."""
    more: dict[str, Any] = {**asked.each}
    for piece in pieces_of(asked.model.spec.kind):
        more |= piece.pose(asked)
    try:
        problem = pose(
            asked.solver,
            asked.y0,
            asked.t_eval,
            kind=asked.model.spec.kind,
            max_steps=asked.parameters.max_steps,
            options=asked.options,
            dtype=asked.model.precision,
            seed=asked.parameters.seed,
            show=asked.parameters.stream and asked.wants("y"),
            **more,
        )
        step = asked.model.spec.step
        return replace(problem, step_graph=step is not None and step.solver == asked.solver.name)
    except PlanError as error:
        raise errors.invalid(str(error)) from None


def _solve(asked: Asked, problem: Problem | None, meter: Meter) -> Routine:
    """Encode, solve, decode, score."""
    if problem is None:
        problem = posed(asked)
    if asked.encoded is not None:
        problem = replace(problem, y0=(yield from _encoded(asked)))
    solved, streamed = yield from _solution(asked, problem, meter)
    solution = solved.solution
    admission.note(asked, solution)
    outputs = dict[str, Array]()
    if asked.wants("y") and not streamed:
        outputs["y"] = _typed(solution.y, asked.model)
    if asked.model.decoder is not None and asked.wants(DECODED):
        outputs[DECODED] = yield from _decoded(asked, problem, solution.y)
    outputs["status"] = solution.status.to(torch.int32).numpy()
    outputs["evaluations"] = solution.evaluations.to(torch.int64).numpy()
    for piece in pieces_of(asked.model.spec.kind):
        outputs |= piece.outputs(asked, problem, solution)
    outputs |= solved.outputs
    if asked.reward is not None and "rewards" not in outputs:
        outputs["rewards"] = yield from _rewards(asked, solution.y_last, solution.status, meter)
    return Answer(outputs, {**told(asked, problem, solution, meter), **solved.parameters}, solved.steering)


def _solution(asked: Asked, problem: Problem, meter: Meter) -> Generator[Step, list[Array], tuple[Solved, bool]]:
    """What the first piece solves that wants to, or the solver; and whether its states were sent on the way."""
    for piece in pieces_of(asked.model.spec.kind):
        if piece.program is not None and (program := piece.program(asked, replace(problem, show=False))) is not None:
            return (yield from evaluations(program, asked, meter)), False
    if not problem.show:
        return Solved((yield from evaluations(asked.solver.program(problem), asked, meter))), False
    assert asked.served.deliver is not None  # else it is refused
    chunks = Chunks(asked.served.deliver, asked.n * asked.times, asked.model.dtype)
    solution = yield from evaluations(asked.solver.program(problem), asked, meter, chunks.shown)
    yield from chunks.flush()
    return Solved(solution), True


def _typed(y: Tensor, model: Dynamics) -> Array:
    """States in the graph's own type; what that does not hold is infinite there."""
    with np.errstate(over="ignore"):
        return y.numpy().astype(model.dtype)


def _encoded(asked: Asked) -> Generator[Step, list[Array], Tensor]:
    """First states [n, *state] of what the request brings instead."""
    encoder, model = asked.model.encoder, asked.model
    assert encoder is not None
    assert asked.encoded is not None
    (output,) = yield encoder.evaluation(asked.encoded, asked.n)
    return number(output).reshape(asked.n, *model.state)


DECODED_AT_ONCE = 2**12
"""States that are decoded at a time: other requests' rows come between."""


def _decoded(asked: Asked, problem: Problem, y: Tensor) -> Generator[Step, list[Array], Array]:
    """What states y [n, T, *state] decode to, [n, T, ...]; NaN where a state is not finite."""
    decoder, model = asked.model.decoder, asked.model
    assert decoder is not None
    n, times = y.shape[:2]
    flat, t = y.reshape(n * times, *model.state), problem.t_eval.reshape(-1)
    there = flat.reshape(len(flat), -1).isfinite().all(dim=1).nonzero()[:, 0]
    whole: Array | None = None
    for some in there.split(DECODED_AT_ONCE):
        feeds = {name: np.ascontiguousarray(each[(some // times).numpy()]) for name, each in asked.condition.items()}
        feeds |= {} if model.spec.inputs.t is None else {model.spec.inputs.t: t[some].numpy()}
        feeds[model.decoded_input.name] = flat[some].numpy()
        (output,) = yield decoder.evaluation(feeds, len(some))
        if whole is None:
            check_size(n, times, [(output.shape[1:], output.dtype.itemsize)], asked.served.longest)
            whole = np.full((n * times, *output.shape[1:]), np.nan, output.dtype)
        whole[some.numpy()] = output
    if whole is None:
        whole = np.full((n * times, *(axis or 1 for axis in decoder.output.row)), np.nan, decoder.output.dtype)
    return whole.reshape(n, times, *whole.shape[1:])


def _rewards(asked: Asked, y: Tensor, status: Tensor, meter: Meter) -> Generator[Step, list[Array], Array]:
    """Rewards [n] of where trajectories came to, float32; NaN of those that failed."""
    rewards = np.full(len(y), np.nan, np.float32)
    well = ((status == Status.OK) | (status == Status.EVENT)).nonzero()[:, 0]
    if len(well):
        meter.reward += len(well)
        rewards[well.numpy()] = (yield from scores(asked, y[well])).to(torch.float32).numpy()
    return rewards
