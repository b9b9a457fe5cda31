"""States that are shown at the nodes of a plan: those of the path to the samples, and nothing else changes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import paths
from steering.numerics.noise import START, Draw, Noise
from steering.sampling.run import Scoring, answer
from steering.sampling.sampler import Steering, sample
from tests.steering.sampling.test_shown import doob, network, problem

TABLES = sorted(name for name, each in steering.solvers.items() if each.updates and not each.uses_noise)


def passed(asked: steering.Problem, steer: Steering | None = None, x_init: Tensor | None = None) -> Any:
    """The samples, and the states that were shown, by node."""
    shown: dict[int, Tensor] = {}
    sampler = sample(asked, Noise(3, range(5)), steer, x_init)
    try:
        request = next(sampler)
        while True:
            if request.kind == "state":
                assert request.stage == len(shown)
                shown[request.stage] = request.x
            request = sampler.send(answer(request, network, None, Scoring.of(steer)))
    except StopIteration as stop:
        return stop.value[0], shown


@pytest.mark.parametrize("end", [None, "denoise"])
@pytest.mark.parametrize("solver", [name for name in TABLES if name != "searched"])
def test_every_node_is_passed_from_the_first_state_to_the_sample(solver: str, end: Any):
    asked = problem(solver, end=end)
    plain, nothing = passed(asked)
    x, shown = passed(replace(asked, show_path=True))
    assert not nothing
    assert torch.equal(x, plain)
    assert list(shown) == list(range(len(asked.plan.nodes)))
    assert torch.equal(
        shown[0], Noise(3, range(5)).normal(START, Draw.SOLVER, (2,), torch.float32) * asked.plan.nodes[0].sigma
    )
    assert torch.equal(shown[len(shown) - 1], x)


def test_states_lie_on_the_flow():
    """The probability flow of the law from the first state, by many steps of another solver."""
    asked = problem("heun", steps=60)
    _, shown = passed(replace(asked, show_path=True))
    node = asked.plan.nodes[30]
    there = steering.plan("dpmpp_2m", path=paths.vp_cosine(), steps=400, prediction="x0", grid=[
        *torch.linspace(asked.plan.nodes[0].t, node.t, 401, dtype=torch.float64).tolist()
    ])  # fmt: skip
    x, _ = passed(replace(asked, plan=there), x_init=shown[0])
    assert torch.allclose(x, shown[30], atol=2e-3)


def test_steered_paths_and_those_to_noise_are_shown_too():
    asked = replace(problem("dpmpp_2m"), show_path=True)
    steered, shown = passed(asked, doob())
    assert torch.equal(shown[6], steered)
    back = problem("dpmpp_2m", reverse=True)
    z, ways = passed(replace(back, show_path=True), x_init=steered)
    assert torch.equal(ways[0], steered)
    assert torch.equal(ways[6], z)


def test_direct_samplers_have_no_path():
    assert not passed(replace(problem("rk45"), show_path=True))[1]
