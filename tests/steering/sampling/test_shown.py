"""Estimates that are shown on the way: those of the samples, at the stages asked for, and nothing else changes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import Doob, Smc, paths, posteriors
from steering.baselines import BestOf, Doit, Svdd, fk_steering
from steering.numerics.noise import Noise
from steering.problems import GaussianMixture
from steering.sampling.rows import Rows
from steering.sampling.run import Scoring
from steering.sampling.run import answer as in_process
from steering.sampling.sampler import Problem, Report, Steering

PATH = paths.vp_cosine()
LAW = GaussianMixture.random(2, 3, seed=0)
EXACT = LAW.network(PATH)
SAMPLES = LAW.sample(300, 9).to(torch.float32)
DIRECTION = torch.tensor([0.9, -0.6])


def network(x: Tensor, t: Tensor) -> Tensor:
    return EXACT(x, t)


def slope(x: Tensor) -> Tensor:
    return (x * DIRECTION).sum(dim=1)


def problem(solver: str = "ddim", n: int = 5, **other: Any) -> Problem:
    plan = steering.plan(solver, **{"path": PATH, "steps": 6, "prediction": "x0", **other})
    return Problem(plan=plan, event=(2,), model=network)


def drawn(
    asked: Problem, steer: Steering | None = None, n: int = 5, answer: Callable[[Rows], Tensor] | None = None
) -> tuple[Tensor, Report, list[Rows]]:
    """Samples, their report and what was shown."""
    reply = answer or (lambda request: in_process(request, network, None, Scoring.of(steer)))
    shown: list[Rows] = []
    sampler = steering.sample(asked, Noise(3, range(n)), steer)
    try:
        request = next(sampler)
        while True:
            shown += [request] if request.kind == "estimate" else []
            request = sampler.send(reply(request))
    except StopIteration as stop:
        x, report = stop.value
    return x, report, shown


def bank() -> posteriors.Bank:
    return posteriors.bank(SAMPLES)


def doob() -> Doob:
    return Doob(slope, posterior=bank(), particles=4, refresh=False)


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "none": (lambda: None, {}),
    "doob": (lambda: doob(), {}),
    "doob grown": (lambda: Doob(slope, beta=0.2, posterior=bank(), particles=4, refresh=True), {}),
    "doob by roll-outs": (lambda: Doob(slope, posterior=posteriors.rollout(2), particles=4), {}),
    "project": (lambda: steering.inpaint(torch.tensor([True, False]), torch.tensor([[0.5, 0.0]])), {}),
    "smc": (lambda: Smc(slope, population=8, keep=4), {"eta": 1.0}),
    "smc of all": (
        lambda: Smc(slope, population=8, inner=Doob(slope, posterior=bank(), particles=4, refresh=False)),
        {"eta": 1.0},
    ),
    "fk": (lambda: fk_steering(slope, particles=8), {"eta": 1.0}),
    "svdd": (lambda: Svdd(slope, candidates=4), {"eta": 1.0}),
    "doit": (lambda: Doit(slope, jacobian=False), {"eta": 1.0}),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_shows_its_samples_and_draws_the_same(method: str):
    make, options = METHODS[method]
    asked = problem(**options)
    plain, report, nothing = drawn(asked, make())
    x, watched, shown = drawn(replace(asked, show_every=1), make())
    assert not nothing
    assert torch.equal(plain, x)
    assert (report.network_rows, report.reward_rows) == (watched.network_rows, watched.reward_rows)
    assert [each.stage for each in shown] == [1, 2, 3, 4, 5, 6]
    assert {tuple(each.x.shape) for each in shown} == {(5, 2)}


def test_a_stage_in_so_many():
    assert [each.stage for each in drawn(replace(problem(), show_every=4))[2]] == [4]
    assert [each.stage for each in drawn(replace(problem(), show_every=2))[2]] == [2, 4, 6]
    assert [each.stage for each in drawn(replace(problem("heun"), show_every=5))[2]] == [5, 10]
    assert not drawn(replace(problem(), show_every=7))[2]


@pytest.mark.parametrize("method", ["none", "doob", "project", "doit"])
def test_the_last_estimate_is_the_sample_where_samples_end_in_it(method: str):
    """So it is the steered estimate that is shown."""
    make, options = METHODS[method]
    x, _, shown = drawn(replace(problem(end="denoise", **options), show_every=1), make())
    assert torch.equal(shown[-1].x, x)


def test_a_population_shows_the_heaviest_of_its_chains():
    """Of many chains whose weights have grown apart, those with the greatest rewards of their estimates."""
    asked = replace(problem(eta=1.0), show_every=1)
    some, _, early = drawn(asked, Smc(slope, beta=0.2, population=64, keep=4, resample_at=0), n=4)
    every, _, all_of = drawn(asked, Smc(slope, beta=0.2, population=64, resample_at=0), n=64)
    for few, chains in zip(early, all_of, strict=True):
        best = slope(chains.x).argsort(descending=True)[:4].sort().values
        assert torch.equal(few.x, chains.x[best])
    assert len(some) == 4
    assert len(every) == 64


@pytest.mark.parametrize("steer", [BestOf(slope, 4), Doit(slope, jacobian=False, particles=2)])
def test_what_picks_at_the_end_shows_nothing(steer: Steering):
    assert not steer.shows
    assert not drawn(replace(problem(eta=1.0), show_every=1), steer)[2]


def test_what_steps_as_it_likes_shows_nothing():
    assert not drawn(replace(problem("rk45"), show_every=1))[2]


def test_estimates_of_a_mean_reverting_process_are_of_the_data():
    """Not of what is left of them about the mean."""
    path, mean = paths.mean_reverting(), torch.full((5, 2), 7.0)
    plan = steering.plan("ddim", path=path, steps=6, prediction="x0")
    asked = Problem(plan=plan, event=(2,), model=network, mean=mean, show_every=1)
    x, _, shown = drawn(asked, answer=lambda request: torch.full_like(request.x, 9.0))
    assert len(shown) == 6
    for each in (x, *(rows.x for rows in shown)):
        torch.testing.assert_close(each, torch.full((5, 2), 9.0), atol=0.1, rtol=0)
