"""A program's rows as evaluations for the engine: the field's, a step's, rewards' and those that pieces answer."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from serving.backends import Array
from serving.engine.task import Step
from serving.models.dynamics import number
from serving.requests.dynamics.answering import Answering
from serving.requests.dynamics.asked import Asked, rows_of
from serving.requests.dynamics.pieces import pieces_of
from steering.dynamics import Ask, Program, Reply
from steering.numerics.weights import checked_rewards

Result = TypeVar("Result")
Shown = Callable[[Ask], Answering]
"""What becomes of states that are final."""


@dataclass
class Meter:
    """Rows that a request has asked for so far.

    Args:
        expected: of the field: what its task was admitted with.
    """

    expected: int
    network: int = 0
    reward: int = field(default=0)

    def announced(self, rows: int) -> bool:
        """Counts rows of the field; whether they are within what was expected."""
        self.network += rows
        return self.network <= self.expected


def unseen(ask: Ask) -> Answering:
    """Nobody looks at states on the way."""
    yield from ()
    return {}


def evaluations(
    program: Program[Result], asked: Asked, meter: Meter, shown: Shown = unseen
) -> Generator[Step, list[Array], Result]:
    """Drives a program by the engine's evaluations."""
    others = {part: answer for piece in pieces_of(asked.model.spec.kind) for part, answer in piece.answers.items()}
    reply: Reply
    try:
        ask = next(program)
        while True:
            if ask.part == "field":
                reply = yield from _field(asked, ask, meter)
            elif ask.part == "step":
                reply = yield from _step(asked, ask, meter)
            elif ask.part == "saved":
                reply = yield from shown(ask)
            elif ask.part == "reward":
                meter.reward += len(ask)
                reply = {"reward": (yield from scores(asked, ask.y))}
            else:
                reply = yield from others[ask.part](asked, ask)
            ask = program.send(reply)
    except StopIteration as stop:
        result: Result = stop.value
        return result


def _field(asked: Asked, ask: Ask, meter: Meter) -> Answering:
    model = asked.model
    condition = rows_of(asked.condition, ask.index)
    outputs = yield model.evaluation(ask.y, ask.t, condition, ask.extra, announced=meter.announced(len(ask)))
    return model.reply(outputs)


def _step(asked: Asked, ask: Ask, meter: Meter) -> Answering:
    """A whole step by a row of the step graph, which counts as the rows of the field that it stands for."""
    side, spec = asked.model.step, asked.model.spec
    assert side is not None
    assert spec.step is not None
    feeds: dict[str, Array] = {
        spec.inputs.y: ask.y.numpy(),
        spec.inputs.t or "t": ask.t.numpy(),
        spec.step.h: ask.extra["h"].numpy(),
        spec.step.k1: ask.extra["k1"].numpy(),
        **rows_of(asked.condition, ask.index),
    }
    outputs = yield side.evaluation(feeds, len(ask))
    change, error, slopes = map(number, outputs)
    meter.network += len(ask) * slopes.shape[1]
    return {"dz": change, "error": error, "slopes": slopes}


def scores(asked: Asked, y: Tensor) -> Generator[Step, list[Array], Tensor]:
    """The reward [m] of states y [m, *state], float64.

    Raises:
        SteeringError: it is NaN or +inf.
    """
    assert asked.reward is not None  # nothing asks for it without
    found = yield from asked.reward.scores(y.to(torch.float32))
    return checked_rewards(found, len(y), asked.reward.name, torch.float64)
