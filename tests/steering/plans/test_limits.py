"""Bounds of the denoised estimate: what they are, and where they apply."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import steering
from steering import limits, paths
from steering.errors import PlanError, UnsuitableError
from steering.methods import gradients

PATH = paths.vp_cosine()


def plan(limit: limits.Limit | None = None, solver: str = "ddim", **other: object) -> steering.Plan:
    return steering.plan(solver, path=PATH, steps=8, prediction="eps", limit=limit, **other)  # type: ignore[arg-type]


def point(at: float) -> Callable[..., Tensor]:
    """The network of data that are one point."""

    def eps(x: Tensor, t: Tensor) -> Tensor:
        return (x - PATH.alpha(t)[:, None] * at) / PATH.sigma(t)[:, None]

    return eps


def test_clip():
    x = torch.tensor([[-3.0, 0.5, 2.0]])
    assert limits.Clip(-1, 1)(x).tolist() == [[-1.0, 0.5, 1.0]]
    assert limits.Clip(0, 1)(x).tolist() == [[0.0, 0.5, 1.0]]


def test_dynamic_threshold_is_imagens():
    """The quantile as torch has it; samples within the bound stay as they are, bit for bit."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 7, generator=g) * torch.tensor([0.1, 0.5, 1.0, 3.0, 10.0])[:, None, None]
    s = torch.quantile(x.abs().flatten(1), 0.9, dim=1).clamp(min=1)[:, None, None]
    torch.testing.assert_close(limits.DynamicThreshold(0.9)(x), x.clamp(-s, s) / s)
    small = x[:1]
    assert torch.equal(limits.DynamicThreshold(1.0, 1.0)(small), small)
    most = limits.DynamicThreshold(0.9, 1.0, 2.0)(x)
    torch.testing.assert_close(most, x.clamp(-s.clamp(max=2), s.clamp(max=2)) / s.clamp(max=2))
    assert float(limits.DynamicThreshold(0.5, 0.25)(x).abs().max()) <= 0.25


def test_a_row_does_not_depend_on_the_others():
    x = 3 * torch.randn(33, 17, generator=torch.Generator().manual_seed(1))
    for limit in (limits.Clip(), limits.DynamicThreshold(0.8)):
        whole = limit(x)
        assert all(torch.equal(limit(x[i : i + 1]), whole[i : i + 1]) for i in range(33))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun", "unipc_2", "sde_dpmpp_2m", "rk45"])
def test_samples_end_at_the_bound(solver: str):
    """Data at 5 by a network that is bound to 2: the limit, and the noise left at the end of the path."""
    x = steering.run(plan(limits.Clip(-2, 2), solver), point(5.0), (64, 2))
    free = steering.run(plan(None, solver), point(5.0), (64, 2))
    assert float(free.mean()) == pytest.approx(5, abs=0.05)
    assert float(x.mean()) == pytest.approx(2, abs=0.05)


def test_a_limit_that_is_never_met_changes_no_bit():
    free, wide = (steering.run(plan(limit), point(0.5), (16, 2)) for limit in (None, limits.Clip(-100, 100)))
    assert torch.equal(free, wide)


def test_a_limit_applies_after_guidance():
    """Between 0 and 1 at scale 4 guidance aims at 4. A limit of 2 on each branch would do nothing, on the result 2."""

    def network(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return (x - PATH.alpha(t)[:, None] * c[:, None]) / PATH.sigma(t)[:, None]

    condition, null = {"c": torch.ones(1)}, {"c": torch.zeros(1)}
    x = steering.run(
        plan(limits.Clip(-2, 2)), network, (16, 2), condition=condition, null=null, guidance=4.0
    )  # fmt: skip
    assert float(x.mean()) == pytest.approx(2, abs=0.05)


def test_plans_made_of_a_plan_keep_its_limit():
    limited = plan(limits.Clip())
    there = steering.flow.invert.directed(limited, reverse=True)
    assert there.limit == limited.limit
    assert limited.denoise(0.5).limit == limited.limit
    assert {stage.denoise.limit for stage in limited.stages} == {limited.limit}
    assert limited != plan() != replace(limited, limit=limits.Clip(-2, 2))


def test_gradients_of_a_limited_estimate_are_refused():
    problem = steering.Problem(plan=plan(limits.Clip()), event=(2,))
    x = torch.zeros(1, 2)
    with pytest.raises(UnsuitableError, match="expected an estimate without a limit"):
        next(gradients.pullback(problem, problem.plan.denoise(0.5), x, x))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: limits.Clip(1, 1), "clip: expected low < high, got 1 and 1"),
        (lambda: limits.DynamicThreshold(0), "a quantile above 0 and at most 1, got 0"),
        (lambda: limits.DynamicThreshold(0.9, 0), "a bound above 0, got 0"),
        (lambda: limits.DynamicThreshold(0.9, 1, 0.5), "expected most >= bound 1, got 0.5"),
    ],
)
def test_what_is_no_limit_is_refused(make: Callable[[], object], complaint: str):
    with pytest.raises(PlanError, match=complaint):
        make()
