"""Samplers as programs for the engine: their rows as evaluations."""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

import steering
from serving.backends import Array
from serving.engine.task import Evaluation, Product, Step
from serving.models.backward import number
from serving.models.model import Sampler

Result = TypeVar("Result")


class Scorer(Protocol):
    """A reward, as far as a sampler needs it."""

    def scores(self, x: Tensor) -> Generator[Step, list[Array], Tensor]:
        """Asks for evaluations and returns the scores [B] of x [B, *event]."""
        ...

    def gradients(self, x: Tensor) -> Generator[Step, list[Array], Tensor]:
        """As `scores`: the scores and then their gradients in x, flattened, [B, 1 + d]."""
        ...


Shown = Callable[[Tensor], Generator[Step, list[Array], Tensor]]
"""What becomes of estimates [n, *event] that are shown."""
Passed = Callable[[steering.Rows], Generator[Step, list[Array], Tensor]]
"""What becomes of states on a path that is shown."""


def as_it_is(x: Tensor) -> Generator[Step, list[Array], Tensor]:
    """An estimate is shown as it is."""
    yield from ()
    return x


def unseen(rows: steering.Rows) -> Generator[Step, list[Array], Tensor]:
    """Nobody looks at a state."""
    return as_it_is(rows.x)


def evaluations(
    sampler: Generator[steering.Rows, Tensor, Result],
    model: Sampler,
    reward: Scorer | None,
    kind: Literal["network", "reward"] = "network",
    announced: bool = True,
    shown: Shown = as_it_is,
    passed: Passed = unseen,
) -> Generator[Step, list[Array], Result]:
    """A sampler's rows as evaluations: network rows of the model, counted as `kind`, the reward's own evaluations, and
    those of estimates and states that are shown."""
    try:
        rows = next(sampler)
        while True:
            if rows.kind in ("reward", "reward_gradient"):
                assert reward is not None
                scores = reward.scores(rows.x) if rows.kind == "reward" else reward.gradients(rows.x)
                reply = yield from scores if announced else _unannounced(scores)
            elif rows.kind == "pullback":
                (output,) = yield _pullback_evaluation(model, rows, announced)
                reply = number(output).reshape(rows.x.shape)
            elif rows.kind == "estimate":
                reply = yield from shown(rows.x)
            elif rows.kind == "state":
                reply = yield from passed(rows)
            elif rows.matrix is not None:
                (output,) = yield Product(rows.matrix, rows.x)
                reply = torch.from_numpy(output)
            else:
                (output,) = yield network_evaluation(model, rows, kind, announced)
                reply = model.adapter.output(output)
            rows = sampler.send(reply)
    except StopIteration as stop:
        return stop.value


def _unannounced(program: Generator[Step, list[Array], Tensor]) -> Generator[Step, list[Array], Tensor]:
    """The program, of whose rows its task did not know beforehand."""
    try:
        step = next(program)
        while True:
            reply = yield replace(step, announced=False) if isinstance(step, Evaluation) else step
            step = program.send(reply)
    except StopIteration as stop:
        result: Tensor = stop.value
        return result


def _pullback_evaluation(model: Sampler, rows: steering.Rows, announced: bool) -> Evaluation:
    """Rows of J^T v, J the Jacobian of the prediction, as an evaluation of the vector-Jacobian graph."""
    backward = model.backward
    assert backward is not None  # a method that needs it is refused without
    assert rows.cotangent is not None
    feeds, cotangent = model.adapter.feeds(rows), model.adapter.cotangent(rows.cotangent)
    return backward.evaluation(feeds, cotangent, "network", units=backward.units, announced=announced)


def network_evaluation(
    model: Sampler, rows: steering.Rows, kind: Literal["network", "reward"] = "network", announced: bool = True
) -> Evaluation:
    """Rows of a sampler as an evaluation of its graph."""
    return Evaluation(model.network, model.adapter.feeds(rows), (model.card.output,), len(rows), kind, announced)
