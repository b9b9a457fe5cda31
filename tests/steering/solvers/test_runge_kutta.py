"""Butcher tableaux: their order conditions, and what the compiler makes of them in any coordinates of the flow."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import steering
from steering.paths import Path
from steering.plans.compile import compile_plan
from steering.plans.plan import Course, Solver, nodes_at
from steering.solvers.coordinates import ANGLE, RHO, TIME, Coordinates
from steering.solvers.runge_kutta import EULER, HEUN, KUTTA3, MIDPOINT, RK4, Tableau, updates

from ..conftest import PATHS
from ..test_solvers import MIXTURE, law, reference, slopes, start

COORDINATES = {"rho": RHO, "time": TIME, "angle": ANGLE}


@pytest.mark.parametrize(("tableau", "order"), [(EULER, 1), (MIDPOINT, 2), (HEUN, 2), (KUTTA3, 3), (RK4, 4)])
def test_a_tableau_meets_the_conditions_of_its_order_and_not_of_the_next(tableau: Tableau, order: int):
    """Rooted trees up to order 4 (Hairer, Norsett & Wanner, Solving ODEs I, section II.2)."""
    size = len(tableau.c)
    a = torch.zeros(size + 1, size, dtype=torch.float64)
    for i, row in enumerate(tableau.a, 1):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    a, b, c = a[:-1], a[-1], torch.tensor(tableau.c, dtype=torch.float64)
    assert torch.allclose(a.sum(1), c)
    trees: dict[int, list[tuple[Tensor, float]]] = {
        1: [(b.sum(), 1)],
        2: [(b @ c, 1 / 2)],
        3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
        4: [(b @ c**3, 1 / 4), (b @ (c * (a @ c)), 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)],
    }
    met = [all(abs(float(got) - wanted) < 1e-14 for got, wanted in trees[k]) for k in trees]
    assert met == [k <= order for k in trees]


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_slopes_are_those_of_the_flow_through_a_point(path: Path, coordinates: str):
    """x = alpha c + sigma e flows to alpha' c + sigma' e; D is c all along it."""
    chosen, c, e, step = COORDINATES[coordinates], 0.7, -1.3, 1e-6
    middle = path.t_min + (path.t_max - path.t_min) * torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x = path.alpha(middle) * c + path.sigma(middle) * e
    course = Course(path, nodes_at(path, middle))
    sides = []
    for sign in (-1, 1):
        t = middle * (1 + sign * step)
        points = chosen.points(course, nodes_at(path, t))
        scale = torch.tensor([point.scale for point in points], dtype=torch.float64)
        tau = torch.tensor([point.tau for point in points], dtype=torch.float64)
        sides.append(((path.alpha(t) * c + path.sigma(t) * e) / scale, tau))
    (y0, tau0), (y1, tau1) = sides
    slope = [point.state * float(state) + point.data * c for point, state in zip(chosen.points(course), x, strict=True)]
    assert slope == pytest.approx(((y1 - y0) / (tau1 - tau0)).tolist(), rel=1e-6)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_inner_points_lie_at_their_fraction_of_tau(path: Path, coordinates: str):
    chosen = COORDINATES[coordinates]
    course = Course(path, nodes_at(path, torch.linspace(path.t_max, path.t_min, 5, dtype=torch.float64)))
    points = chosen.points(course)
    for (s, t), inner in zip(pairwise(points), chosen.inside(course, points, 0.3), strict=True):
        assert inner.tau == pytest.approx(s.tau + 0.3 * (t.tau - s.tau), rel=1e-9)


@pytest.mark.parametrize("coordinates", [TIME, ANGLE], ids=["time", "angle"])
def test_a_tableau_keeps_its_order_in_other_coordinates(coordinates: Coordinates):
    entry = Solver(
        name="other",
        order=4,
        rows_per_step=4,
        reference="",
        default_grid="uniform",
        updates=partial(updates, RK4, coordinates),
    )
    path, errors = PATHS["vp_cosine"], []
    for steps in (10, 20, 40):
        plan = compile_plan({"other": entry}, "other", path=path, steps=steps, prediction="x0")
        x = steering.run(plan, MIXTURE.network(path), (16, 2), x_init=start(path, 2), dtype=torch.float64)
        errors.append(float((x - reference(path)).norm()))
    assert slopes(errors) == pytest.approx([4, 4], abs=0.3)


@pytest.mark.parametrize("name", ["rho_midpoint", "rho_heun", "rho_kutta3", "rho_rk4"])
def test_a_constant_denoiser_is_followed_exactly_in_rho(path: Path, name: str):
    """eps is constant too, and so the slope."""
    lower, upper = path.time_of_log_snr(torch.tensor([3.0, -2.0], dtype=torch.float64)).tolist()
    for steps in (1, 3):
        plan = steering.plan(name, path=path.between(lower, upper), steps=steps, prediction="x0")
        last = plan.nodes[-1]
        mean, variance = law(plan, m=3.0, v=0.0)
        assert mean == pytest.approx(3 * last.alpha, rel=1e-9)
        assert variance == pytest.approx(last.sigma**2, rel=1e-6)


def test_rho_heun_is_heun_but_for_the_last_step(path: Path):
    ours, edms = (
        steering.plan(name, path=path, steps=6, prediction="x0", grid="karras").stages for name in ("rho_heun", "heun")
    )
    assert len(ours) == len(edms) + 1
    for one, other in zip(ours[:-2], edms[:-1], strict=True):
        assert one.update.at == other.update.at
        assert one.update.b == pytest.approx(other.update.b, rel=1e-9)
        for row, its in zip(one.update.A, other.update.A, strict=True):
            assert row == pytest.approx(its, rel=1e-9)


def test_the_midpoint_rule_has_no_leading_error_on_gaussian_data():
    """y'' = f_t + f_y f etc. for f = rho y / (v + rho^2): the terms of h^3 in the local error cancel, so order 3."""
    errors, v = [], 0.25
    for steps in (40, 80, 160):
        plan = steering.plan("rho_midpoint", path=PATHS["edm"], steps=steps, prediction="x0")
        last = plan.nodes[-1]
        errors.append(abs(law(plan, 0.0, v)[1] - (v + last.sigma**2)))
    assert slopes(errors) == pytest.approx([3, 3], abs=0.1)
    assert math.isclose(law(plan, 0.0, v)[1], v, rel_tol=1e-3)
