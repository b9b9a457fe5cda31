"""Every steering method through the engine: as in a notebook, at the price that is said, and once for each target."""

import asyncio
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cachetools import LRUCache
from torch import Tensor

import steering
from serving.backends import Array
from serving.engine.engine import Engine
from serving.models.loaded import LoadedModels
from serving.models.model import Model, Sampler
from serving.requests import job
from serving.requests.methods import CANDIDATES, GROUP, MOST_CANDIDATES, TAKES, completed, group_size
from serving.wire.answer import Answer
from serving.wire.errors import RequestError
from serving.wire.kserve import InferRequest
from serving.wire.parameters import Parameters
from serving.wire.rows import BY_GRADIENTS
from steering.baselines import BankResampling, BestOf, Doit, Svdd, fk_steering
from steering.posteriors import Bank, Mixture, rollout
from steering.sampling.sampler import Steering
from tests import networks

SDE: dict[str, Any] = {"solver": "sde_dpmpp_2m", "steps": 6}
DDIM: dict[str, Any] = {"solver": "ddim", "steps": 6, "eta": 1.0}
ODE: dict[str, Any] = {"solver": "dpmpp_2m", "steps": 6}
DIRECTION = {"reward_direction": np.array([1, 0], np.float32)}
RARE = 2.4
"""<x, (1, 0)> >= RARE has probability 1/8 P(N(0, 1) > .4 / .15): no sample of the bank of 512 is there."""
PROBABILITY = math.erfc(0.4 / networks.SPREAD / math.sqrt(2)) / 2 / 8


@pytest.fixture
def models(small_models: Path) -> dict[str, Model]:
    """As a replica holds them, knowing nothing of any target yet."""
    shelf = LoadedModels(small_models, 1)
    asyncio.run(shelf.load_all())
    return shelf.models


def sampler(models: dict[str, Model]) -> Sampler:
    rings = models["rings"]
    assert isinstance(rings, Sampler)
    return rings


def start(engine: Engine, models: dict[str, Model], inputs: dict[str, Any] | None = None, **asked: Any) -> Any:
    parameters = asked if inputs is not None else {"reward": "nearness", "reward_mode": 3, **asked}
    request = InferRequest("rings", inputs=inputs or {}, parameters=parameters)
    return engine.submit(job.task_for(request, models["rings"], models))


def counted(made: Any, model: str, kind: str) -> float:
    return made.metrics.registry.get_sample_value("tiltserve_rows_total", {"model": model, "kind": kind}) or 0.0


def near(samples: Array, mode: int = 3) -> float:
    return float(np.mean(np.linalg.norm(samples - networks.modes()[mode].numpy(), axis=1) < 1))


def doob(reward: Any, bank: Bank) -> steering.Doob:
    return steering.Doob(reward, 0.5, 8, bank)


METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Any, Bank], Steering]]] = {
    "doob": ({"beta": 0.5, "particles": 8}, ODE, doob),
    "doob, no refresh": (
        {"beta": 0.5, "particles": 8, "refresh": False, "reward_budget": 20}, ODE,
        lambda reward, bank: steering.Doob(reward, 0.5, 8, bank, refresh=False, reward_budget=20),
    ),
    "doob, roll-outs": (
        {"beta": 0.5, "particles": 4, "posterior": "rollout", "rollout_steps": 2}, ODE,
        lambda reward, bank: steering.Doob(reward, 0.5, 4, rollout(2)),
    ),
    "doob, mixture": (
        {"beta": 0.5, "particles": 8, "posterior": "mixture"}, ODE,
        lambda reward, bank: steering.Doob(reward, 0.5, 8, bank.local),
    ),
    "smc": (
        {"beta": 0.5, "particles": 8, "population": 24, "keep": 5}, SDE,
        lambda reward, bank: steering.Smc(reward, 0.5, inner=doob(reward, bank), population=24, keep=5),
    ),
    "smc, plain": (
        {"threshold": -1.0, "population": 24, "inner": "none", "potential": "max"}, DDIM,
        lambda reward, bank: steering.Smc(reward, threshold=-1.0, population=24, potential="max"),
    ),
    "best_of": ({"chains": 5}, ODE, lambda reward, bank: BestOf(reward, 5)),
    "svdd": ({"beta": 0.5, "candidates": 3}, DDIM, lambda reward, bank: Svdd(reward, 0.5, 3)),
    "fk_steering": (
        {"beta": 0.5, "population": 6, "keep": 2}, SDE,
        lambda reward, bank: fk_steering(reward, 0.5, particles=6, keep=2),
    ),
    "doit": ({"chains": 2}, DDIM, lambda reward, bank: Doit(reward, particles=2)),
    "bank_resampling": (
        {"beta": 2.0}, ODE, lambda reward, bank: BankResampling(reward, 2.0, samples=bank.samples)
    ),
}  # fmt: skip


def test_the_methods_tested_are_those_served():
    assert {name.split(",")[0] for name in METHODS} == set(TAKES) - set(BY_GRADIENTS)  # these have tests of their own


@pytest.mark.parametrize("name", METHODS)
def test_bytes_and_rows_are_those_of_the_notebook(models: dict[str, Model], make_engine, name: str):
    """And rows are announced: exactly but for roll-outs and candidates, which are bounded."""
    rings, nearness, n = sampler(models), models["nearness"], 70
    parameters, solver, make = METHODS[name]
    made = make_engine()
    asked = {"samples": n, "seed": 3, "steering": name.split(",")[0], **solver, **parameters}
    request = InferRequest("rings", parameters={"reward": "nearness", "reward_mode": 3, **asked})
    task = job.task_for(request, rings, models)
    announced = task.network_rows
    answer: Answer = made.engine.submit(task).result(120)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.from_numpy(rings.network.backend.run({"x": x.numpy(), "t": t.numpy()}, ["x0"])[0])

    def reward(x: Tensor) -> Tensor:
        feeds = {"x": x.numpy(), "mode": np.full(len(x), 3)}
        return torch.from_numpy(nearness.network.backend.run(feeds, ["reward"])[0])

    reward.__name__ = "nearness"
    assert rings.known.cloud is not None
    plan = rings.plan(**solver)
    steer = make(reward, Bank(rings.known.cloud, rings.known.local(None)))
    x, report = steering.run(plan, network, (n, 2), 3, steer, report=True)
    said: dict[str, Any] = answer.parameters
    assert answer.outputs["samples"].tobytes() == x.numpy().tobytes()
    assert report.rewards is not None
    assert answer.outputs["rewards"].tobytes() == report.rewards.to(torch.float32).numpy().tobytes()
    assert (said["network_rows"], said["reward_rows"]) == (report.network_rows, report.reward_rows)
    assert (said["setup_rows"], said["setup_reward_rows"]) == (report.setup_rows, report.setup_reward_rows)
    assert counted(made, "rings", "network") == said["network_rows"] + said["setup_rows"]
    assert counted(made, "nearness", "reward") == said["reward_rows"] + said["setup_reward_rows"]
    assert said["network_rows"] <= announced == steering.most_network_rows(steer, plan, n)
    if name not in ("doob, roll-outs", "svdd"):
        assert said["network_rows"] == announced
    assert task.backlog == announced - said["network_rows"]
    assert said["steering"] == asked["steering"]
    assert ("log_z" in said) == (report.log_z is not None)
    if report.log_z is not None:
        assert said["log_z"] == pytest.approx(float(report.log_z.exp().mean().log()), abs=1e-9)


@pytest.mark.parametrize(
    ("make", "event", "expected"),
    [
        (lambda r: None, (784,), GROUP),
        (lambda r: steering.Doob(r), (2,), GROUP),
        (lambda r: steering.Doob(r, particles=256), (784,), 16),
        (lambda r: steering.Doob(r, particles=1024), (784,), 5),
        (lambda r: steering.Smc(r, population=64), (2,), 64),
        (lambda r: steering.Smc(r, population=64, keep=3), (2,), 48),
        (lambda r: steering.Smc(r, population=200), (2,), 200),
        (lambda r: steering.Smc(r, population=200, keep=50), (2,), 50),
        (lambda r: steering.Smc(r, inner=steering.Doob(r), population=256), (784,), 256),
        (lambda r: BestOf(r, 1024), (784,), 5),
    ],
)
def test_groups_never_divide_a_population_and_fit_into_memory(make, event: tuple[int, ...], expected: int):
    steer = make(lambda x: x[:, 0])
    group = group_size(steer, event)
    assert group == expected
    if steer is not None:
        together = getattr(steer, "together", 1)
        assert group % together == 0
        assert group == together or group * steer.held * math.prod(event) <= CANDIDATES


def test_what_would_not_fit_into_memory_is_refused():
    def reward(x: Tensor) -> Tensor:
        return x[:, 0]

    wide = steering.Smc(reward, inner=steering.Doob(reward, particles=1024), population=256)
    with pytest.raises(RequestError, match=f"expected at most {MOST_CANDIDATES} numbers .*, got {256 * 1024 * 784}"):
        group_size(wide, (784,))


def test_a_rare_event_is_met_once_the_bank_has_grown(models: dict[str, Model], make_engine):
    made = make_engine()
    asked: dict[str, Any] = {"samples": 64, "seed": 1, "reward": "linear", "threshold": RARE}
    poor = start(made.engine, models, DIRECTION, **asked, refresh=False).result(60)
    rich = start(made.engine, models, DIRECTION, **asked).result(60)
    hits = [float(np.mean(answer.outputs["rewards"] >= RARE)) for answer in (poor, rich)]
    reports = [json.loads(answer.parameters["report"]) for answer in (poor, rich)]
    assert hits[0] < 0.5
    assert hits[1] > 0.9
    assert [report["hits"] for report in reports] == pytest.approx(hits, abs=1e-3)
    assert "log_z" not in poor.parameters  # no sample of the bank says anything
    assert reports[0]["log_z"] is None
    assert rich.parameters["log_z"] == pytest.approx(math.log(PROBABILITY), abs=0.2)
    assert "0 effective bank samples of 512" in poor.parameters["warnings"]
    assert rich.parameters["warnings"] == ""
    assert (poor.parameters["setup_rows"], poor.parameters["setup_reward_rows"]) == (0, 512)
    assert rich.parameters["setup_rows"] % (1024 * 20) == 0
    assert any("bank grown by" in each for each in reports[1]["choices"])
    assert sum(reports[1]["methods"].values()) == pytest.approx(1, abs=2e-3)
    assert len(reports[1]["ess"]) == 20
    again = start(made.engine, models, DIRECTION, **asked).result(60)
    assert again.parameters == rich.parameters  # what the target costs once is said every time
    assert counted(made, "rings", "network") == 3 * 64 * 20 + rich.parameters["setup_rows"]


def test_a_target_is_prepared_once_for_all_who_ask_at_the_same_time(models: dict[str, Model], make_engine):
    made = make_engine()
    asking = [start(made.engine, models, samples=4, seed=k, beta=0.3) for k in range(4)]
    answers = [each.result(60) for each in asking]
    assert {near(each.outputs["samples"]) for each in answers} == {1.0}
    (setup,) = {(each.parameters["setup_rows"], each.parameters["setup_reward_rows"]) for each in answers}
    assert setup[0] > 0
    assert counted(made, "rings", "network") == setup[0] + 4 * 4 * 20
    assert counted(made, "nearness", "reward") == setup[1] + sum(each.parameters["reward_rows"] for each in answers)
    assert not sampler(models).known.underway
    assert made.engine.backlog_rows == 0


def test_who_waits_for_a_target_takes_over_when_the_first_one_leaves(models: dict[str, Model], make_engine):
    made = make_engine()
    first: Future[Answer] = start(made.engine, models, samples=4, seed=1, beta=0.3)
    waiting = [start(made.engine, models, samples=4, seed=2, beta=0.3) for _ in range(2)]
    end = time.monotonic() + 20
    while counted(made, "rings", "network") < 100:
        assert time.monotonic() < end
        time.sleep(0.001)
    first.cancel()
    one, other = (each.result(60) for each in waiting)
    with pytest.raises(CancelledError):
        first.result(0)
    assert one.outputs["samples"].tobytes() == other.outputs["samples"].tobytes()
    assert near(one.outputs["samples"]) == 1
    assert not sampler(models).known.underway
    assert made.engine.backlog_rows == 0


def test_levels_that_were_drawn_are_not_lost_with_their_request(models: dict[str, Model], make_engine):
    made, known = make_engine(), sampler(models).known
    asked: dict[str, Any] = {"samples": 4, "seed": 1, "reward": "linear", "threshold": RARE}
    first = start(made.engine, models, DIRECTION, **asked)
    end = time.monotonic() + 20
    while not known.refreshed:
        assert time.monotonic() < end
        time.sleep(0.001)
    first.cancel()
    answer = start(made.engine, models, DIRECTION, **asked).result(60)
    levels = answer.parameters["setup_rows"] / (20 * 1024)
    assert levels >= 3
    assert counted(made, "rings", "network") <= answer.parameters["setup_rows"] + 20 * 1024 + 4 * 20
    known.refreshed.clear()  # uninterrupted it is the same
    again = start(made.engine, models, DIRECTION, **asked).result(60)
    assert again.parameters == answer.parameters
    assert again.outputs["samples"].tobytes() == answer.outputs["samples"].tobytes()


def test_a_reward_that_fails_fails_each_who_waited_by_itself(models: dict[str, Model], make_engine):
    made = make_engine()
    asking = [start(made.engine, models, samples=2, seed=k, reward="nearness + nan") for k in range(3)]
    for each in asking:
        with pytest.raises(steering.SteeringError, match="reward 'nan': expected finite values or -inf, got NaN"):
            each.result(60)
    assert not sampler(models).known.underway


def test_targets_that_push_each_other_out_are_still_prepared_once(models: dict[str, Model], make_engine):
    made, known = make_engine(), sampler(models).known
    known.refreshed, known.scored = LRUCache(1), LRUCache(1)
    asking = [start(made.engine, models, samples=130, reward_mode=mode, seed=0, beta=0.3) for mode in range(3)]
    answers = [each.result(60) for each in asking]
    assert min(near(each.outputs["samples"], mode) for mode, each in enumerate(answers)) > 0.98
    setup = sum(each.parameters["setup_rows"] for each in answers)
    assert counted(made, "rings", "network") == setup + 3 * 130 * 20
    assert len(known.refreshed) == 1


def test_rows_of_a_setup_join_the_backlog_when_they_are_asked_for(models: dict[str, Model], make_engine):
    made = make_engine()
    request = InferRequest("rings", parameters={"reward": "nearness", "reward_mode": 3, "samples": 8, "beta": 0.3})
    task = job.task_for(request, models["rings"], models)
    assert task.network_rows == 160
    answer = made.engine.submit(task).result(60)
    assert task.network_rows == 160 + answer.parameters["setup_rows"] == task.done_rows


@pytest.mark.parametrize("method", ["smc", "bank_resampling"])
def test_copies_among_the_samples_are_said(models: dict[str, Model], make_engine, method: str):
    asked: dict[str, Any] = {"samples": 32, "seed": 0, "steering": method}
    if method == "smc":
        asked |= {"solver": "ddim", "eta": 1.0, "steps": 8, "population": 32, "inner": "none", "beta": 0.1}
    else:
        asked |= {"beta": 0.02}
    answer = start(make_engine().engine, models, **asked).result(60)
    distinct = len(np.unique(answer.outputs["samples"], axis=0))
    assert distinct < 32
    assert f"{distinct} of 32 samples are distinct, the others are copies" in answer.parameters["warnings"]
    assert json.loads(answer.parameters["report"])["distinct"] == distinct


def test_what_was_never_reached_is_said(models: dict[str, Model], make_engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("steering.methods.growth.MAX_LEVELS", 1)
    engine = make_engine().engine
    asked: dict[str, Any] = {"samples": 70, "seed": 1, "steps": 6, "reward": "linear", "threshold": 50.0}
    said = start(engine, models, DIRECTION, **asked).result(60).parameters
    assert "no sample meets the threshold 50: the best reward is " in said["warnings"]
    assert f"0 effective bank samples of {512 + 1024}" in said["warnings"]
    assert said["warnings"].count("no candidate had weight") == 1  # one line for both groups of samples
    assert f"{json.loads(said['report'])['no_hit']} of {70 * 6} (stage, sample) pairs: no candidate" in said["warnings"]


def test_a_collapsed_population_is_said(models: dict[str, Model], make_engine):
    answer = start(
        make_engine().engine, models, samples=16, seed=0, steering="smc", inner="none", solver="ddim", eta=1.0, steps=5,
        population=8, beta=0.001,
    ).result(60)  # fmt: skip
    assert "2 of 2 populations of 8 chains fell to fewer than 2 effective chains" in answer.parameters["warnings"]
    report = json.loads(answer.parameters["report"])
    assert len(report["population_ess"]) == 6
    assert min(report["population_ess"]) < 2


def test_conditions_of_one_population_must_be_one(models: dict[str, Model], make_engine):
    request = InferRequest(
        "stripes",
        inputs={"label": np.arange(4), "reward_direction": np.ones((1, 4, 4), np.float32)},
        parameters={"samples": 4, "steering": "smc", "reward": "linear", "population": 4, **SDE},
    )
    with pytest.raises(steering.UnsuitableError, match="label: expected the same for all samples") as caught:
        make_engine().engine.submit(job.task_for(request, models["stripes"], models)).result(60)
    assert job.request_error(caught.value).code.name == "INVALID_ARGUMENT"
    apart = InferRequest("stripes", inputs=request.inputs, parameters={**request.parameters, "keep": 1})
    answer = make_engine().engine.submit(job.task_for(apart, models["stripes"], models)).result(60)
    assert answer.outputs["samples"].shape == (4, 1, 4, 4)
    assert answer.parameters["network_rows"] == 4 * 4 * 6


def test_a_preset_brings_its_noise(models: dict[str, Model], make_engine):
    asked: dict[str, Any] = {"samples": 3, "seed": 1, "steps": 5, "steering": "doit", "preset": "hopper-medium-v2"}
    engine = make_engine().engine
    answer = start(engine, models, **asked).result(60)
    assert (answer.parameters["solver"], answer.parameters["network_rows"]) == ("ddim", 3 * 5 * 8)
    named = start(engine, models, **asked, solver="ddim", eta=0.6).result(60)
    assert named.outputs["samples"].tobytes() == answer.outputs["samples"].tobytes()
    other = start(engine, models, **asked, eta=0.9).result(60)
    assert other.outputs["samples"].tobytes() != answer.outputs["samples"].tobytes()


def test_the_posterior_is_the_one_that_fits(models: dict[str, Model], make_engine):
    known = sampler(models).known
    assert isinstance(known.local(None), Mixture)
    said = start(make_engine().engine, models, samples=2, seed=1).result(60).parameters
    assert json.loads(said["report"])["choices"][0].startswith("local posterior mixture: a mixture's error is ")
    assert said["warnings"] == ""


# The solver of a request that names none.


@pytest.mark.parametrize(
    ("asked", "event", "defaults", "solver"),
    [
        ({"reward": "r"}, (1, 8, 8), {}, "sde_dpmpp_2m"),
        ({"reward": "r", "steps": 15}, (1, 8, 8), {}, "dpmpp_2m"),
        ({"reward": "r"}, (8,), {}, "dpmpp_2m"),
        ({"reward": "r", "guidance": 3.0}, (8,), {}, "sde_dpmpp_2m"),
        ({"reward": "r", "solver": "dpmpp_2m"}, (1, 8, 8), {}, "dpmpp_2m"),
        ({"reward": "r"}, (1, 8, 8), {"solver": "heun"}, "heun"),
        ({"reward": "r", "steering": "best_of"}, (1, 8, 8), {}, "dpmpp_2m"),
        ({}, (1, 8, 8), {}, "dpmpp_2m"),
        ({"reward": "r", "steering": "doit", "preset": "hopper-medium-v2"}, (1, 8, 8), {}, "ddim"),
    ],
)
def test_steered_images_are_drawn_with_noise_where_nobody_says_a_solver(
    asked: dict[str, Any], event: tuple[int, ...], defaults: dict[str, Any], solver: str
):
    parameters = Parameters.model_validate(asked).completed(defaults)
    assert completed(parameters, event, defaults).solver == solver
