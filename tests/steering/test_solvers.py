"""Every solver on every path: its order against closed forms, the law of its noise, its cost."""

import math
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering.errors import PlanError
from steering.paths import Path
from steering.plans.plan import Plan
from steering.problems import GaussianMixture

from .conftest import PATHS

# all tables
SOLVERS = [name for name, solver in steering.solvers.items() if solver.updates]
WITH_NOISE = [name for name in SOLVERS if steering.solvers[name].takes_eta]
DETERMINISTIC = [name for name in SOLVERS if not steering.solvers[name].uses_noise]
OWN_GRIDS: list[tuple[str, str | None]] = [(name, None) for name in DETERMINISTIC]
OTHERS_GRIDS = [("ddim", "karras"), ("euler", "logsnr"), ("heun", "logsnr"), ("dpmpp_2m", "karras")]

# where a solver is not like the others: its steps to the asymptotic order, another order on Gaussian data, its rows

STEPS = {"rho_kutta3": (80, 160, 320)}
STEPS |= {"dpm_solver_3": (80, 160, 320), "dpmpp_3s": (80, 160, 320), "dpmpp_3m_compat": (80, 160, 320)}
STEPS |= {"dpmpp_3m": (20, 40, 80), "searched": (20, 40, 80)}
STEPS |= dict.fromkeys(("deis_tab1", "deis_rhoab1", "ipndm_4"), (80, 160, 320))
SLOW = {"deis_tab2", "deis_tab3", "deis_rhoab2", "deis_rhoab3", "unipc_3"}  # their slopes still rise at these steps
STEPS |= dict.fromkeys(SLOW, (80, 160, 320)) | {"unipc_3": (100, 200, 400)}
STEPS |= {"trig_adams_2": (200, 400, 800), "deis_logrho2": (60, 120, 240)}
SLOW |= {"trig_adams_2", "trig_adams_3", "deis_logrho2"}
GAUSSIAN_ORDERS: dict[tuple[str, str], float] = {("rho_midpoint", kind): 3.0 for kind in PATHS} | {
    ("interpolant_ode", "edm"): 3.0,
    ("interpolant_ode", "rectified_flow"): 3.0,
}
# see tests/steering/solvers/test_dpmpp_3m.py for the reason
GAUSSIAN_ORDERS |= {(name, kind): 4.0 for name in ("dpmpp_3m", "deis_logrho2", "searched") for kind in PATHS}
GAUSSIAN_ORDERS |= {("deis_logrho2", "edm"): 3.6}  # falls from 4 to 3, where the term of order 3 shows
# the rho methods are exact, but one step over all of rho multiplies their rounding
INEXACT_ON_A_POINT = {name for name in SOLVERS if name.startswith("rho_")}
INEXACT_ON_A_POINT |= {"dpm_solver_2", "dpm_solver_3", "plms"}  # for the same reason
INEXACT_ON_A_POINT |= {"flow_euler", "flow_ab2", "flow_heun", "interpolant_ode", "reversible_heun", "consistency"}
INEXACT_ON_A_POINT |= {"trig_adams_2", "trig_adams_3"}
ROWS = dict.fromkeys(("heun", "flow_heun"), lambda steps: 2 * steps - 1) | {"reversible_heun": lambda steps: steps + 1}
ROWS |= {"plms": lambda steps: steps + 1}
ROWS |= {"annealed_langevin": lambda steps: 5 * (steps + 1)}


@pytest.fixture(params=["vp_cosine", "vp_linear", "edm", "rectified_flow"])
def path(request: pytest.FixtureRequest) -> Path:
    return PATHS[request.param]


def compiled(solver: str, path: Path, steps: int, **other) -> Plan:
    if path == PATHS["edm"] and steering.solvers[solver].default_grid == "uniform":
        other["grid"] = other.get("grid") or "karras"  # uniform from 80 down has no node where the data are
    return steering.plan(solver, path=path, steps=steps, prediction="x0", **other)


def levels(*etas: float) -> list[tuple[str, float]]:
    """Solvers with noise at these levels, those that always have some above 0 only."""
    return [(name, eta) for name in WITH_NOISE for eta in etas if eta > 0 or name in DETERMINISTIC]


def slopes(errors: list[float]) -> list[float]:
    """Orders seen between runs whose numbers of steps double."""
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


def start(path: Path, dimension: int) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return float(path.sigma(path.t_max)) * torch.randn(16, dimension, generator=g, dtype=torch.float64)


# The probability flow of one Gaussian N(m, S) is linear: along each eigenvector of S, x - alpha m grows like the
# standard deviation of the marginal law, sqrt(alpha^2 s^2 + sigma^2).

MEAN = torch.tensor([0.5, -0.3, 0.8], dtype=torch.float64)
VARIANCES = torch.tensor([0.09, 0.25, 1.0], dtype=torch.float64)
BASIS = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
GAUSSIAN = GaussianMixture(
    torch.ones(1, dtype=torch.float64), MEAN[None], (BASIS @ torch.diag(VARIANCES) @ BASIS.T)[None]
)


def flowed(path: Path, x: Tensor) -> Tensor:
    """Where the probability flow takes x from t_max to t_min."""
    (a, s), (b, r) = ((path.alpha(t), path.sigma(t)) for t in (path.t_max, path.t_min))
    growth = torch.sqrt((b**2 * VARIANCES + r**2) / (a**2 * VARIANCES + s**2))
    return b * MEAN + ((x - a * MEAN) @ BASIS * growth) @ BASIS.T


@pytest.mark.parametrize(("solver", "grid"), [*OWN_GRIDS, *OTHERS_GRIDS])
def test_order_on_a_gaussian_against_the_exact_flow(path: Path, solver: str, grid: str | None):
    network, x_init = GAUSSIAN.network(path), start(path, 3)
    errors = []
    for steps in STEPS.get(solver, (40, 80, 160)):
        plan = compiled(solver, path, steps, grid=grid)
        x = steering.run(plan, network, (16, 3), x_init=x_init, dtype=torch.float64)
        errors.append(float((x - flowed(path, x_init)).norm()))
    kind = next(kind for kind, other in PATHS.items() if other == path)
    order = GAUSSIAN_ORDERS.get((solver, kind), steering.solvers[solver].order)
    assert slopes(errors) == pytest.approx([order] * 2, abs=0.4 if solver in SLOW else 0.15)
    assert compiled(solver, path, 40).order == steering.solvers[solver].order


MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[0.8, -0.4], [-0.6, 0.5]], dtype=torch.float64),
    torch.tensor([[[0.5, 0.2], [0.2, 0.4]], [[0.3, -0.1], [-0.1, 0.6]]], dtype=torch.float64),
)


@cache
def reference(path: Path) -> Tensor:
    plan = compiled("rho_rk4", path, 600)
    return steering.run(plan, MIXTURE.network(path), (16, 2), x_init=start(path, 2), dtype=torch.float64)


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_order_on_a_mixture_against_a_fine_run(path: Path, solver: str):
    """The denoiser is not linear here."""
    errors = []
    for steps in STEPS.get(solver, (40, 80, 160)):
        plan = compiled(solver, path, steps)
        x = steering.run(plan, MIXTURE.network(path), (16, 2), x_init=start(path, 2), dtype=torch.float64)
        errors.append(float((x - reference(path)).norm()))
    expected = [steering.solvers[solver].order] * 2
    assert slopes(errors) == pytest.approx(expected, abs=0.4 if solver in SLOW else 0.3)


# On N(m, v) every stage is linear, r <- (A + b k e_0) r + b c + C z, so the law of a plan's result is a recursion of
# means and covariances of its registers, without any sampling.


def law(plan: Plan, m: float, v: float) -> tuple[float, float]:
    """Mean and variance of what a plan makes of the exact first marginal of data N(m, v)."""
    first, width = plan.nodes[0], max(len(stage.update.A) for stage in plan.stages)
    mean = torch.zeros(width, dtype=torch.float64)
    covariance = torch.zeros(width, width, dtype=torch.float64)
    mean[0], covariance[0, 0] = first.alpha * m, first.alpha**2 * v + first.sigma**2
    for stage in plan.stages:
        update, at = stage.update, stage.update.at
        k = at.alpha * v / (at.alpha**2 * v + at.sigma**2)
        b = torch.zeros(width, dtype=torch.float64)
        matrix = torch.zeros(width, width, dtype=torch.float64)
        noise = torch.zeros(width, max(stage.draws, 1), dtype=torch.float64)
        for i, row in enumerate(update.A):
            b[i] = update.b[i]
            matrix[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
            if update.C:
                noise[i] = torch.tensor(update.C[i], dtype=torch.float64)
        matrix[:, 0] += k * b
        mean = matrix @ mean + b * (m - k * at.alpha * m)
        covariance = matrix @ covariance @ matrix.T + noise @ noise.T
    return float(mean[0]), float(covariance[0, 0])


@pytest.mark.parametrize(("solver", "eta"), levels(0.0, 0.5, 1.0))
def test_law_on_a_gaussian_is_stationary_to_the_solvers_order(path: Path, solver: str, eta: float):
    """Whatever the share of noise, the exact marginal law goes over into the next one, up to errors of that order."""
    m, v = 0.7, 0.25
    last = compiled(solver, path, 1).nodes[-1]
    errors = []
    for steps in (160, 320, 640):
        mean, variance = law(compiled(solver, path, steps, eta=eta), m, v)
        assert mean == pytest.approx(last.alpha * m, abs=1e-12)
        errors.append(abs(variance - (last.alpha**2 * v + last.sigma**2)) / v)
    assert errors[-1] < 0.03
    assert slopes(errors) == pytest.approx([steering.solvers[solver].order] * 2, abs=0.15)


@pytest.mark.parametrize(("solver", "eta"), levels(0.3, 1.0))
def test_samples_follow_the_law_of_the_plan(path: Path, solver: str, eta: float):
    """At 10 steps, far from the limit: what is drawn is what the matrices say."""
    n, d, m, v = 1000, 8, 0.7, 0.25
    plan = compiled(solver, path, 10, eta=eta)
    first = plan.nodes[0]
    g = torch.Generator().manual_seed(2)
    x_init = first.alpha * m + (first.alpha**2 * v + first.sigma**2) ** 0.5 * torch.randn(
        n, d, generator=g, dtype=torch.float64
    )

    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        return m + alpha * v / (alpha**2 * v + sigma**2) * (x - alpha * m)

    x = steering.run(plan, network, (n, d), seed=3, x_init=x_init, dtype=torch.float64, tile=None)
    mean, variance = law(plan, m, v)
    assert float(x.mean()) == pytest.approx(mean, abs=5 * (variance / (n * d)) ** 0.5)
    assert float(x.var()) == pytest.approx(variance, rel=5 * (2 / (n * d)) ** 0.5)
    rows = x - mean
    assert abs(float((rows[1:] * rows[:-1]).mean())) < 5 * variance / (n * d) ** 0.5


@pytest.mark.parametrize(
    ("solver", "eta"), [(name, 0.0) for name in DETERMINISTIC if name not in INEXACT_ON_A_POINT] + levels(0.4, 1.0)
)
def test_a_point_mass_is_sampled_exactly_in_any_number_of_steps(path: Path, solver: str, eta: float):
    """Its denoiser is constant, and constants are what every exponential or rho integrator gets right."""
    for steps in (1, 2, 5):
        plan = compiled(solver, path, steps, eta=eta)
        last = plan.nodes[-1]
        mean, variance = law(plan, m=3.0, v=0.0)
        assert mean == pytest.approx(3 * last.alpha, rel=1e-10)
        assert variance == pytest.approx(last.sigma**2, rel=1e-8)


@pytest.mark.parametrize("name", ["vp_cosine", "vp_linear"])
def test_ddim_with_eta_1_is_the_ancestral_sampler_of_ddpm(name: str):
    """Ho et al. 2020, eq. 6 and 7: q(x_t | x_s, x_0) of the discrete chain through the same nodes."""
    for stage in compiled("ddim", PATHS[name], 20, eta=1.0).stages:
        s, t, update = stage.update.at, stage.update.to, stage.update
        kept = (s.alpha / t.alpha) ** 2  # 1 - beta of the step t -> s
        assert update.C[0][0] ** 2 == pytest.approx((1 - kept) * t.sigma**2 / s.sigma**2, rel=1e-9)
        assert update.A[0][0] == pytest.approx(kept**0.5 * t.sigma**2 / s.sigma**2, rel=1e-9)
        assert update.b[0] == pytest.approx(t.alpha * (1 - kept) / s.sigma**2, rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equation_12_of_its_paper_on_a_variance_preserving_path(eta: float):
    for stage in compiled("ddim", PATHS["vp_cosine"], 10, eta=eta).stages:
        s, t, update = stage.update.at, stage.update.to, stage.update
        spread = eta * math.sqrt(t.sigma**2 / s.sigma**2 * (1 - s.alpha**2 / t.alpha**2))
        direction = math.sqrt(t.sigma**2 - spread**2)
        # x_t = alpha_t D + direction (x_s - alpha_s D) / sigma_s + spread z
        assert update.A[0][0] == pytest.approx(direction / s.sigma, rel=1e-9)
        assert update.b[0] == pytest.approx(t.alpha - direction * s.alpha / s.sigma, rel=1e-9)
        assert (update.C[0][0] if eta else 0) == pytest.approx(spread, rel=1e-7)


def test_ddim_without_noise_is_euler(path: Path):
    for one, other in zip(
        compiled("ddim", path, 12, grid="karras").stages, compiled("euler", path, 12).stages, strict=True
    ):
        assert one.update.A[0] == pytest.approx(other.update.A[0], rel=1e-9)
        assert one.update.b == pytest.approx(other.update.b, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("solver", SOLVERS)
def test_rows(solver: str, steps: int):
    entry, plan = steering.solvers[solver], compiled(solver, PATHS["edm"], steps)
    assert plan.steps == steps
    assert plan.rows == len(plan.stages) == ROWS.get(solver, lambda steps: entry.rows_per_step * steps)(steps)
    assert plan.rows == pytest.approx(entry.rows_per_step * steps, abs=entry.rows_per_step)
    assert [stage.index for stage in plan.stages] == list(range(plan.rows))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_plan_starts_and_ends_with_its_path(path: Path, solver: str):
    plan = compiled(solver, path, 6)
    assert (plan.nodes[0].t, plan.nodes[-1].t) == (path.t_max, path.t_min)
    assert (plan.stages[0].t, plan.stages[-1].update.to.t) == (path.t_max, path.t_min)
    for before, after in pairwise(plan.stages):
        assert before.update.to == after.update.at


@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_is_used_when_asked_for(solver: str):
    entry = steering.solvers[solver]
    assert not compiled(solver, PATHS["edm"], 4).uses_noise or entry.uses_noise
    if entry.takes_eta:
        assert compiled(solver, PATHS["edm"], 4, eta=0.5).uses_noise


def test_the_table_is_what_the_contract_says():
    assert set(SOLVERS) >= {"ddim", "euler", "heun", "dpmpp_2m"}
    for name, solver in steering.solvers.items():
        assert solver.name == name
        assert solver.order >= 1
        assert solver.rows_per_step >= 1
        assert "arXiv" in solver.reference


def test_a_plan_prints_its_matrices():
    text = str(compiled("ddim", PATHS["edm"], 3, eta=1.0, grid="logsnr"))
    assert text.startswith("ddim: 3 steps, 3 rows, order 1, eta 1.0, grid logsnr\n")
    assert text.count("A=") == text.count("C=") == 3


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"solver": "rk4"}, r"unknown solver 'rk4' \(did you mean 'rk45'\?\): expected one of .*ddim, .*euler, .*heun"),
        ({"steps": 0}, "steps: expected an integer in 1..1000, got 0"),
        ({"steps": -3}, "steps: expected an integer in 1..1000, got -3"),
        ({"steps": 1001}, "steps: expected an integer in 1..1000, got 1001"),
        ({"steps": 20.0}, "steps: expected an integer in 1..1000, got 20.0"),
        ({"steps": True}, "steps: expected an integer in 1..1000, got True"),
        ({"steps": "20"}, "steps: expected an integer in 1..1000, got '20'"),
        ({"eta": -0.1}, "eta: expected a number in 0..100, got -0.1"),
        ({"eta": math.inf}, "eta: expected a number in 0..100, got inf"),
        ({"eta": math.nan}, "eta: expected a number in 0..100, got nan"),
        ({"eta": 5.0}, "eta: expected at most .*, got 5.0"),
        ({"solver": "heun", "eta": 0.5}, "'heun' takes eta 0 only, got 0.5; with eta above 0: .*ddim, dpmpp_2m"),
        ({"solver": "euler", "eta": 0.5}, "'euler' takes eta 0 only"),
        ({"prediction": "noise"}, "unknown prediction 'noise'"),
        ({"preconditioning": "vp"}, "unknown preconditioning 'vp'"),
        ({"grid": "cosine"}, "unknown grid 'cosine'"),
    ],
)
def test_what_cannot_be_compiled_is_refused(changes: dict[str, Any], complaint: str):
    arguments: dict[str, Any] = {"solver": "ddim", "path": PATHS["vp_cosine"], "steps": 20, "prediction": "eps"}
    steering.plan(**arguments)  # a plan in the cache excuses nothing
    steering.plan(**arguments | {"steps": 1})
    with pytest.raises(PlanError, match=complaint):
        steering.plan(**arguments | changes)


def test_equal_arguments_give_one_cached_plan():
    arguments: dict[str, Any] = {"path": steering.paths.edm(), "steps": 20, "prediction": "x0"}
    plan = steering.plan("ddim", **arguments)
    assert steering.plan("ddim", **arguments | {"path": steering.paths.edm()}) is plan
    assert steering.plan("ddim", **arguments, eta=0) is plan
    assert steering.plan("ddim", **arguments, eta=1.0) is not plan
    times = [80.0, 1.0, 0.002]
    explicit = steering.plan("ddim", path=steering.paths.edm(), steps=2, prediction="x0", grid=times)
    assert steering.plan("ddim", path=steering.paths.edm(), steps=2, prediction="x0", grid=tuple(times)) is explicit
