"""Steered chains against closed forms, sums over a fine grid, and plain paths."""

import math
from collections.abc import Callable, Generator, Mapping

import pytest
import torch
from torch import Tensor

from steering.dynamics import Ask, Reply
from steering.dynamics.doob import (
    METHODS,
    Aim,
    Chain,
    Grid,
    Settings,
    Steered,
    Weighted,
    by_splitting,
    learnt,
    nodes,
    on_grid,
    plain,
    steer,
    steered,
)
from steering.dynamics.doob.log_h import Judged
from steering.dynamics.doob.twisted import twisted
from steering.errors import PlanError, SteeringError
from steering.sampling.rows import answered

STEPS, DT = 20, 0.1
END = torch.tensor([0, STEPS])
SMALL = Settings(explorers=64, candidates=16)


def ou(y: Tensor, t: Tensor) -> dict[str, Tensor]:
    return {"drift": -y, "diffusion": torch.ones_like(y)}


def well(y: Tensor, t: Tensor) -> dict[str, Tensor]:
    """A double well in the first coordinate, Ornstein-Uhlenbeck in the others."""
    drift = -y.clone()
    drift[:, 0] = 4 * (y[:, 0] - y[:, 0] ** 3)
    return {"drift": drift, "diffusion": torch.full_like(y, 0.6)}


def first(y: Tensor) -> Tensor:
    return y[:, 0]


def answering(
    field: Callable[[Tensor, Tensor], Mapping[str, Tensor]], reward: Callable[[Tensor], Tensor] = first
) -> Callable[[Ask], Reply]:
    return lambda ask: field(ask.y, ask.t) if ask.part == "field" else {"reward": reward(ask.y)}


def chain(start: float = 0.0, steps: int = STEPS, dt: float = DT) -> Chain:
    return Chain(
        start=torch.tensor([start], dtype=torch.float64), times=dt * torch.arange(steps + 1, dtype=torch.float64)
    )


VARIANCE = DT * sum((1 - DT) ** (2 * j) for j in range(STEPS))
"""Of the Ornstein-Uhlenbeck chain's end, which is normal around 0."""


def beyond(a: float) -> float:
    return 0.5 * math.erfc(a / math.sqrt(2 * VARIANCE))


def well_probability(a: float, steps: int, dt: float) -> float:
    """Of the double well's chain from -1, by sums over a fine grid, which are exact for smooth densities."""
    x = torch.linspace(-3.0, 3.0, 1501, dtype=torch.float64)
    step, sd = float(x[1] - x[0]), 0.6 * math.sqrt(dt)
    mean = x + 4 * (x - x**3) * dt
    kernel = torch.exp(-((x[None] - mean[:, None]) ** 2) / (2 * sd**2)) * step / (sd * math.sqrt(2 * math.pi))
    h = torch.special.ndtr((mean - a) / sd)
    for _ in range(steps - 1):
        h = kernel @ h
    return float(h[500])


def estimates(found: list[Steered]) -> Tensor:
    return torch.tensor([math.exp(each.paths.log_normaliser) for each in found], dtype=torch.float64)


@pytest.mark.parametrize("coordinate", ["reward", "state"])
def test_a_rare_event_of_a_normal_law(coordinate: str) -> None:
    """P(y_T >= a) = 7e-4; 128 plain paths would see it in one of eleven runs."""
    a = 3.2 * math.sqrt(VARIANCE)
    found = [
        steer(ou, first, torch.zeros(1), [0.0, 2.0], dt=DT, threshold=a, n=128, seed=seed,
              settings=Settings(explorers=96, coordinate=coordinate))
        for seed in range(3)
    ]  # fmt: skip
    ratio = estimates(found) / beyond(a)
    assert abs(float(ratio.mean()) - 1) < 0.15
    assert float(ratio.std()) < 0.25
    for each in found:
        weighted = each.paths
        assert weighted.ess > 0.25 * 128
        assert float((weighted.s >= a).to(torch.float64).mean()) > 0.85
        assert 0.01 < weighted.relative_error < 0.4
        assert each.network_rows == 128 * STEPS


def test_an_exponential_tilt_of_a_normal_law() -> None:
    """exp(y / beta) moves a normal law by v / beta and leaves its variance; log E[w] = v / (2 beta^2)."""
    beta = 0.4
    found = [
        steer(ou, first, torch.zeros(1), [0.0, 2.0], dt=DT, beta=beta, n=128, seed=seed, settings=SMALL)
        for seed in range(4)
    ]
    ratio = estimates(found) / math.exp(VARIANCE / (2 * beta**2))
    assert abs(float(ratio.mean()) - 1) < 0.15
    weights = [torch.softmax(each.paths.log_weights, dim=0) for each in found]
    mean = sum(float((w * each.paths.s).sum()) for w, each in zip(weights, found, strict=True)) / len(found)
    assert abs(mean - VARIANCE / beta) < 0.12


def test_a_double_well() -> None:
    """Paths leave one well for the other; in 4 dimensions as in one, by the reward."""
    exact = well_probability(0.7, 40, 0.05)
    for d in (1, 4):
        start = torch.zeros(d)
        start[0] = -1.0
        found = [
            steer(well, first, start, [0.0, 1.0, 2.0], dt=0.05, threshold=0.7, n=128, seed=seed, settings=SMALL)
            for seed in range(2)
        ]
        assert exact < 4e-3
        assert abs(float((estimates(found) / exact).mean()) - 1) < 0.3
        paths = found[0].paths
        assert paths.y.shape == (128, 3, d)
        assert torch.equal(paths.y[:, 0], start.to(torch.float64).expand(128, d))
        assert torch.equal(paths.y[:, 2, 0], paths.s)


class Wrong:
    """An h that is far from any expectation, but above 0."""

    def __init__(self, aim: Aim) -> None:
        self.aim = aim

    def judge(self, k: int, y: Tensor, before: Tensor) -> Generator[Ask, Reply, Judged]:
        yield from ()
        s = y[:, 0]
        return Judged(self.aim.log_weight(s) if k == STEPS else torch.sin(3 * s) - 0.1 * k, s, s)

    def judge_start(self, y: Tensor, s: Tensor) -> Generator[Ask, Reply, Tensor]:
        yield from ()
        return torch.tensor([0.7], dtype=torch.float64)


@pytest.mark.parametrize("aim", [Aim(threshold=0.6), Aim(beta=0.8)], ids=["event", "tilt"])
def test_any_h_leaves_the_estimate_unbiased(aim: Aim) -> None:
    exact = beyond(0.6) if aim.threshold is not None else math.exp(VARIANCE / (2 * aim.beta**2))
    runs = [
        math.exp(answered(twisted(chain(), aim, Wrong(aim), 64, seed, END, 8), answering(ou)).log_normaliser)
        for seed in range(40)
    ]
    ratio = torch.tensor(runs) / exact
    error = float(ratio.std()) / math.sqrt(len(runs))
    assert error < 0.1
    assert abs(float(ratio.mean()) - 1) < 3 * error


def test_splitting_is_unbiased() -> None:
    steps, dt = 8, 0.25
    of, end = chain(steps=steps, dt=dt), torch.tensor([0, steps])
    variance = dt * sum((1 - dt) ** (2 * j) for j in range(steps))
    above = 0.5 * math.erfc(1.5 / math.sqrt(2 * variance))
    for aim, exact in ((Aim(threshold=1.5), above), (Aim(beta=0.7), math.exp(variance / 0.98))):
        runs = [
            math.exp(answered(by_splitting(of, aim, 32, seed, end), answering(ou)).log_normaliser) for seed in range(40)
        ]
        ratio = torch.tensor(runs) / exact
        assert abs(float(ratio.mean()) - 1) < 3 * float(ratio.std()) / math.sqrt(len(runs))


@pytest.mark.parametrize("over", ["max", "integral"])
def test_rewards_of_paths(over: str) -> None:
    """Against 20,000 plain paths."""
    for aim in (Aim(threshold=1.9, over=over), Aim(beta=0.5, over=over)):  # type: ignore[arg-type]
        reference = answered(plain(chain(), aim, 20_000, 1, END), answering(ou))
        run = answering(ou)
        runs = []
        for seed in range(2):
            log_h = answered(learnt(chain(), aim, seed, SMALL), run)
            runs.append(answered(steered(chain(), aim, log_h, 128, seed, END, SMALL), run))
        means = torch.tensor([math.exp(each.log_normaliser - reference.log_normaliser) for each in runs])
        assert abs(float(means.mean()) - 1) < 0.2, aim
        assert min(each.ess for each in runs) > 20


def test_a_grid_keeps_mass_and_knows_both_ways() -> None:
    """The Ornstein-Uhlenbeck equation's own law, in one dimension and two; densities forwards and h backwards agree."""
    for d in (1, 2):
        start = torch.zeros(d, dtype=torch.float64)
        of = Chain(start=start, times=torch.linspace(0, 1, 6, dtype=torch.float64))
        grid = Grid.over(torch.full((d,), -4.0), torch.full((d,), 4.0), (101,) * d)
        found = answered(on_grid(of, Aim(beta=1.0), grid, steady=True), answering(ou))
        variance = (1 - math.exp(-2)) / 2
        assert found.log_normaliser == pytest.approx(variance / 2, abs=2e-3)
        for k in (0, 2, 5):
            density = found.density(k)
            assert float(density.sum()) == pytest.approx(1, abs=2e-15 * density.numel() ** 0.5)
            assert float(density.min()) >= 0
            total = float((density * found.h[k]).sum().log()) + found.scale
            assert total == pytest.approx(found.log_normaliser, abs=1e-12)


def test_a_grid_steers() -> None:
    exact = well_probability(0.7, 40, 0.05)
    settings = Settings(explorers=96, coordinate="grid", steady=True)
    found = steer(well, first, -torch.ones(1), [0.0, 2.0], dt=0.05, threshold=0.7, n=128, settings=settings)
    assert math.exp(found.paths.log_normaliser) == pytest.approx(exact, rel=0.15)
    assert found.paths.ess > 64


def test_neither_company_nor_the_size_of_answers_matters() -> None:
    """Answered one row at a time, the same bits come out; the fit's seed is not the paths'."""
    aim, of = Aim(threshold=1.5), chain()

    def one_by_one(ask: Ask) -> Reply:
        whole = answering(ou)
        rows = [whole(Ask(ask.part, ask.index[i : i + 1], ask.y[i : i + 1], ask.t[i : i + 1])) for i in range(len(ask))]
        return {role: torch.cat([row[role] for row in rows]) for role in rows[0]}

    settings = Settings(explorers=16, refreshes=0, candidates=8)
    runs = [
        answered(steered(of, aim, answered(learnt(of, aim, 3, settings), by), 16, 4, END, settings), by)
        for by in (answering(ou), one_by_one)
    ]
    assert torch.equal(runs[0].y, runs[1].y)
    assert torch.equal(runs[0].log_weights, runs[1].log_weights)


def test_a_network_can_be_the_coordinate() -> None:
    a = 2.5 * math.sqrt(VARIANCE)
    settings = Settings(explorers=96, coordinate="network")
    found = [
        steer(ou, first, torch.zeros(1), [0.0, 2.0], dt=DT, threshold=a, n=128, settings=settings, seed=seed,
              coordinate=lambda y: torch.tanh(y[:, 0] / 4))
        for seed in range(3)
    ]  # fmt: skip
    assert abs(float((estimates(found) / beyond(a)).mean()) - 1) < 0.2
    with pytest.raises(SteeringError, match="expected a function coordinate"):
        steer(ou, first, torch.zeros(1), [0.0, 2.0], dt=DT, settings=settings)


def test_paths_that_fail_have_no_weight() -> None:
    """A drift that is NaN beyond 0.5 ends these paths; the others go on, by every method."""

    def broken(y: Tensor, t: Tensor) -> dict[str, Tensor]:
        return {"drift": torch.where(y > 0.5, torch.nan, -y), "diffusion": torch.ones_like(y)}

    for method in METHODS:
        found = steer(
            broken, lambda y: -y[:, 0].abs(), torch.zeros(1), [0.0, 2.0], dt=DT, method=method, settings=SMALL
        )
        assert bool(found.paths.y.isfinite().all())
        assert bool((found.paths.log_weights[found.paths.failed] == -torch.inf).all())
        assert 0 < math.exp(found.paths.log_normaliser) < 1


def test_noise_of_every_law_and_form() -> None:
    """A geometric motion keeps its sign; a matrix of noise and one source for all are read as the schemes read them."""
    tilt = {"dt": DT, "beta": 2.0, "n": 32, "settings": SMALL}
    one = torch.ones(2)
    geometric = steer(
        lambda y, t: {"drift": torch.full_like(y, 0.1), "diffusion": torch.full_like(y, 0.8)}, first, one, [0.0, 2.0],
        form="geometric", **tilt,  # type: ignore[arg-type]
    )  # fmt: skip
    assert bool((geometric.paths.y > 0).all())
    scalar = steer(
        lambda y, t: {"drift": 0 * y, "diffusion": torch.ones(len(y), 1, dtype=y.dtype)}, first, one, [0.0, 2.0],
        noise="scalar", **tilt,  # type: ignore[arg-type]
    )  # fmt: skip
    assert torch.allclose(scalar.paths.y[..., 0], scalar.paths.y[..., 1])
    matrix = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    general = steer(
        lambda y, t: {"drift": 0 * y, "diffusion": matrix.expand(len(y), 2, 3)}, first, one, [0.0, 2.0],
        noise="general", **tilt,  # type: ignore[arg-type]
    )  # fmt: skip
    assert torch.equal(general.paths.y[..., 1], torch.ones(32, 2, dtype=torch.float64))
    assert general.paths.log_normaliser == pytest.approx(1 / 2 + 2 / 8, abs=0.1)  # y_T is normal around 1, variance 2


def test_nodes() -> None:
    times, kept = nodes(torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64), 0.1)
    assert len(times) == 12
    assert torch.equal(times[kept], torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    assert float(times.diff().max()) <= 0.1 + 1e-12
    times, _ = nodes(torch.tensor([0.0, 0.3], dtype=torch.float64), 0.1)
    assert len(times) == 4  # 3 * 0.1 is 0.3
    for bad, dt, why in (
        ([0.0, -1.0], 0.1, "rising"),
        ([0.0], 0.1, "two"),
        ([0.0, 1.0], 0.0, "> 0"),
        ([0, 1], 1e-9, "st"),
    ):
        with pytest.raises(PlanError, match=why):
            nodes(torch.tensor(bad, dtype=torch.float64), dt)


def test_what_cannot_be_steered_is_said() -> None:
    for settings, why in (({"coordinate": "rewards"}, "did you mean 'reward'"), ({"candidates": 6}, "multiple of 4")):
        with pytest.raises(SteeringError, match=why):
            Settings(**settings)
    with pytest.raises(SteeringError, match="beta"):
        Aim(beta=0.0)
    with pytest.raises(SteeringError, match="NaN"):
        steer(ou, lambda y: y[:, 0] * torch.nan, torch.zeros(1), [0.0, 1.0], dt=DT)
    never = steer(ou, first, torch.zeros(1), [0.0, 0.2], dt=DT, threshold=1e6, n=16, settings=SMALL)
    assert never.paths.log_normaliser == -math.inf
    assert never.paths.ess == 0


def test_weights_tell_their_error() -> None:
    """Islands that agree have none; one alone cannot say."""
    logs = torch.zeros(8, dtype=torch.float64)
    y, s = torch.zeros(8, 1, 1, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    whole = torch.zeros(8, dtype=torch.bool)
    assert Weighted(y, s, logs, whole, 4).relative_error == 0
    assert math.isnan(Weighted(y, s, logs, whole, 1).relative_error)
    assert Weighted(y, s, torch.tensor([0.0, -torch.inf] * 4, dtype=torch.float64), whole, 2).ess == 4
