"""The programs a search starts from and how it changes them (USF, Liu et al. 2023, arXiv:2312.07243, section 5)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from random import Random
from typing import get_args

import torch

from steering.errors import PlanError
from steering.paths import Path
from steering.plans import grids
from steering.plans.plan import Course, nodes_at
from steering.plans.program import MAX_ORDER, Choice, Integrand, Program, Variable
from steering.solvers import adams
from steering.solvers.ipndm import ADAMS_BASHFORTH

CHOICES = tuple(
    Choice(*each) for each in product(get_args(Integrand), range(1, MAX_ORDER + 1), get_args(Variable), (False, True))
)
JITTER = 0.3
"""Standard deviation of a mutation of the logarithm of a gap between nodes."""
FLIP = 0.2
"""Chance that a mutation changes one step's choice."""


def grid_fractions(path: Path, steps: int) -> list[tuple[float, ...]]:
    """The named grids as fractions of a path's log-SNR range."""
    found = []
    path = path.finite
    for name in grids.GRIDS:
        try:
            log_snr = path.log_snr(grids.nodes(name, path, steps))
        except PlanError:  # a grid that this path does not take
            continue
        inner = ((log_snr - log_snr[0]) / (log_snr[-1] - log_snr[0]))[1:-1]
        found.append((0.0, *inner.tolist(), 1.0))
    return found


def uniform_programs(path: Path, steps: int) -> list[Program]:
    """Every choice made alike in all steps, on every named grid; a polynomial through one value has no variable.

    And the classical weights, which do not mind unequal steps: over few steps, iPNDM is hard to beat on images.
    """
    choices = [c for c in CHOICES if c.order > 1 or c.corrector or c.variable == "log_snr"]
    alike = [Program(f, (choice,) * steps) for f in grid_fractions(path, steps) for choice in choices]
    each = product(grid_fractions(path, steps), get_args(Integrand), range(2, min(steps, MAX_ORDER) + 1))
    return alike + [classical(path, Program(f, (Choice(target, order),) * steps)) for f, target, order in each]


def classical(path: Path, program: Program) -> Program:
    """The program with Adams and Bashforth's constant weights in place of its polynomials'."""
    course = Course(path, nodes_at(path, torch.tensor(program.times(path.finite), dtype=torch.float64)))
    choices = []
    for choice, step in zip(program.choices, adams.steps(course, program.choices), strict=True):
        weights, whole = step.predictor, math.fsum(step.predictor)
        constants = ADAMS_BASHFORTH[len(weights) - 1]
        relaxation = tuple(c - w / whole for c, w in zip(constants, weights, strict=True))
        choices.append(replace(choice, order=len(weights), relaxation=relaxation))
    return Program(program.fractions, tuple(choices))


def from_gaps(gaps: Sequence[float], choices: Sequence[Choice]) -> Program:
    """A program whose gaps between nodes have these proportions."""
    whole, position, inner = math.fsum(gaps), 0.0, []
    for gap in gaps[:-1]:
        position += gap
        inner.append(position / whole)
    return Program((0.0, *inner, 1.0), tuple(choices))


def gaps(program: Program) -> list[float]:
    return [b - a for a, b in pairwise(program.fractions)]


def mutated(program: Program, random: Random) -> Program:
    """Some gaps stretched or shrunk, some choices changed in one respect."""
    some = random.random()
    stretched = [gap * math.exp(random.gauss(0, JITTER)) if random.random() < some else gap for gap in gaps(program)]
    choices = [_flipped(choice, random) if random.random() < FLIP else choice for choice in program.choices]
    return from_gaps(stretched, choices)


def _flipped(choice: Choice, random: Random) -> Choice:
    respect = random.choice(("target", "order", "variable", "corrector"))
    others = {
        "target": get_args(Integrand), "order": range(1, MAX_ORDER + 1), "variable": get_args(Variable),
        "corrector": (False, True),
    }[respect]  # fmt: skip
    other = random.choice([each for each in others if each != getattr(choice, respect)])
    return replace(choice, **{respect: other}, relaxation=choice.relaxation if respect == "corrector" else ())


def crossed(noisy: Program, clean: Program, random: Random) -> Program:
    """The first steps of one program and the last of another, joined at a step boundary."""
    cut = random.randint(1, noisy.steps - 1) if noisy.steps > 1 else 0
    return from_gaps([*gaps(noisy)[:cut], *gaps(clean)[cut:]], [*noisy.choices[:cut], *clean.choices[cut:]])


def drawn(path: Path, steps: int, random: Random) -> Program:
    """A random program near one of the named grids."""
    start = Program(random.choice(grid_fractions(path, steps)), tuple(random.choices(CHOICES, k=steps)))
    return mutated(start, random)
