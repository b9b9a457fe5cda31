"""What requests for trajectories may bring and get beside a start, times and tolerances, as one thing each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.backends import Array
from serving.requests.dynamics.answering import Answering
from serving.requests.dynamics.asked import Asked
from serving.wire.tensors import Parameter
from steering.dynamics import Ask, Problem, Program, Solution


@dataclass(frozen=True, eq=False)
class Solved:
    """What a program that does more than solve leaves.

    Attributes:
        outputs, parameters: of the answer, beside those of the solution.
        steering: the method, for metrics.
    """

    solution: Solution
    outputs: Mapping[str, Array] = field(default_factory=dict)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    steering: str = ""


def _nothing(asked: Asked) -> Mapping[str, Any]:
    return {}


def _no_outputs(asked: Asked, problem: Problem, solution: Solution) -> Mapping[str, Array]:
    return {}


def _no_fingerprints(asked: Asked) -> Sequence[str]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Something that requests for some kinds of dynamics may bring or get. What inputs and outputs of its own it has is
    listed in `TAKES` and `GIVES` of `serving/models/dynamics_described.py`.

    Attributes:
        name: for errors.
        kinds: of dynamics.
        parameters: fields of `serving.wire.solving.Solving` that it reads; other kinds refuse them.
        pose: from a request to further arguments of `steering.dynamics.pose`; checks what it reads of `Asked.inputs`,
            and raises RequestError with INVALID_ARGUMENT.
        outputs: further outputs of the answer.
        answers: what replies to rows of other parts than the field, by `Ask.part`: evaluations of the engine's.
        fingerprints: of networks beside the model's that the answer rests on.
        program: instead of the solver's own program; None from it where the request asks for nothing of it.
    """

    name: str
    kinds: Sequence[str]
    parameters: Sequence[str] = ()
    pose: Callable[[Asked], Mapping[str, Any]] = _nothing
    outputs: Callable[[Asked, Problem, Solution], Mapping[str, Array]] = _no_outputs
    answers: Mapping[str, Callable[[Asked, Ask], Answering]] = field(default_factory=dict)
    fingerprints: Callable[[Asked], Sequence[str]] = _no_fingerprints
    program: Callable[[Asked, Problem], Program[Solved] | None] | None = None
