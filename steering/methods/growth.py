"""Growth of a bank toward a target too rare for it, level by level: each level is drawn toward the strongest target
that the samples so far support."""

from collections.abc import Generator, Hashable
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from steering.methods.correction import DoobTilt
from steering.numerics.noise import Noise
from steering.numerics.tiles import ROWS
from steering.plans.compile import compile_plan
from steering.plans.plan import Plan
from steering.posteriors import Bank, Local, Mixture, TiltedBank, Union
from steering.posteriors.calibration import SEED
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, guided
from steering.solvers import SOLVERS
from steering.targets.target import Target

SAFE_BANK = 200
"""Effective samples a target must leave: 40 were up to 5% off, under 25 useless."""
LEVEL_SIZE, LEVEL_PARTICLES, MAX_LEVELS = 1024, 16, 8
GROUP_NUMBERS = 2**22
"""Most numbers in the candidates of a group of a level's samples."""


def grown(problem: Problem, target: Target, bank: Bank, union: Union) -> Generator[Rows, Tensor, Union | None]:
    """The union with one more level, drawn toward the strongest target that it supports; None if the target needs no
    more levels, or more would not help."""
    if union.effective_size(target) >= SAFE_BANK or len(union.levels) >= MAX_LEVELS:
        return None
    level = union.next_level(target, SAFE_BANK)
    if level is None or _out_of_reach(union, level, target):
        return None
    assert bank.local is not None
    # shared by requests that start elsewhere
    setup = replace(
        problem, plan=setup_plan(problem.plan), dtype=torch.float32, start_mean=None, show_every=0, show_path=False
    )
    tilted = TiltedBank.of(union, level, setup.dtype)
    local = leaning(bank.local, union, tilted)
    drawn, reports = [], []
    group = max(ROWS, GROUP_NUMBERS // (LEVEL_PARTICLES * prod(problem.event)) // ROWS * ROWS)
    for first in range(0, LEVEL_SIZE, group):
        noise = Noise(SEED + 1 + len(union.levels), range(first, min(first + group, LEVEL_SIZE)))
        x, report = yield from guided(setup, noise, _ready(setup, level, tilted, local), None)
        drawn.append(x)
        reports.append(report)
    rewards = torch.cat([each.rewards for each in reports if each.rewards is not None])
    rows = (sum(each.network_rows for each in reports), sum(each.reward_rows for each in reports))
    return union.grown(torch.cat(drawn), rewards, level, *rows)


def _out_of_reach(union: Union, level: Target, target: Target) -> bool:
    """Whether the target is out of reach of the levels left, even if each gains twice what the next one does."""
    if not union.levels:
        return False
    last, now, goal = (each.strength for each in (union.levels[-1].target, level, target))
    left = MAX_LEVELS - 1 - len(union.levels)
    return goal - now > 2 * left * (now - last)


def leaning(local: Local, union: Union, tilted: TiltedBank) -> Local:
    """A mixture whose candidates follow the rewarded bank; other posteriors as they are."""
    if not isinstance(local, Mixture) or tilted.flat:
        return local
    return local.leaning(union.cloud.samples.flatten(1), tilted.weights)


def law(problem: Problem) -> tuple[Hashable, ...]:
    """Identifies the law that a problem's samples follow, and its path."""
    plan = problem.plan
    return (
        problem.model, problem.event, plan.path, plan.trained, plan.prediction, plan.preconditioning, plan.limit,
        plan.end,
    )  # fmt: skip


def setup_plan(plan: Plan) -> Plan:
    """How banks and levels are drawn: deterministically, in 20 steps."""
    return compile_plan(
        SOLVERS, "dpmpp_2m", path=plan.path, steps=20, prediction=plan.prediction,
        preconditioning=plan.preconditioning, sigma_data=plan.sigma_data, trained=plan.trained, limit=plan.limit,
        end=plan.end,
    )  # fmt: skip


def _ready(problem: Problem, target: Target, tilted: TiltedBank, local: Local) -> Generator[Rows, Tensor, DoobTilt]:
    yield from ()
    return DoobTilt(problem, target, tilted, local, LEVEL_PARTICLES)
