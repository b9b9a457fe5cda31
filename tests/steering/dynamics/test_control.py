"""Controlled equations: paths of observations, solutions in closed form, orders, bits, errors."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.dynamics import SOLVERS, Ask, Event, solve
from steering.dynamics.control import Control, control
from steering.dynamics.problem import pose
from steering.errors import PlanError
from steering.sampling.rows import answered

NAN = math.nan


def doubles(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


T = doubles([0.0, 0.5, 0.9, 2.0])
X = doubles([[0.0, 1.0], [0.5, 3.0], [0.9, -1.0], [2.0, 0.5]])


def identity(y: Tensor, t: Tensor, dx: Tensor) -> Tensor:
    """dy = dX: y goes along the path itself."""
    return dx


def rotation(y: Tensor, t: Tensor, dx: Tensor) -> Tensor:
    """dy_1 = -y_2 dX_1, dy_2 = y_1 dX_1: y turns by what the first channel changes, in whatever way."""
    return torch.stack([-y[:, 1], y[:, 0]], 1) * dx[:, 1:2]


@pytest.mark.parametrize("interpolation", ["hermite", "rectilinear"])
@pytest.mark.parametrize("solver", ["tsit5", "rk4", "euler", "esdirk4"])
def test_the_state_follows_the_path_through_its_observations(interpolation: str, solver: str) -> None:
    y = solve(
        identity, X[:, 0], T[0], solver=solver, kind="cde", control=control(T, X, interpolation), dt=0.01, rtol=1e-8,
        atol=1e-8,
    ).y  # fmt: skip
    assert torch.allclose(y, X, atol=0.15 if solver == "euler" else 1e-6)


def test_hermite_between_observations() -> None:
    """The cubic piece of slopes by backward differences, by hand: from 3 at 0.5 with slope 4 to -1 at 0.9."""
    times = torch.tensor([0.0, 0.6, 0.7], dtype=torch.float64)
    y = solve(identity, X[:, 0], times, kind="cde", control=control(T, X), rtol=1e-10, atol=1e-10).y[0, :, 1]
    for k, time in enumerate((0.6, 0.7), 1):
        p, h = (time - 0.5) / 0.4, 0.4
        by_hand = (
            (2 * p**3 - 3 * p**2 + 1) * 3 + (p**3 - 2 * p**2 + p) * h * 4
            + (-2 * p**3 + 3 * p**2) * -1 + (p**3 - p**2) * h * -10
        )  # fmt: skip
        assert float(y[k]) == pytest.approx(by_hand, abs=1e-8)


def test_what_comes_later_changes_nothing_before() -> None:
    other = X.clone()
    other[:, 3] = 100
    for interpolation in ("hermite", "rectilinear"):
        y = [
            solve(rotation, doubles([1.0, 0.0]), [0.0, 0.3, 0.9], solver="rk4", dt=0.05, kind="cde",
                  control=control(T, x, interpolation)).y
            for x in (X, other)
        ]  # fmt: skip
        assert torch.equal(*y)


@pytest.mark.parametrize("interpolation", ["hermite", "rectilinear"])
def test_orders_along_a_path_with_corners(interpolation: str) -> None:
    """The turned angle depends on the path's ends alone; steps end at its observations, so RK4 keeps its order."""
    exact = doubles([math.cos(-0.5), math.sin(-0.5)])
    errors = [
        float(
            (solve(rotation, doubles([1.0, 0.0]), [0.0, 2.0], solver="rk4", dt=dt, kind="cde",
                   control=control(T, X, interpolation)).y[:, 1] - exact).abs().max()
        )
        for dt in (0.04, 0.02)
    ]  # fmt: skip
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.8)


def test_rectilinear_keeps_values_until_they_are_seen() -> None:
    y = solve(
        identity, X[:, 0], [0.0, 0.25, 0.49999, 0.5, 0.7, 1.9, 2.0], kind="cde", rtol=1e-9, atol=1e-9,
        control=control(T, X, "rectilinear"),
    ).y[0]  # fmt: skip
    assert torch.allclose(y[:, 0], doubles(0.0, 0.25, 0.49999, 0.5, 0.7, 1.9, 2.0), atol=1e-7)
    assert torch.allclose(y[:, 1], doubles(1.0, 1.0, 1.0, 3.0, 3.0, -1.0, 0.5), atol=1e-6)


def test_the_field_sees_the_paths_time() -> None:
    seen: list[Tensor] = []

    def field(y: Tensor, t: Tensor, dx: Tensor) -> Tensor:
        seen.append(t)
        return dx

    for interpolation in ("hermite", "rectilinear"):
        solution = solve(field, X[:, 0], [0.5, 2.0], kind="cde", control=control(T, X, interpolation), solver="rk4")
        assert float(torch.cat(seen).min()) >= 0.5
        assert float(torch.cat(seen).max()) <= 2.0
        assert float(solution.t_last[0]) == 2.0


def test_missing_values() -> None:
    x = X.clone()
    x[0, 1, 1] = NAN
    line = X.clone()
    line[0, 1, 1] = 1 + (-1 - 1) * 0.5 / 0.9
    assert torch.allclose(torch.from_numpy(control(T, x).values), line)
    held = X.clone()
    held[0, 1, 1] = 1.0
    assert torch.equal(torch.from_numpy(control(T, x, "rectilinear").values), held)
    x[:, :, 1] = NAN
    assert torch.equal(torch.from_numpy(control(T, x).values)[..., 1], torch.zeros(1, 4, dtype=torch.float64))
    x[0, 2, 1] = 7.0
    assert torch.equal(torch.from_numpy(control(T, x).values)[..., 1], torch.full((1, 4), 7.0, dtype=torch.float64))


def test_rows_with_fewer_observations() -> None:
    times = torch.cat([T, doubles([0.0, 0.7, NAN, NAN])])
    values = torch.cat([X, X])
    solution = solve(
        rotation, doubles([1.0, 0.0]).expand(2, 2), doubles([0.0, 2.0], [0.0, 0.7]), solver="rk4", dt=0.1, kind="cde",
        control=control(times, values),
    )  # fmt: skip
    alone = solve(
        rotation, doubles([1.0, 0.0]), [0.0, 0.7], solver="rk4", dt=0.1, kind="cde",
        control=control(times[1:, :2], values[1:, :2]),
    )  # fmt: skip
    assert torch.equal(solution.y[1], alone.y[0])
    with pytest.raises(PlanError, match=r"from 0 to 2, got them from 0 to 0\.7 in row 1"):
        solve(rotation, doubles([1.0, 0.0]).expand(2, 2), [0.0, 2.0], kind="cde", control=control(times, values))


def test_there_and_back() -> None:
    for interpolation in ("hermite", "rectilinear"):
        words: dict[str, Any] = {"kind": "cde", "control": control(T, X, interpolation), "rtol": 1e-6, "atol": 1e-6}
        there = solve(rotation, doubles([1.0, 0.0]), [0.2, 1.7], **words).y[:, 1]
        back = solve(rotation, there, [1.7, 0.2], **words).y[:, 1]
        assert torch.allclose(back, doubles([1.0, 0.0]), atol=1e-3)


@settings(max_examples=5, deadline=None)
@given(
    st.sampled_from(["tsit5", "rk4"]), st.sampled_from(["hermite", "rectilinear"]), st.integers(2, 5),
    st.integers(1, 6), st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_row_alone_is_a_row_in_company(solver: str, interpolation: str, n: int, length: int, random: object) -> None:
    generator = torch.Generator().manual_seed(random.randrange(2**31))  # type: ignore[attr-defined]
    times = torch.rand(n, length, dtype=torch.float64, generator=generator).cumsum(dim=1) + 0.01
    times[:, 0] = 0
    values = torch.randn(n, length, 3, dtype=torch.float64, generator=generator)
    values[torch.rand(n, length, 3, generator=generator) < 0.3] = NAN
    asked = torch.linspace(0, 1, 3, dtype=torch.float64) * times[:, -1:]

    def field(y: Tensor, t: Tensor, dx: Tensor) -> Tensor:
        return torch.stack([torch.sin(y[:, 1]) * dx[:, 0], torch.cos(t) * dx[:, 1] + y[:, 0] * dx[:, 2]], 1)

    words = {"solver": solver, "kind": "cde", "dt": 0.3} if solver == "rk4" else {"solver": solver, "kind": "cde"}
    path = control(times, values, interpolation)
    together = solve(field, torch.zeros(n, 2), asked, control=path, **words)
    for i in range(n):
        path = control(times[i : i + 1], values[i : i + 1], interpolation)
        alone = solve(field, torch.zeros(1, 2), asked[i : i + 1], control=path, **words)
        assert torch.equal(alone.y[0], together.y[i])


@pytest.mark.parametrize("solver", ["tsit5", "rk4"])
def test_saved_states_are_told_by_the_positions_asked_for(solver: str) -> None:
    asked = [0.0, 0.3, 1.0, 2.0]
    what = pose(SOLVERS[solver], X[:, 0], asked, kind="cde", control=control(T, X, "rectilinear"), show=True, dt=0.1)
    told: dict[int, Tensor] = {}

    def answer(ask: Ask) -> dict[str, Tensor]:
        if ask.part == "saved":
            for position, t, y in zip(ask.extra["position"].tolist(), ask.t.tolist(), ask.y, strict=True):
                told[position] = y
                assert t == asked[position]
            return {}
        return {"drift": ask.extra["dx"]}

    y = answered(SOLVERS[solver].program(what), answer).y[0]
    assert sorted(told) == [0, 1, 2, 3]
    assert all(torch.equal(told[k], y[k]) for k in told)


def test_events_have_the_paths_time() -> None:
    solution = solve(
        identity, X[:, 0], [0.0, 2.0], kind="cde", control=control(T, X, "rectilinear"), rtol=1e-9, atol=1e-9,
        events=[Event(coordinate=0, level=0.7)],
    )  # fmt: skip
    assert float(solution.t_event[0, 0]) == pytest.approx(0.7, abs=1e-7)


@pytest.mark.parametrize(
    ("times", "values", "message"),
    [
        (T, X[0], "control: expected shape"),
        (T[:, :3], X, r"control_t: expected shape \[n, 4\]"),
        (doubles([0.0, 0.5, 0.5, 1.0]), X, "control_t: expected rising times, got others in row 0"),
        (doubles([0.0, NAN, 0.5, 1.0]), X, "NaN only after a row's last"),
        (doubles([NAN, NAN, NAN, NAN]), X, "NaN only after a row's last"),
        (doubles([0.0, 0.5, 0.7, math.inf]), X, "finite times"),
        (T, X * math.inf, "got infinity"),
        (T.expand(2, -1), X.expand(3, -1, -1), "expected 3 rows or 1, got 2"),
    ],
)
def test_what_is_no_control(times: Tensor, values: Tensor, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        control(times, values)


@pytest.mark.parametrize(
    ("path", "times", "message"),
    [
        (control(T, X), [0.0, 2.5], "for all of t_eval, from 0 to 2.5, got them from 0 to 2"),
        (control(T, X), [-0.5, 1.0], "expected observations for all of t_eval"),
        (control(T, X), [2.5, 1.0], "expected observations for all of t_eval"),
        (None, [0.0, 1.0], "control: expected observations beside kind cde, got none"),
        (control(T, X, n=3), [0.0, 1.0], "control: expected 1 rows, got 3"),
    ],
)  # fmt: skip
def test_controls_that_do_not_fit(path: Control | None, times: list[float], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        solve(identity, X[:, 0], times, kind="cde", control=path)
    with pytest.raises(PlanError, match="unknown interpolation"):
        control(T, X, "linear")


def test_one_path_for_all_rows_is_kept_once() -> None:
    y0 = doubles([1.0, 0.0]).expand(3, 2)
    for interpolation in ("hermite", "rectilinear"):
        shared = control(T, X, interpolation, n=3)
        assert shared.values.shape[0] == 1
        times = doubles([0.0, 1.0], [0.0, 2.0], [0.5, 0.9])
        y = solve(rotation, y0, times, solver="rk4", dt=0.1, kind="cde", control=shared).y
        each = control(T.expand(3, -1), X.expand(3, -1, -1), interpolation)
        assert torch.equal(y, solve(rotation, y0, times, solver="rk4", dt=0.1, kind="cde", control=each).y)
