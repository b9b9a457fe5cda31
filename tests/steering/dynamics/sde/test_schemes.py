"""Schemes of SDEs: strong orders on known paths, laws in closed form, what forms keep, bits, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.dynamics import SOLVERS, Solution, Status, solve
from steering.dynamics.brownian import BrownianPaths
from steering.dynamics.sde.euler_maruyama import chain
from steering.errors import NetworkError, PlanError

DRIFT, NOISE = 0.5, 0.8
ROWS = 200
SCHEMES = ["euler_maruyama", "milstein", "stochastic_heun", "reversible_heun"]


def ito(y: Tensor, t: Tensor) -> dict[str, Tensor]:
    return {"drift": DRIFT * y, "diffusion": NOISE * y}


def stratonovich(y: Tensor, t: Tensor) -> dict[str, Tensor]:
    return {"drift": (DRIFT - NOISE**2 / 2) * y, "diffusion": NOISE * y}


def linear(y: Tensor, t: Tensor) -> dict[str, Tensor]:
    return {"drift": DRIFT * y, "diffusion": torch.full_like(y, NOISE)}


def geometric(y: Tensor, t: Tensor) -> dict[str, Tensor]:
    return {"drift": torch.full_like(y, DRIFT), "diffusion": torch.full_like(y, NOISE)}


def ornstein(y: Tensor, t: Tensor) -> dict[str, Tensor]:
    return {"drift": -y, "diffusion": torch.ones_like(y)}


def matrix(y: Tensor, t: Tensor) -> dict[str, Tensor]:
    """dy_1 = y_2 dW_1, dy_2 = y_1 dW_2 besides the drift: noise that does not commute."""
    zero = torch.zeros_like(y[:, 0])
    rows = [torch.stack([y[:, 1], zero], 1), torch.stack([zero, y[:, 0]], 1)]
    return {"drift": -0.5 * y, "diffusion": torch.stack(rows, 1)}


def brownian(size: int, times: list[float], rows: int = ROWS, seed: int = 7) -> Tensor:
    zeros = torch.zeros(rows, dtype=torch.float64)
    return BrownianPaths(seed, range(rows), size, zeros, zeros + times[-1]).at(
        torch.arange(rows), torch.tensor(times, dtype=torch.float64).expand(rows, -1)
    )


def slope(errors: list[float]) -> float:
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


def solved(field: object, solver: str, y0: Tensor, times: list[float], **keywords: object) -> Solution:
    return solve(field, y0, times, solver=solver, kind="sde", seed=7, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("solver", "field", "words", "order"),
    [
        ("euler_maruyama", ito, {}, 0.5),
        ("milstein", ito, {}, 1),
        ("milstein", ito, {"noise": "scalar"}, 1),
        ("stochastic_heun", stratonovich, {"calculus": "stratonovich"}, 1),
        ("reversible_heun", stratonovich, {"calculus": "stratonovich"}, 1),
        ("euler_maruyama", linear, {"form": "linear"}, 1),
    ],
)
def test_strong_orders(solver: str, field: object, words: dict[str, str], order: float) -> None:
    """Of geometric Brownian motion, along paths that are known."""
    size = 1 if words.get("noise") == "scalar" else 2
    exact = torch.exp((DRIFT - NOISE**2 / 2) + NOISE * brownian(size, [1.0])[:, 0].expand(-1, 2))
    errors = errors_at_the_end(field, solver, exact, torch.ones(ROWS, 2), (8, 16, 32), **words)
    assert slope(errors) == pytest.approx(order, abs=0.25)
    assert SOLVERS[solver].order == (0.5 if solver == "euler_maruyama" else 1)


def errors_at_the_end(
    field: object, solver: str, exact: Tensor, start: Tensor, steps: tuple[int, ...], **words: str
) -> list[float]:
    """Root mean square errors at time 1, for each number of steps."""
    ends = [solved(field, solver, start, [0, 1], dt=1 / count, **words).y[:, 1] for count in steps]
    return [float((end - exact).square().mean().sqrt()) for end in ends]


@pytest.fixture(scope="module")
def ornstein_exact() -> Tensor:
    """As far as 512 steps of order 1 go."""
    return solved(ornstein, "euler_maruyama", torch.ones(100, 1), [0, 1], dt=2**-9, noise="additive").y[:, 1]


@pytest.mark.parametrize("solver", SCHEMES)
def test_additive_noise_is_of_strong_order_one_in_either_calculus(solver: str, ornstein_exact: Tensor) -> None:
    calculus = "ito" if "heun" in solver else "stratonovich"
    errors = errors_at_the_end(
        ornstein, solver, ornstein_exact, torch.ones(100, 1), (4, 8, 16), noise="additive", calculus=calculus
    )
    assert slope(errors) > 0.9


def test_general_noise_is_of_strong_order_one_half() -> None:
    start = torch.tensor([[1.0, 0.5]]).expand(100, 2)
    fine = solved(matrix, "euler_maruyama", start, [0, 1], dt=2**-8, noise="general").y[:, 1]
    errors = errors_at_the_end(matrix, "euler_maruyama", fine, start, (4, 8, 16), noise="general")
    assert slope(errors) == pytest.approx(0.5, abs=0.25)


def test_weak_order_of_euler_maruyama() -> None:
    """|E y - exact| at the end of geometric Brownian motion; the martingale of the same paths takes the noise out."""
    rows = 1000
    martingale = torch.exp(NOISE * brownian(1, [1.0], rows)[:, 0, 0] - NOISE**2 / 2)
    biases = []
    for steps in (2, 4, 8):
        y = solved(ito, "euler_maruyama", torch.ones(rows, 1), [0, 1], dt=1 / steps).y[:, 1, 0]
        share = torch.cov(torch.stack([y, martingale]))[0, 1] / martingale.var()
        biases.append(abs(float((y - share * (martingale - 1)).mean()) - math.exp(DRIFT)))
    assert slope(biases) == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("solver", SCHEMES)
def test_the_law_of_ornstein_and_uhlenbeck(solver: str) -> None:
    times = [0.0, 0.3, 1.0]
    y = solved(ornstein, solver, torch.full((1000, 1), 2.0), times, dt=0.05, noise="additive").y[..., 0]
    for k, time in enumerate(times[1:], 1):
        variance = (1 - math.exp(-2 * time)) / 2
        assert float(y[:, k].mean()) == pytest.approx(2 * math.exp(-time), abs=5 * (variance / 1000) ** 0.5 + 0.05)
        assert float(y[:, k].var()) == pytest.approx(variance, rel=0.2)
    covariance = float(torch.cov(y[:, 1:].T)[0, 1])
    assert covariance == pytest.approx(math.exp(-0.7) * (1 - math.exp(-0.6)) / 2, abs=0.03)


def test_geometric_form_is_exact_and_keeps_signs() -> None:
    noise, start = 3.0, torch.tensor([[1.0, -1.0, 0.0]]).expand(ROWS, 3)

    def field(y: Tensor, t: Tensor) -> dict[str, Tensor]:
        return {"drift": torch.full_like(y, DRIFT), "diffusion": torch.full_like(y, noise)}

    y = solved(field, "euler_maruyama", start, [0, 1], dt=1 / 16, form="geometric").y[:, 1]
    exact = start * torch.exp(DRIFT - noise**2 / 2 + noise * brownian(3, [1.0])[:, 0])
    assert torch.allclose(y, exact, rtol=1e-9)

    def plain(y: Tensor, t: Tensor) -> dict[str, Tensor]:
        return {"drift": DRIFT * y, "diffusion": noise * y}

    flipped = solved(plain, "euler_maruyama", start, [0, 1], dt=1 / 16).y[:, 1] * start < 0
    assert float(flipped[:, :2].double().mean()) > 0.3
    strat = solved(field, "euler_maruyama", start, [0, 1], dt=1, form="geometric", calculus="stratonovich").y[:, 1]
    assert torch.allclose(strat, exact * math.exp(noise**2 / 2), rtol=1e-9)


@pytest.mark.parametrize("solver", SCHEMES)
def test_times_between_nodes_leave_the_chain_alone(solver: str) -> None:
    words = {"calculus": "stratonovich"} if "heun" in solver else {}
    field = stratonovich if words else ito
    few = solved(field, solver, torch.ones(5, 2), [0, 1], dt=0.1, **words)
    many = solved(field, solver, torch.ones(5, 2), [0, 0.05, 0.17, 0.3, 0.33, 0.33, 1], dt=0.1, **words)
    assert torch.equal(few.y[:, -1], many.y[:, -1])
    assert torch.equal(few.accepted, many.accepted)
    ends = solved(field, solver, torch.ones(5, 2), [0, 0.33], dt=0.1, **words)
    assert torch.allclose(ends.y[:, 1], many.y[:, 4], atol=5e-3)  # leaves of the shorter span are finer
    assert torch.equal(many.y[:, 4], many.y[:, 5])


def test_states_between_nodes_have_the_variance_of_their_time() -> None:
    y = solved(ornstein, "euler_maruyama", torch.zeros(1000, 1), [0, 0.45, 0.5], dt=0.25, noise="additive").y[..., 0]
    step = 0.75**2 * 0.25 + 0.25
    assert float(y[:, 2].var()) == pytest.approx(step, rel=0.2)
    assert float(y[:, 1].var()) == pytest.approx(0.8**2 * 0.25 + 0.2, rel=0.2)


@pytest.mark.parametrize("solver", ["stochastic_heun", "reversible_heun"])
def test_there_and_back_along_one_path(solver: str) -> None:
    start = torch.tensor([[1.0, -0.4]]).expand(50, 2)
    there = solved(stratonovich, solver, start, [0, 1], dt=1 / 64, calculus="stratonovich").y[:, -1]
    back = solved(stratonovich, solver, there, [1, 0], dt=1 / 64, calculus="stratonovich").y[:, -1]
    assert float((back - start).abs().mean()) < 0.02 < float((there - start).abs().mean())


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(SCHEMES),
    st.integers(1, 6),
    st.integers(1, 5),
    st.floats(0.03, 0.5),
    st.sampled_from(["additive", "diagonal", "scalar"]),
)
def test_a_row_alone_is_a_row_in_company(solver: str, n: int, size: int, dt: float, noise: str) -> None:
    def field(y: Tensor, t: Tensor) -> dict[str, Tensor]:
        g = torch.cos(t)[:, None].expand_as(y) if noise == "additive" else torch.sin(y)
        return {"drift": torch.tanh(y) - y, "diffusion": g}

    words = {"noise": noise, "calculus": "stratonovich" if "heun" in solver else "ito"}
    y0 = torch.linspace(-1, 2, n * size, dtype=torch.float64).reshape(n, size)
    times = torch.linspace(0, 1, 4, dtype=torch.float64) * torch.linspace(1, 3, n, dtype=torch.float64)[:, None]
    steps = torch.linspace(dt, 2 * dt, n, dtype=torch.float64)
    together = solve(field, y0, times, solver=solver, kind="sde", dt=steps, seed=3, **words)  # type: ignore[arg-type]
    for i in range(n):
        alone = solve(
            field, y0[i : i + 1], times[i : i + 1], solver=solver, kind="sde", dt=steps[i : i + 1], seed=3,
            indices=[i], **words,  # type: ignore[arg-type]
        )  # fmt: skip
        assert torch.equal(alone.y[0], together.y[i])
        assert int(alone.evaluations[0]) == int(together.evaluations[i])


def test_rows_that_fail_leave_the_others_alone() -> None:
    def field(y: Tensor, t: Tensor) -> dict[str, Tensor]:
        return {"drift": torch.where(y > 5, torch.nan, y), "diffusion": 0 * y}

    y0 = torch.tensor([[1.0], [math.nan], [4.0], [1.0]])
    times = torch.tensor([[0.0, 0.55, 1.0], [0.0, 0.55, 1.0], [0.0, 0.55, 1.0], [0.0, 5.0, 9.0]], dtype=torch.float64)
    solution = solve(field, y0, times, solver="euler_maruyama", kind="sde", dt=0.1, max_steps=12)
    assert solution.status.tolist() == [Status.OK, Status.NOT_FINITE, Status.NOT_FINITE, Status.MAX_STEPS]
    assert solution.y[0].isfinite().all()
    assert solution.y[:, -1, 0].isnan().tolist() == [False, True, True, True]
    alone = solve(field, y0[:1], times[:1], solver="euler_maruyama", kind="sde", dt=0.1)
    assert torch.equal(alone.y[0], solution.y[0])


def test_one_step_from_each_time_to_the_next_without_dt() -> None:
    times = [0, 0.25, 0.25, 0.5, 1.0]
    dense = solved(ito, "milstein", torch.ones(3, 1), times)
    assert dense.accepted.tolist() == [3, 3, 3]
    assert torch.equal(dense.y[:, 1], dense.y[:, 2])
    gridded = solved(ito, "milstein", torch.ones(3, 1), [0, 0.25, 0.5, 0.75, 1], dt=0.25)
    assert torch.equal(dense.y[:, 3], gridded.y[:, 2])


def test_the_chain_is_what_euler_maruyama_draws() -> None:
    y0, times = torch.ones(4, 2, dtype=torch.float64), [0.0, 0.5, 1.0]
    whole = solved(ito, "euler_maruyama", y0, times).y
    dw = brownian(2, times, 4).diff(dim=1)
    y = y0
    for k in range(2):
        parts = ito(y, torch.zeros(4))
        y = chain(y, parts["drift"], parts["diffusion"], torch.full((4,), 0.5, dtype=torch.float64), dw[:, k])
        assert torch.equal(y, whole[:, k + 1])


@pytest.mark.parametrize(
    ("solver", "words", "message"),
    [
        ("euler_maruyama", {"calculus": "stratonovich"}, "expected calculus ito or additive noise"),
        ("milstein", {"calculus": "stratonovich"}, "expected calculus ito or additive noise"),
        ("milstein", {"noise": "general"}, "expected additive, diagonal or scalar noise, got general"),
        ("stochastic_heun", {}, "expected calculus stratonovich or additive noise, got ito"),
        ("reversible_heun", {"form": "geometric", "calculus": "stratonovich"}, "expected form plain or langevin"),
        ("euler_maruyama", {"noise": "pink"}, "unknown noise 'pink'"),
        ("euler_maruyama", {"form": "round"}, "unknown form"),
        ("euler_maruyama", {"calculus": "malliavin"}, "unknown calculus"),
    ],
)
def test_what_a_scheme_does_not_solve(solver: str, words: dict[str, str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        solved(ito, solver, torch.ones(1, 2), [0, 1], **words)


@pytest.mark.parametrize(
    ("noise", "shape"),
    [("diagonal", (3, 3)), ("general", (3, 2)), ("general", (3, 3, 2)), ("scalar", (3, 2, 4)), ("general", (3, 2, 0))],
)
def test_a_diffusion_of_another_shape(noise: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(NetworkError, match="diffusion: expected"):
        solved(
            lambda y, t: {"drift": y, "diffusion": torch.zeros(shape)},
            "euler_maruyama",
            torch.ones(3, 2),
            [0, 1],
            noise=noise,
        )


def test_a_field_without_diffusion() -> None:
    with pytest.raises(NetworkError, match="got no diffusion"):
        solved(lambda y, t: y, "euler_maruyama", torch.ones(3, 2), [0, 1])


def test_steps_far_longer_than_the_times_asked_for() -> None:
    long = solved(ornstein, "euler_maruyama", torch.ones(3, 2), [0, 1], dt=1e300, noise="additive")
    one = solved(ornstein, "euler_maruyama", torch.ones(3, 2), [0, 1], noise="additive")
    assert torch.equal(long.y, one.y)
    assert solved(ornstein, "milstein", torch.ones(2, 1), [3.0], dt=0.1).y.tolist() == [[[1.0]], [[1.0]]]


@pytest.mark.parametrize("solver", SCHEMES)
def test_all_rows_fail_at_once(solver: str) -> None:
    def field(y: Tensor, t: Tensor) -> dict[str, Tensor]:
        return {"drift": y * torch.inf, "diffusion": torch.ones_like(y)}

    solution = solved(field, solver, torch.ones(2, 2), [0, 0.05, 1], dt=0.1, noise="additive")
    assert solution.status.tolist() == [Status.NOT_FINITE] * 2
    assert solution.y[:, 1:].isnan().all()


def test_more_equal_times_than_steps_are_made_ready_at_once() -> None:
    times = [0.0, 0.5, *[0.6] * 300, 1.0]
    y = solved(ito, "euler_maruyama", torch.ones(2, 1), times).y
    assert torch.equal(y[:, -1], solved(ito, "euler_maruyama", torch.ones(2, 1), [0.0, 0.5, 0.6, 1.0]).y[:, -1])
    assert torch.equal(y[:, 2], y[:, 301])
