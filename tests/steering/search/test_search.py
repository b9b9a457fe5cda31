"""Solver search: never worse than what it starts from, better than the table on noise it has not seen, repeatable."""

import math
from collections.abc import Generator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import steering
from steering import paths
from steering.errors import PlanError
from steering.plans.program import Choice, Program
from steering.problems import GaussianMixture
from steering.search import Found, kendall_tau, search
from steering.search.evolution import evolve
from steering.search.fixed import plans_of
from steering.search.lockstep import lockstep
from steering.search.moves import classical, crossed, drawn, gaps, mutated, uniform_programs
from steering.search.polish import polished, program_of, vector
from steering.search.trial import Trial, even, prepare

PATH = paths.vp_cosine()
ROWS = 4
POINT = GaussianMixture(
    torch.ones(1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1, 1), 0.3).double()
)


def problem(dimension: int) -> steering.Problem:
    plan = steering.plan("ddim", path=PATH, steps=1, prediction="x0")
    return steering.Problem(plan=plan, event=(dimension,), dtype=torch.float64)


def searched(program: Program) -> steering.Plan:
    return steering.plan("searched", path=PATH, steps=program.steps, prediction="x0", program=program)


def trial(law: GaussianMixture, samples: int) -> Trial:
    dimension = law.means.shape[1]
    return steering.solve(prepare(problem(dimension), 0, range(samples)), law.network(PATH), tile=None)


@pytest.fixture(scope="module")
def found(mixture: GaussianMixture) -> Found:
    generator = search(problem(2), [ROWS], samples=512, budget=60, polish=6)
    return steering.solve(generator, mixture.network(PATH), tile=None)[0]


def test_a_program_takes_the_rows_it_was_searched_for(found: Found) -> None:
    assert found.rows == found.program.steps == searched(found.program).rows == ROWS


def test_the_searched_program_halves_the_error_of_the_best_fixed_solver(found: Found) -> None:
    assert found.error < found.fixed.error / 2
    assert found.error < found.uniform


def test_the_gain_holds_on_noise_drawn_elsewhere(mixture: GaussianMixture, found: Found) -> None:
    network = mixture.network(PATH)

    def ends(plan: steering.Plan) -> Tensor:
        return steering.run(plan, network, (2048, 2), seed=99, dtype=torch.float64, tile=None)

    fine = ends(steering.plan("dpmpp_3m", path=PATH, steps=1000, prediction="x0"))
    plans = [searched(found.program), *plans_of(problem(2).plan, ROWS)]
    error, *fixed = [float((ends(plan) - fine).square().mean().sqrt()) for plan in plans]
    assert error < min(fixed) / 2
    assert error == pytest.approx(found.error, rel=0.5)


def test_the_predictor_orders_programs_it_has_not_seen(found: Found) -> None:
    assert found.kendall > 0.3  # of some 60 programs; chance is 0 with a deviation of 0.09


def test_the_same_seed_finds_the_same_program(mixture: GaussianMixture) -> None:
    def once(seed: int) -> tuple[Found, ...]:
        generator = search(problem(2), [2], samples=16, budget=10, polish=1, seed=seed)
        return steering.solve(generator, mixture.network(PATH), tile=None)

    one, again, other = (once(seed) for seed in (3, 3, 4))
    assert [each.program for each in one] == [each.program for each in again]
    assert [each.error for each in one] == pytest.approx([each.error for each in again], rel=1e-6)
    assert [each.program for each in one] != [each.program for each in other]


def test_one_row_is_searched_too(mixture: GaussianMixture) -> None:
    (one,) = steering.solve(search(problem(2), [1], samples=64, budget=5, polish=3), mixture.network(PATH), tile=None)
    assert one.rows == 1
    assert one.error <= one.uniform


def test_evolution_never_loses_a_program_it_tried(mixture: GaussianMixture) -> None:
    found = steering.solve(evolve(trial(mixture, 32), 3, 20, seed=0), mixture.network(PATH), tile=None)
    assert set(uniform_programs(PATH, 3)) <= set(found.programs)
    assert list(found.errors) == sorted(found.errors)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"rows": [0]}, "rows: expected at least 1, got 0"),
        ({"rows": [2], "samples": 0}, "samples: expected at least 1, got 0"),
        ({"rows": [2], "budget": 0}, "budget: expected at least 1, got 0"),
        ({"rows": [2], "polish": -1}, "polish: expected at least 0, got -1"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    mixture: GaussianMixture, arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        steering.solve(search(problem(2), **{"samples": 1, **arguments}), mixture.network(PATH), tile=None)


# the pieces


def test_lockstep_gives_what_each_sampler_gives_alone(mixture: GaussianMixture) -> None:
    here, network = trial(mixture, 16), mixture.network(PATH)
    plans = [searched(Program(even(steps), (Choice(order=2),) * steps)) for steps in (2, 5, 3)]
    together = steering.solve(here.run(plans), network, tile=None)
    for plan, end in zip(plans, together, strict=True):
        alone = steering.run(plan, network, (16, 2), x_init=here.start, dtype=torch.float64, tile=None)
        assert end is not None
        assert torch.allclose(end, alone, rtol=0, atol=1e-12)


def test_a_sampler_that_diverges_leaves_the_others_alone(mixture: GaussianMixture) -> None:
    here = trial(mixture, 8)
    wild = Program(even(3), (Choice(order=1, relaxation=(math.sqrt(1e308),)),) * 3)
    tame = Program(even(3), (Choice(order=1),) * 3)
    ends = steering.solve(here.run([searched(wild), searched(tame)]), mixture.network(PATH), tile=None)
    assert ends[0] is None
    assert ends[1] is not None
    assert here.error(ends[0]) == math.inf


def test_lockstep_of_nothing_asks_nothing() -> None:
    empty: list[Generator[steering.Rows, Tensor, Tensor]] = []
    with pytest.raises(StopIteration) as stop:
        next(lockstep(empty))
    assert stop.value.value == []


def test_the_reference_is_the_exact_flow() -> None:
    """A Gaussian's probability flow multiplies by the ratio of the marginal standard deviations."""
    here = trial(POINT, 64)
    variance = 0.3
    first, last = ((PATH.alpha(t) ** 2 * variance + PATH.sigma(t) ** 2).sqrt() for t in (PATH.t_max, PATH.t_min))
    assert torch.allclose(here.ends, here.start * last / first, rtol=2e-4)


def test_refinement_solves_what_one_weight_can_solve() -> None:
    """A Gaussian's flow is a multiplication, which a single relaxed step makes exactly."""
    here = trial(POINT, 32)
    start = Program((0.0, 1.0), (Choice("noise", order=1),))
    *_, last = steering.solve(polished(start, here, 6, weights=True), POINT.network(PATH), tile=None)
    before, after = steering.solve(here.errors([searched(start), searched(last)]), POINT.network(PATH), tile=None)
    assert before > 0.05
    assert after < 1e-6


def test_refinement_descends(mixture: GaussianMixture) -> None:
    here, network = trial(mixture, 64), mixture.network(PATH)
    start = Program(even(4), (Choice("noise", 3, "t", corrector=True),) * 4)
    times = steering.solve(polished(start, here, 3, weights=False), network, tile=None)
    assert all(not any(map(any, (c.relaxation for c in p.choices))) for p in times)
    both = steering.solve(polished(times[-1], here, 3, weights=True), network, tile=None)
    errors = steering.solve(here.errors([searched(p) for p in (*times, *both[1:])]), network, tile=None)
    assert len(errors) > 4
    assert errors == sorted(errors, reverse=True)


@given(st.integers(1, 9), st.integers(0, 2**32))
def test_moves_make_programs_of_the_same_rows(rows: int, seed: int) -> None:
    random = Random(seed)
    a, b = (drawn(PATH, rows, random) for _ in range(2))
    child = crossed(a, b, random)
    assert rows == a.steps == child.steps == mutated(child, random).steps
    assert all(mine in (ours, theirs) for mine, ours, theirs in zip(child.choices, a.choices, b.choices, strict=True))


@given(st.integers(1, 9), st.integers(0, 2**32))
def test_a_program_is_its_vector(rows: int, seed: int) -> None:
    program = drawn(PATH, rows, Random(seed))
    program = Program(
        program.fractions,
        tuple(replace(c, relaxation=(0.1, -0.2)[: min(c.order, i + 1)]) for i, c in enumerate(program.choices)),
    )
    again = program_of(vector(program), program)
    assert gaps(again) == pytest.approx(gaps(program), rel=1e-12)
    assert torch.equal(vector(again)[rows:], vector(program)[rows:])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20))
def test_kendalls_tau_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    a, b = zip(*pairs, strict=True)
    tau = kendall_tau(a, b)
    assert kendall_tau(a, [-each for each in b]) == pytest.approx(-tau)
    if len(set(a)) == len(a) and len(set(b)) == len(b):  # without ties it is scipy's
        assert tau == pytest.approx(stats.kendalltau(a, b).statistic)


def test_a_relaxation_adds_parts_of_the_whole_step() -> None:
    """A step of order 1 has one weight: with relaxation -1 nothing is left of it, with 1 it doubles."""
    plans = [searched(Program((0.0, 1.0), (Choice(order=1, relaxation=r),))) for r in ((), (0.0,), (-1.0,), (1.0,))]
    none, zero, gone, double = (plan.stages[0].update for plan in plans)
    assert none == zero
    assert gone.b[0] == pytest.approx(0, abs=1e-15)
    assert double.b[0] == pytest.approx(2 * none.b[0])
    assert none.A == gone.A == double.A


@pytest.mark.parametrize("order", [2, 3, 4])
def test_classical_weights_are_those_of_ipndm(order: int) -> None:
    program = classical(PATH, Program((0.0, 0.2, 0.4, 0.7, 0.8, 1.0), (Choice("noise", order),) * 5))
    ours = searched(program)
    theirs = steering.plan(f"ipndm_{order}", path=PATH, steps=5, prediction="x0", grid=program.times(PATH))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    a, b = (steering.run(plan, POINT.network(PATH), (9, 1), x_init=x, dtype=torch.float64) for plan in (ours, theirs))
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_relaxations_are_as_many_as_evaluations() -> None:
    with pytest.raises(PlanError, match="at most 2 finite relaxations"):
        Choice(order=2, relaxation=(0.1, 0.2, 0.3))
    with pytest.raises(PlanError, match="finite relaxations"):
        Choice(order=2, relaxation=(math.nan,))
