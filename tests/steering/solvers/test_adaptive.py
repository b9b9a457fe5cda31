"""Adaptive solvers: errors and rows against tolerance, one's own steps for each sample, budgets."""

import math
from typing import Any

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import steering
from steering.errors import BudgetError, PlanError, SteeringError
from steering.numerics.noise import Noise
from steering.plans.plan import Plan
from steering.problems import GaussianMixture
from steering.sampling.rows import Rows, answered
from steering.sampling.sampler import Problem, Report, sample
from steering.solvers.levels import NoiseLevel

from ..conftest import PATHS

ADAPTIVE = ("rk45", "dpm_solver_12", "dpm_solver_23")
TOLERANCES = {"rk45": (1e-5, 1e-9), "dpm_solver_12": (1e-2, 1e-4), "dpm_solver_23": (1e-4, 1e-6)}
MIXTURE = GaussianMixture.random(dimension=2, components=3, seed=0)


def compiled(solver: str, path: str, tolerance: float, steps: int = 20, **options: Any) -> Plan:
    return steering.plan(
        solver, path=PATHS[path], steps=steps, prediction="x0", rtol=tolerance, atol=tolerance,
        **{"budget": 10_000} | options,
    )  # fmt: skip


def start(path: str, n: int = 16, dimension: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return float(PATHS[path].sigma(PATHS[path].t_max)) * torch.randn(n, dimension, generator=g, dtype=torch.float64)


def drawn(plan: Plan, path: str, n: int = 16) -> tuple[Tensor, float]:
    """Samples from common noise, and the rows a sample took."""
    network = MIXTURE.network(PATHS[path])
    x, report = steering.run(plan, network, (n, 2), x_init=start(path, n), dtype=torch.float64, report=True)
    return x, report.network_rows / n


@pytest.mark.parametrize("path", ["vp_cosine", "edm", "rectified_flow"])
@pytest.mark.parametrize("solver", ADAPTIVE)
def test_error_and_rows_follow_the_tolerance(solver: str, path: str):
    """A step's error is of order q in the step: E <= tol makes steps like tol^(1/q), and rows like tol^(-1/q)."""
    truth, _ = drawn(compiled("rk45", path, 1e-12), path)
    loose, tight = TOLERANCES[solver]
    (x, few), (y, many) = (drawn(compiled(solver, path, tolerance), path) for tolerance in (loose, tight))
    # the median: where the flow parts between components, a sample multiplies what error it has
    coarse, fine = (float((z - truth).abs().amax(dim=1).median()) for z in (x, y))
    assert fine < 10 * tight
    assert math.log(coarse / fine) / math.log(loose / tight) == pytest.approx(1, abs=0.25)
    assert math.log(many / few) / math.log(loose / tight) == pytest.approx(1 / steering.solvers[solver].order, rel=0.3)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_steps_are_the_same_on_every_path(solver: str):
    """A variance-exploding and a straight path between the same log-SNRs: the same process, the same rows."""
    flow = PATHS["rectified_flow"]
    first, last = (float(flow.sigma(t) / flow.alpha(t)) for t in (flow.t_max, flow.t_min))
    edm = steering.paths.edm(last, first)
    x_init = start("rectified_flow")
    results = []
    for path, x in ((flow, x_init), (edm, x_init / flow.alpha(flow.t_max))):
        plan = steering.plan(solver, path=path, steps=20, prediction="x0")
        y, report = steering.run(plan, MIXTURE.network(path), (16, 2), x_init=x, dtype=torch.float64, report=True)
        results.append((y / path.alpha(path.t_min), report.network_rows))
    (one, rows), (other, others) = results
    assert rows == others
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
def test_rk45_is_as_good_as_scipys_for_the_same_rows(tolerance: float):
    """One sample, the same equation in the angle: scipy's RK45 for the rows, its DOP853 for the truth."""
    path = PATHS["edm"]
    network = MIXTURE.network(path)
    x_init = start("edm", 1)

    def slope(tau: float, y: object) -> object:
        level, state = NoiseLevel(torch.tensor([-math.log(math.tan(tau))], dtype=torch.float64)), torch.tensor(y)[None]
        denoised = network(state / math.cos(tau), 1 / level.log_snr.exp())
        return ((math.cos(tau) * state - denoised) / math.sin(tau))[0].numpy()

    ends = (math.atan(path.t_max), math.atan(path.t_min))
    y = (x_init[0] * math.cos(ends[0])).numpy()
    truth = solve_ivp(slope, ends, y, "DOP853", rtol=1e-12, atol=1e-12).y[:, -1] / math.cos(ends[1])
    theirs = solve_ivp(slope, ends, y, "RK45", rtol=tolerance, atol=tolerance, first_step=(ends[0] - ends[1]) / 20)
    plan = compiled("rk45", "edm", tolerance)
    x, report = steering.run(plan, network, (1, 2), x_init=x_init, dtype=torch.float64, report=True)
    error = float((x[0] - torch.from_numpy(truth)).abs().max())
    assert error < 20 * tolerance
    assert report.network_rows == pytest.approx(theirs.nfev, rel=0.2)


def asked(plan: Plan, n: int, x_init: Tensor | None = None) -> tuple[Tensor, Report, list[Rows]]:
    """A run whose requests are kept."""
    network, requests = MIXTURE.network(plan.path), []
    draws = sample(Problem(plan=plan, event=(2,), dtype=torch.float64), Noise(3, range(n)), None, x_init)

    def answer(request: Rows) -> Tensor:
        requests.append(request)
        return network(request.x, request.t)

    return *answered(draws, answer), requests


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_each_sample_takes_its_own_steps_and_then_asks_no_more(solver: str):
    plan = compiled(solver, "edm", 1e-4)
    rows = [asked(plan, 1, start("edm", 8)[i : i + 1])[1].network_rows for i in range(8)]
    _, report, requests = asked(plan, 8, start("edm", 8))
    assert len(set(rows)) > 1
    assert report.network_rows == sum(rows) == sum(map(len, requests))
    assert len(requests[-1]) < 8
    assert any(len(set(request.t.tolist())) > 1 for request in requests)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("path", ["vp_cosine", "rectified_flow", "sub_vp"])
@pytest.mark.parametrize("solver", ADAPTIVE)
def test_a_sample_does_not_depend_on_its_neighbours(solver: str, path: str, dtype: torch.dtype):
    """Steps decided by one's own error alone, and the same bits: rows 0..k of a larger run equal the smaller."""
    plan, network = compiled(solver, path, 1e-3), MIXTURE.network(PATHS[path])
    many = steering.run(plan, network, (21, 2), seed=5, dtype=dtype)
    for n in (1, 5, 18):
        assert torch.equal(steering.run(plan, network, (n, 2), seed=5, dtype=dtype), many[:n])


def shifted(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
    """The mixture's network, each row's data moved by a shift of its own on top of what x is about."""
    return MIXTURE.network(PATHS["vp_cosine"])(x - shift, t) + shift


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_conditions_and_means_go_with_their_samples(solver: str):
    """What a sample reverts to, and its network is told, moves its flow along and changes nothing else."""
    path, x_init = PATHS["vp_cosine"], start("vp_cosine", 9)
    shift = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    plan = compiled(solver, "vp_cosine", 1e-4)
    wanted = steering.run(plan, MIXTURE.network(path), (9, 2), x_init=x_init, dtype=torch.float64)
    got = steering.run(
        plan, shifted, (9, 2), x_init=x_init + shift, condition={"shift": shift}, mean=shift.expand(9, 2),
        dtype=torch.float64,
    )  # fmt: skip
    torch.testing.assert_close(got, wanted + shift, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_guided_samples_are_what_they_are_alone(solver: str):
    plan, shift = compiled(solver, "vp_cosine", 1e-3), torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]

    def guided(rows: slice) -> Tensor:
        condition = {"shift": shift[rows]}
        null = {"shift": torch.zeros(1, 1, dtype=torch.float64)}
        return steering.run(
            plan, shifted, (len(shift[rows]), 2), x_init=start("vp_cosine", 6)[rows], condition=condition, null=null,
            guidance=1.5, dtype=torch.float64,
        )  # fmt: skip

    together = guided(slice(0, 6))
    for i in range(6):
        assert torch.equal(guided(slice(i, i + 1))[0], together[i])


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_the_first_trial_step_is_one_of_the_steps(solver: str):
    path, x_init = PATHS["edm"], start("edm", 1)
    variable = {"rk45": lambda t: torch.atan2(path.sigma(t), path.alpha(t))}.get(solver, path.log_snr)
    for steps in (1, 10, 1000):
        _, _, (_, *requests) = asked(compiled(solver, "edm", 1.0, steps=steps), 1, x_init)
        furthest = {"rk45": 5, "dpm_solver_12": 1, "dpm_solver_23": 2}[solver]
        fraction = {"rk45": 1.0, "dpm_solver_12": 1 / 2, "dpm_solver_23": 2 / 3}[solver]
        first, last = variable(path.t_max), variable(path.t_min)
        went = (variable(requests[furthest - 1].t) - first) / (last - first)
        assert float(went) == pytest.approx(fraction / steps, rel=1e-6)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_a_spent_budget_is_an_error_that_says_how_far_it_got(solver: str):
    message = rf"solver '{solver}': expected sample \d+ to need at most 15 rows \(budget\) at rtol 1e-06 .* of 6.215"
    with pytest.raises(BudgetError, match=message):
        drawn(compiled(solver, "edm", 1e-6, budget=15), "edm")
    _, report, _ = asked(compiled(solver, "edm", 1e-3), 1)
    enough = compiled(solver, "edm", 1e-3, budget=report.network_rows)
    assert asked(enough, 1)[1].network_rows == report.network_rows
    with pytest.raises(BudgetError):
        asked(compiled(solver, "edm", 1e-3, budget=report.network_rows - 1), 1)


def test_what_adaptive_solvers_cannot_do_is_refused():
    with pytest.raises(PlanError, match=r"'rk45' cannot run in reverse, .*: .*heun"):
        steering.plan("rk45", path=PATHS["edm"], steps=20, prediction="x0", reverse=True)
    with pytest.raises(PlanError, match=r"rtol: expected a number in 1e-12\.\.1, got 0"):
        steering.plan("rk45", path=PATHS["edm"], steps=20, prediction="x0", rtol=0)
    plan = compiled("dpm_solver_23", "edm", 1e-3)
    with pytest.raises(SteeringError, match="solver 'dpm_solver_23' cannot be steered"):
        steering.run(plan, MIXTURE.network(plan.path), (2, 2), steer=steering.Doob(lambda x: x[:, 0]))
