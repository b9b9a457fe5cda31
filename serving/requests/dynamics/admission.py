"""What a request for trajectories is admitted with: rows, which for adaptive solvers are an estimate, and bytes."""

import math
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from serving.requests.dynamics import steered
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
CLOSE = 1e-9
"""A time is at the end of a step of dt if it is as near to it as this part of dt."""
RTOL = 1e-5
"""As `steering.dynamics.pose` has it, where nothing is said."""


@dataclass(frozen=True)
class Expected:
    """Rows of the field that a request is taken to need, and what is said of it where it is not taken on."""

    rows: int
    hint: str = ""


def rows(asked: Asked) -> Expected:
    """Rows of the field for all trajectories together."""
    if (exactly := steered.expected_rows(asked)) is not None:
        return Expected(exactly)
    if not asked.solver.adaptive and asked.model.spec.kind != "cde":  # whose observations end steps, too
        return Expected(max(1, int(_steps(asked).sum()) * asked.solver.rows * copies_of(asked)))
    whole, seen, most = 0, 0, asked.parameters.max_steps * MOST_STAGES
    for kind, count in Counter(_kinds(asked)).items():
        each, found = asked.model.runs.estimate(kind)
        whole += count * min(each, most)
        seen += found
    rtol = asked.each.get("rtol", RTOL)
    finest, loosest = (float(rtol.min()), float(rtol.max())) if isinstance(rtol, Tensor) else (rtol, rtol)
    at = f"{finest:g}" if loosest == finest else f"{finest:g}..{loosest:g}"
    of = f"of the last {seen} requests like it nine of ten took no more a trajectory" if seen else "none was seen yet"
    return Expected(max(1, whole), f"{whole} rows of {asked.solver.name!r} at rtol {at} are an estimate: {of}")


def _steps(asked: Asked) -> Tensor:
    """Steps of trajectories [n], float64, by a solver whose steps are of dt, or from each time to the next."""
    times, dt = asked.t_eval, asked.each.get("dt")
    gaps = times.diff(dim=-1).abs()
    if dt is None:
        steps = (gaps > 0).sum(-1).to(torch.float64)
    else:
        length = torch.as_tensor(dt, dtype=torch.float64).reshape(-1, 1)
        if asked.model.spec.kind == "sde":  # to nodes dt apart; to a time between two of them, a step of its own
            places = (times - times[..., :1]).abs() / length
            between = ((places - places.round()).abs() > CLOSE).sum(-1)
            steps = (places[..., -1] + CLOSE).floor() + between
        else:  # into equal parts between two times
            steps = torch.where(gaps > 0, (gaps / length * (1 - CLOSE)).ceil().clamp(min=1), 0.0).sum(-1)
    return steps.clamp(max=asked.parameters.max_steps).expand(asked.n)


def note(asked: Asked, solution: Solution) -> None:
    """Remember what a request's trajectories took, by their kinds."""
    taken: dict[Hashable, list[int]] = {}
    for kind, evaluations in zip(_kinds(asked), solution.evaluations.tolist(), strict=True):
        taken.setdefault(kind, []).append(evaluations)
    for kind, each in taken.items():
        asked.model.runs.note(kind, each)


def _kinds(asked: Asked) -> list[Hashable]:
    """What each trajectory's rows are estimated by: solver, the decade of its rtol, and the octave of its span."""
    rtol, times = asked.each.get("rtol", RTOL), asked.t_eval
    decades = _each(rtol if isinstance(rtol, Tensor) else torch.tensor([rtol]), torch.log10, asked.n)
    octaves = _each((times[..., -1] - times[..., 0]).abs().reshape(-1), torch.log2, asked.n)
    return [
        (asked.solver.name, asked.parameters.sensitivity, decade if asked.solver.adaptive else 0, octave)
        for decade, octave in zip(decades, octaves, strict=True)
    ]


def _each(values: Tensor, scale: Callable[[Tensor], Tensor], n: int) -> list[int]:
    """Whole numbers on a scale for n trajectories; 0 and what is not finite are far down."""
    found = scale(values.to(torch.float64)).clamp(-1100, 1100).nan_to_num(-1100).round().to(torch.int64)
    return found.expand(n).tolist() if len(found) == 1 else found.tolist()


def copies_of(asked: Asked) -> int:
    """States that are solved for each trajectory: it and its neighbours."""
    return 1 if asked.parameters.sensitivity is None else 2 * math.prod(asked.model.state) + 1


def numbers(asked: Asked) -> int:
    """What a solver works on in a step of all trajectories: their states, and the matrices or memory of each."""
    state = math.prod(asked.model.state)
    of_each = state if asked.solver.matrices else max(1, asked.solver.memory)
    return asked.n * state * copies_of(asked) * of_each


def held(asked: Asked) -> int:
    """Bytes that a request holds, about: its inputs, the solver's states, the states of its answer and their copy."""
    state, n = math.prod(asked.model.state) * NUMBER, asked.n
    inputs = [*asked.condition.values(), *asked.inputs.values(), *(asked.encoded or {}).values()]
    inputs_bytes = sum(min(bytes_of(each), each.nbytes) for each in inputs)
    copies = copies_of(asked)
    mixed = 2 * math.ceil(asked.options.get("memory", 0))  # states and residuals that Anderson's mixture is of
    matrices = MATRICES * n * state * state // NUMBER if asked.solver.matrices else 0
    matrices += 3 * n * state * asked.solver.memory
    inputs_bytes += steered.held(asked)
    return (
        inputs_bytes
        + n * state * copies * (STATE_COPIES + mixed + 2 * asked.times)
        + n * asked.times * NUMBER
        + matrices
    )


def check_held(asked: Asked) -> None:
    """Refuse more states than a replica keeps for one request: INVALID_ARGUMENT, before they are made."""
    whole = asked.n * asked.times * (math.prod(asked.model.state) + 1) * NUMBER
    if whole > MOST_HELD:
        raise errors.invalid(
            f"{TIMES}: expected states of at most {MOST_HELD} bytes in float64, got {asked.n} trajectories at "
            f"{asked.times} times of {math.prod(asked.model.state)} numbers: {whole}"
        )
