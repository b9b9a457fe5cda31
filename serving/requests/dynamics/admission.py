"""What a request for trajectories is admitted with: rows, which for adaptive solvers are an estimate, and bytes."""

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from serving.requests.dynamics.asked import Asked
from serving.wire import errors
from serving.wire.solving import TIMES
from serving.wire.tensors import held as bytes_of
from steering.dynamics import Solution

STATE_COPIES = 24
"""Float64 states that a solver holds of a trajectory, about: stages, slopes, the polynomial between two steps."""
MATRICES = 5
"""Matrices that an implicit solver holds of a trajectory, about: a Jacobian, an inverse, and those that become them."""
NUMBER = 8
"""Bytes of a float64."""
MOST_HELD = 2**31
"""Bytes of the states of a request, at most, whether they are sent or not."""
MOST_STAGES = 16
"""Rows of a step, at most, of explicit solvers."""
RTOL = 1e-5
"""As `steering.dynamics.pose` has it, where nothing is said."""


@dataclass(frozen=True)
class Expected:
    """Rows of the field that a request is taken to need, and what is said of it where it is not taken on."""

    rows: int
    hint: str = ""


def rows(asked: Asked) -> Expected:
    """Rows of the field for all trajectories together."""
    runs, whole, seen = asked.model.runs, 0, 0
    tolerances = Counter(_tolerances(asked))
    for rtol, count in tolerances.items():
        each, found = runs.estimate(_kind(asked, rtol))
        whole += count * min(each, asked.parameters.max_steps * MOST_STAGES)
        seen += found
    loosest, finest = max(tolerances), min(tolerances)
    span = f"{finest:g}" if loosest == finest else f"{finest:g}..{loosest:g}"
    of = f"the last {seen} trajectories" if seen else "no trajectories of this kind yet"
    hint = (
        f"{whole} rows of {asked.solver.name!r} at rtol {span} are an estimate, by {of}: nine of ten took no more a "
        "trajectory"
    )
    return Expected(max(1, whole), hint)


def note(asked: Asked, solution: Solution) -> None:
    """Remember what a request's trajectories took, by their tolerances."""
    taken: dict[Hashable, list[int]] = {}
    for rtol, evaluations in zip(_tolerances(asked), solution.evaluations.tolist(), strict=True):
        taken.setdefault(_kind(asked, rtol), []).append(evaluations)
    for kind, each in taken.items():
        asked.model.runs.note(kind, each)


def _tolerances(asked: Asked) -> list[float]:
    """The rtol of each trajectory."""
    rtol = asked.each.get("rtol", RTOL)
    return rtol.tolist() if isinstance(rtol, Tensor) else [rtol] * asked.n


def _kind(asked: Asked, rtol: float) -> Hashable:
    return (
        asked.solver.name,
        asked.parameters.sensitivity,
        round(math.log10(rtol)) if asked.solver.adaptive and rtol > 0 else 0,
    )


def held(asked: Asked) -> int:
    """Bytes that a request holds, about: its inputs, the solver's states, the states of its answer and their copy."""
    state, n = math.prod(asked.model.state) * NUMBER, asked.n
    inputs = [*asked.condition.values(), *asked.inputs.values(), *(asked.encoded or {}).values()]
    inputs_bytes = sum(min(bytes_of(each), each.nbytes) for each in inputs)
    copies = 1 if asked.parameters.sensitivity is None else 2 * state // NUMBER + 1
    matrices = MATRICES * n * state * state // NUMBER if asked.solver.matrices else 0
    matrices += 3 * n * state * asked.solver.memory
    return inputs_bytes + n * state * copies * (STATE_COPIES + 2 * asked.times) + n * asked.times * NUMBER + matrices


def check_held(asked: Asked) -> None:
    """Refuse more states than a replica keeps for one request: INVALID_ARGUMENT, before they are made."""
    whole = asked.n * asked.times * (math.prod(asked.model.state) + 1) * NUMBER
    if whole > MOST_HELD:
        raise errors.invalid(
            f"{TIMES}: expected states of at most {MOST_HELD} bytes in float64, got {asked.n} trajectories at "
            f"{asked.times} times of {math.prod(asked.model.state)} numbers: {whole}"
        )
