"""The ends of a plan: its nodes from noise to data, and the steps where a log-SNR is infinite.

Where nothing of the data is left at the first node (alpha 0) or no noise at the last (sigma 0), the step there is that
of a constant D,

    x_t = alpha_t D + sigma_t / sigma_s (x_s - alpha_s D),

unless the solver has finite coefficients of its own. From an alpha of 0 it is exact up to what little is left of the
data at the next node, and at a sigma of 0 it leaves D, without noise: the last step of most libraries. A plan on a path
with sigma(t_min) > 0 may end so too (`end="denoise"`): its steps then lead to t_min, or near it, and the last makes D.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from steering.errors import PlanError
from steering.paths import Path
from steering.plans import amplification, grids, placements
from steering.plans.plan import Course, End, Node, Solver, Update, nodes_at
from steering.plans.program import Program


def nodes_of(
    entry: Solver,
    grid: str | Sequence[float] | None,
    path: Path,
    steps: int,
    reverse: bool,
    end: End | None,
    program: Program | None,
    begun: bool = False,
) -> tuple[Node, ...]:
    """The nodes of a plan, with one of sigma 0 at the end if it leaves D.

    With `begun`, the path's t_max is the time of a state there is, which a named grid keeps as it is.
    """
    if reverse:
        if isinstance(grid, str):  # data without noise are taken for states of the least noise there is
            path = path.between(path.finite.t_min, path.t_max)
        times = grids.nodes(grid if grid is not None else (), path, steps)
        nodes = nodes_at(path, times.flip(0))
        if nodes[0].sigma == 0:
            raise PlanError(f"reverse: expected a grid from data with noise, got sigma 0 at t={nodes[0].t:g}")
        return nodes
    clean = Node(path.t_min, 1.0, 0.0, math.inf)
    if isinstance(grid, str):
        first, last = (nodes_at(path, torch.tensor([t], dtype=torch.float64)) for t in (path.t_max, path.t_min))
        if entry.direct:  # it comes from one finite end to the other by itself
            inner = nodes_at(path, grids.nodes(grid, path.finite, steps, begun))
            inner = (*first, *inner) if path.begins_in_noise else inner
            return (*inner, *last) if path.ends_in_data else (*inner, clean) if end == "denoise" else inner
        if path.ends_in_data:
            return (*nodes_at(path, grids.evaluated(grid, path, steps, begun)), *last)
        if end != "denoise":
            return nodes_at(path, grids.nodes(grid, path, steps, begun))
        # a consistency model's D belongs to the whole way to t_min, which needs no node
        if entry.generates and placements.parse(grid) is None:
            return (*nodes_at(path, grids.nodes(grid, path, steps, begun)[:-1]), clean)
        return (*nodes_at(path, grids.evaluated(grid, path, steps, begun)), clean)
    if grid is None and program is not None:
        grid = program.times(path)
        grid = grid[:-1] if end == "denoise" and not path.ends_in_data else grid
    assert grid is not None
    if end != "denoise" or len(grid) == steps + 1:
        nodes = nodes_at(path, grids.nodes(grid, path, steps))
        if end != "denoise" or nodes[-1].sigma == 0:
            return nodes
    return (*nodes_at(path, grids.explicit(grid, path, steps, f"{steps} steps, the last to D,")), clean)


def constant_step(s: Node, t: Node) -> Update:
    """The step from s to t that is exact where D is constant, and finite where alpha is 0, or sigma at t."""
    kept = t.sigma / s.sigma
    return Update(at=s, to=t, A=((kept,),), b=(t.alpha - kept * s.alpha,))


def through(entry: Solver, course: Course) -> tuple[Update, ...]:
    """A table's updates, the steps at infinite log-SNRs included."""
    assert entry.updates is not None
    nodes = course.nodes
    begins, ends = nodes[0].alpha == 0, math.isinf(nodes[-1].log_snr)
    if not (begins or ends):
        return tuple(entry.updates(course))
    if len(nodes) == 2:
        return (constant_step(*nodes),)
    if entry.bounded and nodes[-1].sigma == 0 and (own := _own(entry, course)):
        return own
    low, high = int(begins and not entry.bounded), len(nodes) - int(ends)
    inner = nodes[low:high]
    updates = [constant_step(nodes[0], nodes[1])] if low else []
    if len(inner) > 1:
        program = _part(course.program, low, len(inner) - 1)
        updates += entry.updates(replace(course, nodes=inner, program=program, after=course.after + int(ends)))
    if ends:
        updates.append(constant_step(nodes[-2], nodes[-1]))
    return tuple(updates)


def _own(entry: Solver, course: Course) -> tuple[Update, ...]:
    """The solver's own steps to a sigma of 0, if they are finite and leave no noise there; else none.

    A method in t takes all the noise away where sigma is a straight line of t, as flows have it, and only there.
    """
    assert entry.updates is not None
    try:
        updates = tuple(entry.updates(course))
    except (ArithmeticError, ValueError):
        return ()
    if any(update.at.sigma == 0 for update in updates) or not all(map(finite, updates)):
        return ()
    return updates if amplification.deviation(updates, course.nodes[0].sigma, variance=0.0) <= 1e-6 else ()


def _part(program: Program | None, first: int, count: int) -> Program | None:
    """The program of some of its steps."""
    if program is None or count == program.steps:
        return program
    fractions = tuple(i / count for i in range(count + 1))  # times are nodes by now
    return Program(fractions, program.choices[first : first + count])


def around(nodes: tuple[Node, ...]) -> tuple[tuple[Update, ...], tuple[Node, ...], tuple[Update, ...]]:
    """What a direct sampler has between: the step from an alpha of 0, the nodes with a log-SNR, the step to D."""
    within = tuple(node for node in nodes if math.isfinite(node.log_snr))
    if len(within) == len(nodes):
        return (), within, ()
    if not within:
        return (constant_step(nodes[0], nodes[-1]),), (), ()
    opening = (constant_step(nodes[0], within[0]),) if nodes[0].alpha == 0 else ()
    closing = (constant_step(within[-1], nodes[-1]),) if nodes[-1].sigma == 0 else ()
    return opening, within, closing


def finite(update: Update) -> bool:
    return all(map(math.isfinite, (*(each for row in (*update.A, *update.C) for each in row), *update.b)))
