"""Exponential Adams methods: weights against quadrature, the matrices against the plain recursion, orders."""

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import get_args

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import steering
from steering.paths import Path
from steering.plans import grids
from steering.plans.plan import Course, Node, nodes_at
from steering.plans.program import Choice, Integrand, Program, Variable
from steering.solvers import adams
from steering.solvers.multistep import StepWeights

from ..conftest import CLOSED_PATHS, PATHS
from ..test_solvers import GAUSSIAN, MIXTURE, flowed, slopes, start

TARGETS, VARIABLES = get_args(Integrand), get_args(Variable)


def course_of(path: Path, steps: int, grid: str = "karras") -> Course:
    return Course(path, nodes_at(path, grids.nodes(grid, path, steps)))


def factor(s: Node, t: Node, target: Integrand) -> float:
    """What the linear part makes of x_s."""
    sizes = {"data": (t.sigma, s.sigma), "noise": (t.alpha, s.alpha)}
    end, begin = sizes.get(target, (math.hypot(t.alpha, t.sigma), math.hypot(s.alpha, s.sigma)))
    return end / begin


def integral(s: Node, t: Node, target: Integrand, f: Callable[[float], float]) -> float:
    """x_t - factor x_s for F = f(log-SNR), by adaptive quadrature of what Lu et al. 2022, prop. 3.1 and 4.1, have.

    And for the velocity: d arctan(exp(-l)) = -dl / (2 cosh l).
    """

    def integrand(log_snr: float) -> float:
        if target == "data":
            return t.sigma * math.exp(log_snr) * f(log_snr)
        if target == "velocity":
            return -math.hypot(t.alpha, t.sigma) / (2 * math.cosh(log_snr)) * f(log_snr)
        return -t.alpha * math.exp(-log_snr) * f(log_snr)

    return quad(integrand, s.log_snr, t.log_snr, epsabs=0, epsrel=1e-11)[0]


def coordinate(path: Path, variable: Variable, log_snr: float) -> float:
    """The interpolation's variable, from 1 to -1 over the whole path."""

    def raw(level: float) -> float:
        if variable == "t":
            return float(path.time_of_log_snr(level))
        if variable == "angle":
            return math.atan(math.exp(-level))
        return level if variable == "log_snr" else math.exp(-level)

    first, last = raw(float(path.log_snr(path.t_max))), raw(float(path.log_snr(path.t_min)))
    return (2 * raw(log_snr) - first - last) / (first - last)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["vp_cosine", "edm", "rectified_flow", "sub_vp"])
def test_weights_are_exact_for_as_many_powers_as_there_are_values(name: str, target: Integrand, variable: Variable):
    """That is what determines them; the first steps have fewer values, and a corrector one more."""
    course = course_of(CLOSED_PATHS[name], 6)
    steps = adams.steps(course, [Choice(target, 4, variable, corrector=True)] * 6)
    assert [len(step.predictor) for step in steps] == [1, 2, 3, 4, 4, 4]
    assert [len(step.corrector) for step in steps] == [2, 3, 4, 5, 5, 0]
    # over the angle the others have poles or logarithms near the ends, which the quadrature resolves less well
    resolved = 2e-3 if target == "velocity" and variable != "angle" else 1e-11
    u = [coordinate(course.path, variable, node.log_snr) for node in course.nodes]

    def monomial(power: int) -> Callable[[float], float]:
        return lambda log_snr: coordinate(course.path, variable, log_snr) ** power

    for i, step in enumerate(steps):
        s, t = course.nodes[i], course.nodes[i + 1]
        for newest, weights in ((i, step.predictor), (i + 1, step.corrector)):
            for power in range(len(weights)):
                exact = integral(s, t, target, monomial(power))
                terms = [weight * u[newest - j] ** power for j, weight in enumerate(weights)]
                assert sum(terms) == pytest.approx(exact, abs=resolved * sum(map(abs, terms)))


def test_one_step_over_the_whole_path_keeps_its_digits(path: Path):
    """The widest span that the quadrature has to bear; D = 1 takes alpha_s to alpha_t, eps = 1 sigma_s to sigma_t."""
    course = course_of(path, 1)
    s, t = course.nodes
    (data,), (noise,) = (adams.steps(course, [Choice(target, 1)])[0].predictor for target in ("data", "noise"))
    assert factor(s, t, "data") * s.alpha + data == pytest.approx(t.alpha, rel=1e-11)
    assert factor(s, t, "noise") * s.sigma + noise == pytest.approx(t.sigma, abs=1e-11 * s.sigma)


def random_choices(steps: int, seed: int) -> list[Choice]:
    r = random.Random(seed)
    return [
        Choice(r.choice(TARGETS), r.randint(1, 4), r.choice(VARIABLES), corrector=r.random() < 0.5)
        for _ in range(steps)
    ]


def plain(course: Course, choices: list[Choice], denoiser: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    """The methods as they are written down, with every past value at hand."""
    values: dict[Integrand, list[Tensor]] = {"data": [], "noise": [], "velocity": []}

    def summed(target: Integrand, weights: tuple[float, ...]) -> Tensor:
        newest_first = values[target][::-1][: len(weights)]
        return torch.stack([w * f for w, f in zip(weights, newest_first, strict=True)]).sum(dim=0)

    origin, previous = x, StepWeights("data", ())
    for (s, t), step in zip(pairwise(course.nodes), adams.steps(course, choices), strict=True):
        denoised = denoiser(x, torch.full(x.shape[:1], s.t, dtype=torch.float64))
        values["data"].append(denoised)
        values["noise"].append((x - s.alpha * denoised) / s.sigma)
        turning = s.alpha * values["noise"][-1] - s.sigma * denoised
        values["velocity"].append(turning / math.hypot(s.alpha, s.sigma))
        if previous.corrector:
            x = origin + summed(previous.target, previous.corrector)
        origin, previous = factor(s, t, step.target) * x, step
        x = origin + summed(step.target, step.predictor)
    return x


@pytest.mark.parametrize("seed", range(8))
def test_plans_do_what_the_plain_recursion_does(seed: int):
    path, count = PATHS["vp_cosine"], 9
    course, choices = course_of(path, count), random_choices(count, seed)
    first, *inner, last = (node.log_snr for node in course.nodes)
    program = Program((0.0, *((level - first) / (last - first) for level in inner), 1.0), tuple(choices))
    plan = steering.plan("searched", path=path, steps=count, prediction="x0", program=program)
    network, x = MIXTURE.network(path), start(path, 2)
    got = steering.run(plan, network, (16, 2), x_init=x, dtype=torch.float64, tile=None)
    torch.testing.assert_close(got, plain(course, choices, network, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_no_register_is_kept_for_nothing(seed: int):
    """Whatever a stage writes, the next one reads."""
    updates = list(adams.updates(course_of(PATHS["edm"], 12), random_choices(12, seed)))
    for before, after in pairwise(updates):
        columns = zip(*after.A, strict=True)
        read = [any(column) for column in columns]
        assert len(read) == len(before.A)
        assert all(read[1:])
    assert len(updates[-1].A) == 1


@pytest.mark.parametrize(("corrector", "registers"), [(False, 4), (True, 5)])
def test_a_method_of_order_4_keeps_three_past_values(corrector: bool, registers: int):
    updates = list(adams.updates(course_of(PATHS["edm"], 9), [Choice("noise", 4, "t", corrector)] * 9))
    assert max(len(update.A) for update in updates) == registers


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("order", [1, 2])
def test_order_and_one_more_with_a_corrector(order: int, target: Integrand, variable: Variable):
    path = PATHS["vp_linear"]
    network, x_init = GAUSSIAN.network(path), start(path, 3)
    small = (order, target, variable) == (
        2,
        "data",
        "rho",
    )  # its leading error is so small that the next one shows for longer
    for corrector in (False, True):
        errors = []
        for steps in (200, 400, 800) if small else (50, 100, 200):
            even = tuple(i / steps for i in range(steps + 1))
            program = Program(even, (Choice(target, order, variable, corrector),) * steps)
            plan = steering.plan("searched", path=path, steps=steps, prediction="x0", program=program)
            x = steering.run(plan, network, (16, 3), x_init=x_init, dtype=torch.float64, tile=None)
            errors.append(float((x - flowed(path, x_init)).norm()))
        assert slopes(errors) == pytest.approx([order + corrector] * 2, abs=0.25)


def test_relaxed_weights_have_parts_of_the_whole_step_added():
    course = course_of(PATHS["edm"], 4)
    unchanged, relaxed = (
        [step.predictor for step in adams.steps(course, [Choice("data", 3, relaxation=r)] * 4)]
        for r in ((), (0.1, -0.2, 0.03))
    )
    for exact, changed in zip(unchanged, relaxed, strict=True):
        parts = [(b - a) / sum(exact) for a, b in zip(exact, changed, strict=True)]
        assert parts == pytest.approx([0.1, -0.2, 0.03][: len(exact)])
