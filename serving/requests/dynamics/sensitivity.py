"""Finite-time Lyapunov exponents of a served flow."""

import math
from collections.abc import Mapping
from typing import Any

from serving.backends import Array
from serving.requests.dynamics.asked import Asked
from serving.requests.dynamics.piece import Piece, Solved
from serving.wire import errors
from steering.dynamics import Problem, Program
from steering.dynamics.sensitivity import stretching, unsuited

MOST_NUMBERS = 2**22
"""Numbers of the states of all trajectories and their neighbours: 32 MiB."""
OUTPUTS = ("ftle", "exponents")


def _posed(asked: Asked) -> Mapping[str, Any]:
    if asked.parameters.sensitivity != "ftle":
        for name in OUTPUTS:
            if name in asked.outputs:
                raise errors.invalid(f"output {name!r}: expected a parameter sensitivity=ftle beside it, got none")
        return {}
    size = math.prod(asked.model.state)
    if why := unsuited(asked.solver, size, bool(asked.parameters.events)):
        raise errors.invalid(why)
    whole = asked.n * asked.times * (2 * size + 1) * size
    if whole > MOST_NUMBERS:
        raise errors.invalid(
            f"sensitivity: expected at most {MOST_NUMBERS} numbers of trajectories and their neighbours at all times, "
            f"got {whole}"
        )
    return {}


def _program(asked: Asked, problem: Problem) -> Program[Solved] | None:
    return _solved(asked, problem) if asked.parameters.sensitivity == "ftle" else None


def _solved(asked: Asked, problem: Problem) -> Program[Solved]:
    found = yield from stretching(asked.solver, problem)
    outputs: dict[str, Array] = {"ftle": found.exponents[..., 0].numpy(), "exponents": found.exponents.numpy()}
    return Solved(found.solution, outputs)


PIECE = Piece(name="sensitivity", kinds=("ode",), parameters=("sensitivity",), pose=_posed, program=_program)
