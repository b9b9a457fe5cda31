"""Evolution of programs: uniform and random ones first, then children that a predictor rates well."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from random import Random

from torch import Tensor

from steering.plans.plan import Plan
from steering.plans.program import Program
from steering.sampling.rows import Rows
from steering.search.moves import crossed, drawn, mutated, uniform_programs
from steering.search.predictor import Predictor, kendall_tau
from steering.search.trial import Trial, compiler

PARENTS = 16
ROUNDS = 4
SCREENED = 50
"""Children that the predictor rates for each one that is tried."""
SPARE = 5
"""One of this many tried programs is held out when the predictor is tested."""


@dataclass(frozen=True)
class Evolution:
    """Programs tried, with their errors, best first.

    Attributes:
        uniform: the best program that does the same in every step, on a named grid.
        kendall: rank correlation of the predictor's guess and the truth, on programs it was not fitted to.
    """

    programs: tuple[Program, ...]
    errors: tuple[float, ...]
    uniform: Program
    kendall: float


def evolve(trial: Trial, rows: int, budget: int, seed: int) -> Generator[Rows, Tensor, Evolution]:
    """Search programs of `rows` network rows; `budget` programs are tried in addition to the uniform ones."""
    path, compiled, random = trial.problem.plan.path, compiler(trial.problem.plan), Random(seed)
    tried: dict[Program, float] = {}

    def plan(program: Program) -> Plan:
        return compiled("searched", rows, program=program)

    def attempt(programs: list[Program]) -> Generator[Rows, Tensor, None]:
        errors = yield from trial.errors([plan(each) for each in programs])
        tried.update(zip(programs, errors, strict=True))

    first = uniform_programs(path, rows)
    yield from attempt(first)
    uniform = min(first, key=tried.__getitem__)
    per_round = math.ceil(budget / (ROUNDS + 1))
    yield from attempt(list(dict.fromkeys(drawn(path, rows, random) for _ in range(per_round))))
    for _ in range(ROUNDS):
        parents = sorted(tried, key=tried.__getitem__)[:PARENTS]
        children = dict.fromkeys(_child(parents, random) for _ in range(per_round * SCREENED))
        fresh = [child for child in children if child not in tried]
        if not fresh:  # one step has few choices
            break
        guesses = Predictor(list(tried), list(tried.values())).rank(fresh).tolist()
        order = sorted(range(len(fresh)), key=guesses.__getitem__)
        yield from attempt([fresh[i] for i in order[:per_round]])
    ranked = sorted(tried, key=tried.__getitem__)
    return Evolution(tuple(ranked), tuple(tried[each] for each in ranked), uniform, _tested(tried, seed))


def _child(parents: list[Program], random: Random) -> Program:
    a, b = random.choice(parents), random.choice(parents)
    return mutated(a if random.random() < 0.5 else crossed(a, b, random), random)


def _tested(tried: dict[Program, float], seed: int) -> float:
    """Kendall's tau of a predictor fitted to most of the programs, on the others."""
    programs = list(tried)
    Random(seed).shuffle(programs)
    spare = programs[::SPARE]
    kept = [program for i, program in enumerate(programs) if i % SPARE]
    predictor = Predictor(kept, [tried[each] for each in kept])
    return kendall_tau(predictor.rank(spare), [tried[each] for each in spare])
