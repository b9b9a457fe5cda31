"""The whole search: references, the table's best, evolution, refinement, and the judgement on held-out noise."""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from torch import Tensor

from steering.plans.program import Program
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem
from steering.search.evolution import evolve
from steering.search.fixed import Fixed, best_fixed
from steering.search.polish import polished
from steering.search.trial import Trial, compiler, prepare

FINALISTS = 2
"""Programs of different choices that are refined."""
SCREEN = 8
"""Where many plans are compared, one of this many samples is used."""
TIMES = 3
"""One of this many iterations of the refinement moves the times alone, before the weights."""
SAMPLES = (96, 4096)
NUMBERS = 2**15
"""Numbers in the end points that programs are fitted to, as far as the bounds on the samples allow."""


@dataclass(frozen=True)
class Found:
    """A searched program, and what it was measured against; all errors are on held-out noise.

    Attributes:
        error: root mean square distance of its end points to a fine plan's.
        fixed: the best solver of the table at as many rows.
        uniform: error of the best program that does the same in every step, on a named grid.
        kendall: rank correlation of the predictor's guess and the truth, on programs it was not fitted to.
        tried: programs evaluated by the evolution.
    """

    program: Program
    error: float
    fixed: Fixed
    uniform: float
    kendall: float
    tried: int

    @property
    def rows(self) -> int:
        return self.program.steps


@dataclass(frozen=True)
class Trials:
    """Three sets of noise: one that programs are fitted to, one that chooses among them, one that judges the choice."""

    fitting: Trial
    choosing: Trial
    judging: Trial


def search(
    problem: Problem, rows: Sequence[int], *, samples: int | None = None, budget: int = 200, polish: int = 9,
    seed: int = 0,
) -> Generator[Rows, Tensor, tuple[Found, ...]]:  # fmt: skip
    """Search a program for each number of rows; see `trials` and `program_for`, of which this is made."""
    prepared = yield from trials(problem, samples, seed)
    found = []
    for each in rows:
        found.append((yield from program_for(prepared, each, budget=budget, polish=polish, seed=seed)))
    return tuple(found)


def trials(problem: Problem, samples: int | None = None, seed: int = 0) -> Generator[Rows, Tensor, Trials]:
    """Trials for programs of any number of rows.

    Args:
        problem: how the network is asked; its plan gives path and parameterisation, its conditions are [1, ...].
        samples: first states in each set. None: a hundred images, or up to 4096 where a sample is few numbers.
    """
    if samples is None:
        samples = min(max(NUMBERS // math.prod(problem.event), SAMPLES[0]), SAMPLES[1])
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}")
    sets = []
    for part in range(3):
        sets.append((yield from prepare(problem, seed, range(part * samples, (part + 1) * samples))))
    return Trials(*sets)


def program_for(
    trials: Trials, rows: int, *, budget: int = 200, polish: int = 9, seed: int = 0,
    tell: Callable[[str], None] = lambda stage: None,
) -> Generator[Rows, Tensor, Found]:  # fmt: skip
    """Search a program of `rows` network rows.

    Args:
        budget: programs that the evolution tries besides the uniform ones.
        polish: Jacobians of the refinement.
        tell: called with a line on the next piece of work.
    """
    for name, value, low in (("rows", rows, 1), ("budget", budget, 1), ("polish", polish, 0)):
        if value < low:
            raise ValueError(f"{name}: expected at least {low}, got {value}")
    compiled = compiler(trials.fitting.problem.plan)

    def errors(trial: Trial, programs: Sequence[Program]) -> Generator[Rows, Tensor, list[float]]:
        return (yield from trial.errors([compiled("searched", rows, program=each) for each in programs]))

    few = trials.fitting.first(-(-len(trials.fitting.start) // SCREEN))
    tell(f"{rows} rows: the solver table")
    fixed = yield from best_fixed(trials.judging, few, rows)
    tell(f"{rows} rows: evolution")
    evolution = yield from evolve(few, rows, budget, seed)
    tell(f"{rows} rows: times")
    timed: list[Program] = []
    for finalist in _different(evolution.programs, FINALISTS):
        timed += yield from polished(finalist, few, polish // TIMES, weights=False)
    tell(f"{rows} rows: weights")
    best = _least(timed, (yield from errors(trials.fitting, timed)))
    weighted = yield from polished(best, trials.fitting, polish - polish // TIMES, weights=True)
    candidates = [evolution.uniform, *timed, *weighted]
    program = _least(candidates, (yield from errors(trials.choosing, candidates)))
    error, uniform = yield from errors(trials.judging, [program, evolution.uniform])
    return Found(program, error, fixed, uniform, evolution.kendall, len(evolution.programs))


def _least(programs: Sequence[Program], errors: Sequence[float]) -> Program:
    return programs[min(range(len(programs)), key=errors.__getitem__)]


def _different(programs: Sequence[Program], count: int) -> list[Program]:
    """The first programs of different choices."""
    by_choices: dict[object, Program] = {}
    for program in programs:
        by_choices.setdefault(program.choices, program)
    return list(by_choices.values())[:count]
