"""The offline driver: purity, conditions, what it costs, and what it refuses."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import baselines, paths, posteriors
from steering.errors import NetworkError
from steering.plans.plan import Plan
from steering.problems import GaussianMixture
from steering.sampling.rows import Rows
from steering.sampling.sampler import Steering, checked

PLANS = [("ddim", 0.0), ("ddim", 1.0), ("euler", 0.0), ("heun", 0.0), ("dpmpp_2m", 0.0), ("dpmpp_2m", 1.0)]


def compiled(solver: str = "dpmpp_2m", eta: float = 0.0, steps: int = 8, prediction: str = "eps") -> Plan:
    return steering.plan(solver, path=paths.vp_cosine(), steps=steps, prediction=prediction, eta=eta)


def perceptron(dimension: int, width: int = 96) -> Callable[..., Tensor]:
    """Matrix products, whose last bits depend on the number of rows a call gets."""
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(dimension, width, generator=g), torch.randn(width, dimension, generator=g) / width

    def network(x: Tensor, t: Tensor) -> Tensor:
        hidden = torch.tanh(x.flatten(1) @ first.to(x.dtype) + t[:, None])
        return (hidden @ second.to(x.dtype)).reshape(x.shape)

    return network


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("solver", "eta"), PLANS)
def test_the_first_rows_of_a_larger_run_are_the_smaller_run(solver: str, eta: float, dtype: torch.dtype):
    plan, network = compiled(solver, eta), perceptron(12)
    large = steering.run(plan, network, (37, 3, 4), seed=5, dtype=dtype)
    for n in (1, 2, 16, 17, 36):
        assert torch.equal(steering.run(plan, network, (n, 3, 4), seed=5, dtype=dtype), large[:n])


@pytest.mark.parametrize(("solver", "eta"), PLANS)
def test_a_run_is_a_function_of_its_seed(solver: str, eta: float):
    plan, network = compiled(solver, eta), perceptron(3)
    first = steering.run(plan, network, (20, 3), seed=1)
    assert torch.equal(steering.run(plan, network, (20, 3), seed=1), first)
    assert not torch.equal(steering.run(plan, network, (20, 3), seed=2), first)
    assert len({tuple(row) for row in first.tolist()}) == 20


def test_torchs_own_generator_is_neither_used_nor_moved():
    plan, network = compiled("ddim", 1.0), perceptron(3)
    torch.manual_seed(0)
    first, state = steering.run(plan, network, (4, 3)), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(steering.run(plan, network, (4, 3)), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tile_is_all_the_network_sees_and_none_is_one_call():
    calls: list[int] = []
    inner = perceptron(3)

    def network(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        calls.append(len(x))
        return inner(x, t)

    tiled = steering.run(compiled(steps=1), network, (20, 3), tile=8)
    assert calls == [8, 8, 8]
    calls.clear()
    whole = steering.run(compiled(steps=1), network, (20, 3), tile=None)
    assert calls == [20]
    torch.testing.assert_close(whole, tiled)


def test_the_network_gets_path_times_in_the_dtype_of_the_state():
    seen: list[tuple[float, torch.dtype]] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append((float(t[0]), t.dtype))
        return x

    plan = compiled(steps=3)
    for dtype in (torch.float32, torch.float64):
        seen.clear()
        assert steering.run(plan, network, (2, 3), dtype=dtype).dtype == dtype
        assert [t for t, _ in seen] == pytest.approx([stage.t for stage in plan.stages], rel=torch.finfo(dtype).eps)
        assert {kind for _, kind in seen} == {dtype}


def test_float64_is_honoured_end_to_end(mixture: GaussianMixture):
    """Single precision anywhere would show: the two runs agree to its 7 digits and not to more."""
    plan, network = compiled(prediction="x0"), mixture.network(paths.vp_cosine())
    double = steering.run(plan, network, (50, 2), dtype=torch.float64)
    shifted = steering.run(plan, lambda x, t: network(x, t) + 1e-12, (50, 2), dtype=torch.float64)
    single = steering.run(plan, network, (50, 2), dtype=torch.float32)
    assert double.dtype == torch.float64
    assert 1e-9 < float((double - single).abs().max()) < 1e-3
    assert 1e-13 < float((double - shifted).abs().max()) < 1e-10


def test_x_init_is_the_state_at_the_first_node():
    plan, network = compiled(), perceptron(3)
    x_init = torch.randn(20, 3)
    first = []

    def watched(x: Tensor, t: Tensor) -> Tensor:
        first.append(x.clone())
        return network(x, t)

    x = steering.run(plan, watched, (20, 3), seed=1, x_init=x_init, tile=None)
    assert torch.equal(first[0], x_init)
    assert torch.equal(steering.run(plan, watched, (20, 3), seed=2, x_init=x_init, tile=None), x)
    assert torch.equal(
        steering.run(plan, network, (7, 3), x_init=x_init[:7]), steering.run(plan, network, (20, 3), x_init=x_init)[:7]
    )


@pytest.mark.parametrize("name", ["vp_cosine", "edm", "rectified_flow"])
def test_without_x_init_the_first_state_is_noise_of_the_first_level(name: str):
    path = getattr(paths, name)()
    states = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        states.append(x.clone())
        return x

    steering.run(steering.plan("ddim", path=path, steps=1, prediction="x0"), network, (2000, 4), tile=None)
    assert float(states[0].std()) == pytest.approx(float(path.sigma(path.t_max)), rel=0.05)
    assert abs(float(states[0].mean())) < 0.06 * float(path.sigma(path.t_max))


# Conditions and classifier-free guidance.


def conditional(x: Tensor, t: Tensor, shift: Tensor, gain: Tensor) -> Tensor:
    return torch.tanh(x * gain[:, None]) + shift


CONDITION = {"shift": torch.linspace(-1, 1, 12).reshape(6, 2), "gain": torch.linspace(0.5, 1, 6)}
NULL = {"shift": torch.zeros(1, 2), "gain": torch.zeros(1)}


def test_each_sample_has_its_own_condition():
    plan = compiled(prediction="x0")
    together = steering.run(plan, conditional, (6, 2), condition=CONDITION)
    for i in range(6):
        same = {name: value[i : i + 1] for name, value in CONDITION.items()}
        broadcast = steering.run(plan, conditional, (6, 2), condition=same)
        assert torch.equal(broadcast[i], together[i])
    assert not torch.equal(broadcast[0], together[0])


@pytest.mark.parametrize("prediction", ["eps", "x0", "velocity"])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_extrapolates_from_the_null_condition(prediction: str, scale: float):
    plan = compiled(prediction=prediction)

    def combined(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        null = conditional(x, t, **{name: value.expand(len(x), *value.shape[1:]) for name, value in NULL.items()})
        return (1 - scale) * null + scale * conditional(x, t, **condition)

    common: dict[str, Any] = {"condition": CONDITION, "dtype": torch.float64}
    found, report = steering.run(plan, conditional, (6, 2), guidance=scale, null=NULL, report=True, **common)
    expected = steering.run(plan, combined, (6, 2), **common)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert report.network_rows == plan.rows * 6 * (1 if scale == 1 else 2)


def test_guidance_keeps_rows_pure():
    plan = compiled("ddim", 1.0, prediction="x0")
    common: dict[str, Any] = {"guidance": 2.0, "null": NULL}
    for n in (1, 4):
        few = {name: value[:n] for name, value in CONDITION.items()}
        smaller = steering.run(plan, conditional, (n, 2), condition=few, **common)
        assert torch.equal(smaller, steering.run(plan, conditional, (6, 2), condition=CONDITION, **common)[:n])


# Reports and refusals.


def test_an_unsteered_report_counts_network_rows_alone():
    for solver, eta in PLANS:
        plan = compiled(solver, eta)
        x, report = steering.run(plan, perceptron(3), (5, 3), report=True)
        assert x.shape == (5, 3)
        assert (report.network_rows, report.reward_rows, report.setup_rows, report.no_hit) == (plan.rows * 5, 0, 0, 0)
        assert report.rewards is None
        assert report.ess.numel() == 0
        assert not report.warnings


def test_finite_outputs_are_accepted_even_if_their_sum_is_not():
    rows = Rows.network(torch.zeros(2, 3), 0.5)
    large = torch.full((2, 3), 3e38)
    assert torch.equal(checked(large, rows), large)
    for bad in (math.nan, math.inf, -math.inf):
        large[1, 2] = bad
        with pytest.raises(NetworkError, match=r"expected finite output at t=0.5"):
            checked(large, rows)


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        (lambda x, t: x[:, :2], r"expected output of shape \[5, 3\], got \[5, 2\]"),
        (lambda x, t: x[:3], r"expected output of shape \[5, 3\], got \[3, 3\]"),
        (lambda x, t: x[:, None], r"expected output of shape \[5, 3\], got \[5, 1, 3\]"),
        (lambda x, t: x.sum(), r"expected output of shape \[5, 3\], got \[\]"),
        (lambda x, t: None, r"expected a tensor of shape \[5, 3\], got NoneType"),
        (lambda x, t: (x, t), r"expected a tensor of shape \[5, 3\], got tuple"),
        (lambda x, t: x * math.nan, r"expected finite output at t=0.9946, got NaN or infinity"),
        (lambda x, t: x / 0, r"expected finite output at t=0.9946, got NaN or infinity"),
    ],
)
@pytest.mark.parametrize("tile", [5, 16, None])
def test_a_bad_network_is_named_as_the_culprit(network, complaint: str, tile: int | None):
    with pytest.raises(NetworkError, match=f"network: {complaint}"):
        steering.run(compiled(), network, (5, 3), tile=tile)


def test_a_network_that_fails_late_is_caught_where_it_fails():
    plan = compiled()
    late = plan.stages[-1].t

    def network(x: Tensor, t: Tensor) -> Tensor:
        return x / (t[:, None] > late + 1e-4)

    with pytest.raises(NetworkError, match=f"at t={late:.6g}"):
        steering.run(plan, network, (5, 3))


def test_a_networks_own_exception_is_left_alone():
    def network(x: Tensor, t: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        steering.run(compiled(), network, (5, 3))


@pytest.mark.parametrize(
    ("shape", "arguments", "complaint"),
    [
        ((0, 3), {}, r"shape: .* got \(0, 3\)"),
        ((4, 0), {}, r"shape: .* got \(4, 0\)"),
        ((4,), {}, r"shape: expected \(samples, \*event\)"),
        ((4, 3), {"x_init": torch.zeros(3, 4)}, r"x_init: expected shape \[4, 3\], got \[3, 4\]"),
        ((4, 3), {"seed": -1}, "seed: expected an integer"),
        ((4, 3), {"guidance": 2.0}, "guidance: expected 1.0 without conditions, got 2.0"),
        (
            (4, 3),
            {"condition": {"a": torch.zeros(3)}},
            r"condition 'a': expected shape \[4, ...\] or \[1, ...\], got \[3\]",
        ),
        ((4, 3), {"condition": {"a": torch.tensor(1.0)}}, r"condition 'a': expected shape .* got \[\]"),
        (
            (4, 3),
            {"condition": {"a": torch.zeros(4)}, "guidance": 2.0},
            r"guidance 2.0: expected null .* \['a'\], got \[\]",
        ),
    ],
)
def test_impossible_arguments_are_refused(shape: tuple[int, ...], arguments: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        steering.run(compiled(), lambda x, t, **condition: x, shape, **arguments)


def test_groups_of_samples_leave_no_seam(monkeypatch: pytest.MonkeyPatch):
    """Steered runs go through in groups that bound the memory of their particles."""
    plan, network = compiled("ddim", 1.0, prediction="x0"), perceptron(3)
    doob = steering.Doob(lambda x: x.sum(dim=1), posterior=steering.posteriors.gaussian(CALIBRATION), particles=8)
    whole, whole_report = steering.run(plan, network, (40, 3), steer=doob, report=True)
    monkeypatch.setattr(importlib.import_module("steering.sampling.run"), "GROUP_ELEMENTS", 1)
    parts, report = steering.run(plan, network, (40, 3), steer=doob, report=True)
    torch.testing.assert_close(parts, whole)
    assert torch.equal(steering.run(plan, network, (20, 3), steer=doob), parts[:20])
    assert report.network_rows == whole_report.network_rows == plan.rows * 40
    assert report.reward_rows == whole_report.reward_rows
    assert report.ess.shape == whole_report.ess.shape == (plan.rows, 40)
    assert report.methods == whole_report.methods
    assert report.rewards is not None
    assert report.rewards.shape == (40,)


CALIBRATION = steering.Calibration((0.001, 0.5, 0.99), (0.0001, 0.1, 0.4))


def test_a_network_with_parameters_leaves_no_graph():
    layer = torch.nn.Linear(2, 2)
    plan = steering.plan("ddim", path=steering.paths.vp_cosine(), steps=3, prediction="x0")
    x = steering.run(plan, lambda x, t: layer(x), (4, 2))
    assert not x.requires_grad


@pytest.mark.parametrize(
    "steer",
    [
        None,
        steering.Doob(lambda x: x[:, 0], particles=4, posterior=posteriors.rollout(3)),
        steering.Smc(lambda x: x[:, 0], population=8, keep=2),
        baselines.BestOf(lambda x: x[:, 0], 5),
    ],
    ids=["none", "roll-outs", "smc", "best of"],
)
def test_rows_at_once_are_what_the_network_gets_in_a_call_on_average(steer: Steering | None):
    calls: list[int] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x))
        return torch.zeros_like(x)

    plan = compiled("sde_dpmpp_2m", eta=1.0, prediction="x0")
    steering.run(plan, network, (4, 2), 0, steer, tile=None)
    assert sum(calls) / len(calls) == pytest.approx(steering.rows_at_once(steer, 4), rel=0.25)
