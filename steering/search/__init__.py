"""Solver search (USF / S3, Liu et al. 2023, arXiv:2312.07243): the best program for a network at few rows.

    found = steering.solve(steering.search.search(problem, rows=(5, 8, 10), samples=256), network)
    plan = steering.plan("searched", path=path, steps=5, prediction="x0", program=found[0].program)

Programs are judged by the end points they reach from common first states, against those of a fine plan. Evolution with
a predictor finds the choices; least squares then finds the times and the weights. Three different sets of noise serve
to choose, to fit and to report.
"""

from steering.search.evolution import Evolution, evolve
from steering.search.find import Found, Trials, program_for, search, trials
from steering.search.fixed import Fixed, best_fixed
from steering.search.predictor import Predictor, kendall_tau
from steering.search.trial import Trial, prepare

__all__ = [
    "Evolution", "Fixed", "Found", "Predictor", "Trial", "Trials", "best_fixed", "evolve", "kendall_tau", "prepare",
    "program_for", "search", "trials",
]  # fmt: skip
