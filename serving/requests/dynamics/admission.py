"""What a request for trajectories is admitted with: rows, which for adaptive solvers are an estimate, and bytes."""

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from serving.requests.dynamics.asked import Asked
from serving.wire.tensors import held as bytes_of
from steering.dynamics import Problem

STATE_COPIES = 24
"""Float64 states that a solver holds of a trajectory, about: stages, slopes, the polynomial between two steps."""
NUMBER = 8
"""Bytes of a float64."""


@dataclass(frozen=True)
class Expected:
    """Rows of the field that a request is taken to need, and what is said of it where it is not taken on."""

    rows: int
    hint: str = ""


def rows(asked: Asked, problem: Problem) -> Expected:
    """Rows of the field for all trajectories together."""
    runs, whole, seen = asked.model.runs, 0, 0
    tolerances = Counter(problem.rtol.tolist())
    for rtol, count in tolerances.items():
        each, found = runs.estimate(_kind(asked, rtol))
        whole += count * min(each, problem.max_steps * 16)
        seen += found
    loosest, finest = max(tolerances), min(tolerances)
    span = f"{finest:g}" if loosest == finest else f"{finest:g}..{loosest:g}"
    of = f"the last {seen} trajectories" if seen else "no trajectories of this kind yet"
    hint = (
        f"{whole} rows of {asked.solver.name!r} at rtol {span} are an estimate, by {of}: nine of ten took no more a "
        "trajectory"
    )
    return Expected(max(1, whole), hint)


def kind_of(asked: Asked, problem: Problem) -> Hashable:
    """What a solved request's trajectories are remembered under, where all have one tolerance."""
    return _kind(asked, float(problem.rtol.median()))


def _kind(asked: Asked, rtol: float) -> Hashable:
    return asked.solver.name, round(math.log10(rtol)) if asked.solver.adaptive and rtol > 0 else 0


def held(asked: Asked) -> int:
    """Bytes that a request holds, about: its inputs, the solver's states, the states of its answer and their copy."""
    state, n = math.prod(asked.model.state) * NUMBER, asked.n
    inputs = [*asked.condition.values(), *asked.inputs.values(), *(asked.encoded or {}).values()]
    inputs_bytes = sum(min(bytes_of(each), each.nbytes) for each in inputs)
    return inputs_bytes + n * state * (STATE_COPIES + 2 * asked.times) + n * asked.times * NUMBER
