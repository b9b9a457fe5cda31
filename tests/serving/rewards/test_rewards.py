"""Rewards as a request binds them, and as the engine scores them."""

import math
import re
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

import steering
from protos.card import Range
from serving.backends import Array, GraphTensor
from serving.backends.costs import Costs
from serving.backends.ort import OrtNetwork
from serving.engine.references import whole
from serving.engine.task import Evaluation, Network, Step
from serving.models.folders import scan
from serving.models.model import Model, PlainModel
from serving.models.repository import load
from serving.requests import job
from serving.rewards import Reward, bind, expressions
from serving.rewards.expressions import ExpressionError, Term
from serving.rewards.network import tensor_argument
from serving.wire.errors import RequestError
from serving.wire.kserve import InferRequest
from steering.errors import SteeringError
from steering.problems import GaussianMixture
from steering.sampling.rows import answered as sampled
from tests import networks
from tests.serving.conftest import Gated
from tests.serving.engine.test_engine import ask, same, start, until

EVENT = (3072,)
F = np.float32
AXES = np.eye(2, dtype=F)
X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
Result = TypeVar("Result")


def direction(first: int) -> dict[str, Any]:
    vector = np.zeros(EVENT, np.float32)
    vector[first : first + 100] = 1
    return {"reward_direction": vector}


def of(text: str, models: Mapping[str, Model], inputs: dict[str, Any] | None = None, **parameters: Any) -> Reward:
    return bind(text, models, (2,), parameters, inputs or {})


def answered(scoring: Generator[Step, Any, Result], calls: list[Evaluation] | None = None) -> Result:
    """What a reward makes of its evaluations."""

    def answer(step: Step) -> list[Array]:
        assert isinstance(step, Evaluation)
        if calls is not None:
            calls.append(step)
        return step.network.backend.run({name: whole(each) for name, each in step.feeds.items()}, step.outputs)

    return sampled(scoring, answer)


def scores(reward: Reward, x: Tensor = X) -> Tensor:
    return answered(reward.scores(x))


def nearness(mode: int, x: Tensor = X) -> Tensor:
    return -((x - networks.modes()[mode]) ** 2).sum(1)


# Single rewards.


def test_keys_tell_long_arguments_apart():
    """A bank files its scores under the key: two rewards that are printed alike must not share one."""
    one, same, other = (bind("linear", {}, EVENT, {}, direction(first)) for first in (500, 500, 1500))
    assert one.key == same.key
    assert one.key != other.key


def test_keys_tell_close_numbers_apart():
    one, other = (bind("linear", {}, EVENT, {"reward_scale": value}, direction(0)) for value in (0.1, 0.1 + 2**-50))
    assert one.key != other.key


def test_events_differ_by_their_threshold_and_share_their_scores():
    """A bank that was scored for one half-space serves the parallel ones; within an expression they are two."""
    one, other = (bind("half_space", {}, EVENT, {"reward_threshold": value}, direction(0)) for value in (0.1, 0.2))
    assert one.key == other.key
    assert (one.threshold, other.threshold) == (0.1, 0.2)
    assert scores(one, torch.ones(3, *EVENT)).tolist() == [100.0] * 3
    sums = [bind(f"half_space(threshold={value}) + 0", {}, EVENT, {}, direction(0)) for value in (0.1, 0.1, 0.2)]
    assert sums[0].key == sums[1].key
    assert sums[0].key != sums[2].key


def test_a_linear_reward_is_the_product():
    reward = bind("linear", {}, EVENT, {"reward_scale": 2}, direction(0))
    assert scores(reward, torch.ones(3, *EVENT)).tolist() == [200.0] * 3


def test_a_mask_may_be_of_booleans():
    target = {"reward_target": AXES[0]}
    one, other = (bind("masked_match", {}, (2,), {}, target | {"reward_mask": mask}) for mask in (AXES[1], AXES[1] > 0))
    assert torch.equal(scores(one), -0.5 * X[:, 1] ** 2)
    assert one.key == other.key


def test_what_is_outside_of_its_range_is_refused(models: dict[str, Model]):
    """ONNX takes a negative index for one from the end: -1 would be scored as the last label."""
    network = models["nearness"]
    assert isinstance(network, PlainModel)
    ranged = {"nearness": replace(network, ranges={"mode": Range(min=0, max=7)})}
    inputs = {"x": X[:2].numpy(), "mode": np.array([3, -1])}
    for refused, text in (
        (lambda: of("nearness", ranged, reward_mode=-1), "reward_mode of reward 'nearness': expected 0..7, got -1"),
        (lambda: of("nearness(mode=8)", ranged), "reward_mode of reward 'nearness': expected 0..7, got 8"),
        (
            lambda: job.task_for(InferRequest("nearness", inputs=inputs), ranged["nearness"], ranged),
            "input 'mode': expected 0..7, got -1",
        ),
    ):
        with pytest.raises(RequestError) as caught:
            refused()
        assert (caught.value.code, caught.value.detail) == (grpc.StatusCode.INVALID_ARGUMENT, text)
    loose = {"nearness": replace(network, ranges={})}
    assert torch.equal(scores(of("nearness", ranged, reward_mode=7)), scores(of("nearness(mode=-1)", loose)))


def test_the_demos_classifier_knows_its_labels():
    root = Path(__file__).parents[3] / "deploy" / "models"
    folder = next(folder for folder in scan(root) if folder.name == "classifier")
    classifier = {"classifier": load(folder, lambda file: OrtNetwork(file, 1))}
    bind("classifier", classifier, (1, 28, 28), {"reward_label": 9}, {})
    for label in (-1, 10):
        with pytest.raises(RequestError, match=f"reward_label of reward 'classifier': expected 0..9, got {label}"):
            bind("classifier", classifier, (1, 28, 28), {"reward_label": label}, {})


# Expressions.

NEAR = {k: nearness(k) for k in range(8)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nearness(mode=3)", NEAR[3]),
        ("'nearness'(mode=3)", NEAR[3]),
        ("nearness(mode=3) + nearness(mode=4)", NEAR[3] + NEAR[4]),
        ("2 * nearness(mode=3) - 0.5 * nearness(mode=4) + 1", 2 * NEAR[3] - 0.5 * NEAR[4] + 1),
        ("-(nearness(mode=3) - 1) * nearness(mode=4)", (1 - NEAR[3]) * NEAR[4]),
        ("logsumexp(nearness(mode=1), 2 * nearness(mode=5), -3)",
         torch.log(NEAR[1].exp() + (2 * NEAR[5]).exp() + math.exp(-3))),
        ("minimum(nearness(mode=1), nearness(mode=5), -2)", torch.minimum(NEAR[1], NEAR[5]).clamp(max=-2)),
        ("maximum(nearness(mode=1), nearness(mode=5))", torch.maximum(NEAR[1], NEAR[5])),
        ("linear(direction=a, scale=-2) + linear(direction=b)", X[:, 1] - 2 * X[:, 0]),
        ("nearness(mode=2) + half_space(direction=a, threshold=0)",
         torch.where(X[:, 0] >= 0, NEAR[2], -torch.inf)),
    ],
)  # fmt: skip
def test_an_expression_has_its_value(models: dict[str, Model], text: str, expected: Tensor):
    inputs = {"reward_a": AXES[0], "reward_b": AXES[1]} if "direction" in text else {}
    if "=b" not in text:
        inputs.pop("reward_b", None)
    assert torch.allclose(scores(of(text, models, inputs)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "inputs", "parameters", "expected"),
    [
        ("nearness + linear", {"reward_direction": AXES[0]}, {"reward_mode": 3}, NEAR[3] + X[:, 0]),
        ("2 * nearness + nearness", {}, {"reward_mode": 3}, 3 * NEAR[3]),
        ("nearness + nearness(mode=4)", {}, {"reward_mode": 3}, NEAR[3] + NEAR[4]),
        ("linear + quadratic", {"reward_direction": AXES[0], "reward_center": AXES[1]}, {"reward_linear_scale": 3},
         3 * X[:, 0] - 0.5 * ((X - torch.tensor([0.0, 1.0])) ** 2).sum(1)),
    ],
)  # fmt: skip
def test_arguments_go_to_the_term_that_takes_them(models, text: str, inputs, parameters, expected: Tensor):
    assert torch.allclose(scores(of(text, models, inputs, **parameters)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "parameters", "expected"),
    [
        ("linear + quadratic", {"reward_scale": 2},
         "expected 'reward_scale' to be an argument of one term, got linear and quadratic: send reward_<term>_<argu"),
        ("nearness + nan", {"reward_label": 2}, "unknown argument 'reward_label', expected reward_mode$"),
        ("nearness(mode=2) + nan", {"reward_mode": 2}, "unknown argument 'reward_mode', expected none beside"),
        ("nearness + nan", {"reward_mode": 2, "reward_nearness_mode": 2}, "expected argument 'mode' of nearness once"),
        ("nearness + nan", {}, "reward 'nearness': expected argument 'reward_mode', got none"),
        ("nearness(mode=1, mood=2) + nan", {}, "reward 'nearness': unknown argument 'reward_mood', expected reward_m"),
        ("linear(direction=up) + nan", {}, r"reward_direction of .* expected an input FP32 \[2\], got 'up'"),
        ("nearness(mode=1) + far", {}, "unknown reward 'far', expected one of half_space, linear, "),
        ("rings(x=1)", {}, "unknown reward 'rings', expected one of "),
        ("nearness(1)", {}, r"nearness: expected arguments by name, such as \(label=7\), got one without"),
        ("nearness(**nan)", {}, "expected arguments by name, once each"),
        ("nearness(mode=[1])", {}, r"mode: expected a number or a name, got '\[1\]'"),
        ("nan / 2", {}, r"expected names of rewards, numbers, \+ - \*, logsumexp, .*, got 'nan / 2'"),
        ("nan if nan else nan", {}, "expected names of rewards, numbers"),
        ("nan.__class__(x=1)", {}, r"unknown reward 'nan.__class__'"),
        ("(lambda: 1)()", {}, "expected names of rewards, numbers"),
        ("[nan for nan in nan]", {}, "expected names of rewards, numbers"),
        ("logsumexp(nan)", {}, "logsumexp: expected two expressions or more, got 1"),
        ("1 + 2", {}, "expected 1..16 different rewards, got 0"),
        ("1e999 * nan", {}, "expected finite numbers"),
        ("9" * 400 + " * nan", {}, "expected finite numbers"),
        ("True * nan", {}, "expected names of rewards, numbers"),
        ("nan nan", {}, "expected a reward's name or an expression, got invalid syntax"),
        ("", {}, "expected a reward's name or an expression, got "),
        ("nan +", {}, "expected a reward's name or an expression, got invalid syntax"),
        ("(" * 250 + "nan" + ")" * 240, {}, "expected a reward's name or an expression, got "),
        ("-" * 400 + "nan", {}, "expected an expression at most 20 deep"),
        ("~" * 480 + "nan", {}, "expected names of rewards, numbers, .*, got one that is too deep to show"),
        ("nearness(mode=" + "-" * 480 + "nan)", {}, "mode: expected a number or a name, got one that is too deep"),
        ("nan" + "()" * 240, {}, "expected names of rewards, numbers"),
        ("nan\0", {}, "expected a reward's name or an expression, got "),
        ("nan + " * 100 + "nan", {}, "expected at most 500 characters, got 603"),
        (" + ".join(f"nearness(mode={k})" for k in range(17)), {}, "expected 1..16 different rewards, got 17"),
    ],
)  # fmt: skip
def test_what_is_refused(models: dict[str, Model], text: str, parameters: dict[str, Any], expected: str):
    with pytest.raises(RequestError) as caught:
        of(text, models, **parameters)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert re.search(expected, caught.value.detail), caught.value.detail


def test_sums_of_many_terms_are_not_deep():
    text = " + ".join(["a"] * 15 + ["b(x=-1.5, y=c.d)"])
    assert expressions.terms(expressions.parse(text))[1] == Term("b", (("x", -1.5), ("y", expressions.Name("c.d"))))
    with pytest.raises(ExpressionError, match="deep"):
        expressions.parse("+" * 30 + "a")


def test_equal_terms_are_scored_once(models: dict[str, Model]):
    calls: list[Evaluation] = []
    reward = of("nearness * nearness(mode=3) + 2 * nearness(mode=3) - nearness(mode=1)", models, reward_mode=3)
    value = answered(reward.scores(X), calls)
    assert [int(whole(call.feeds["mode"])[0]) for call in calls] == [3, 1]
    assert torch.allclose(value, NEAR[3] ** 2 + 2 * NEAR[3] - NEAR[1], rtol=1e-4, atol=1e-5)


def test_keys_and_fingerprints_are_of_parts_and_structure(models: dict[str, Model]):
    texts = ["nearness(mode=3) - nan", "nan - nearness(mode=3)", "nearness(mode=2) - nan", "nearness(mode=3) + nan"]
    keys = {of(text, models).key for text in texts}
    assert len(keys) == 4
    assert of("nearness(mode=3)-(nan)", models).key in keys
    assert of("nearness - nan", models, reward_mode=3).key in keys
    prints = [of(text, models).fingerprint for text in texts]
    assert prints[0] == prints[2]  # as for a single reward, the arguments are the request's
    assert len(set(prints)) == 3
    assert all(models[name].fingerprint in prints[0] for name in ("nearness", "nan"))  # type: ignore[union-attr]


# The log-density of another model.


def mixture() -> GaussianMixture:
    k, d = networks.MODES, 2
    covariance = networks.SPREAD**2 * torch.eye(d, dtype=torch.float64)
    return GaussianMixture(
        torch.full((k,), 1 / k, dtype=torch.float64), networks.modes().double(), covariance.expand(k, d, d)
    )


def test_a_log_density_is_that_of_the_law(models: dict[str, Model]):
    x = mixture().sample(60, 1)
    offset = x[:, None] - networks.modes().double()
    log = -(offset**2).sum(2) / (2 * networks.SPREAD**2) - math.log(2 * math.pi * networks.SPREAD**2)
    exact = torch.logsumexp(log, 1) - math.log(networks.MODES)
    reward = of("log_density(model=rings, steps=40)", models)
    value = scores(reward, x.float())
    assert float((value - exact).abs().median()) < 0.02
    assert torch.equal(value[7:9], scores(reward, x[7:9].float()))
    rough = scores(of("log_density", models, reward_model="rings"), x.float())
    assert float((rough - exact).abs().median()) < 0.2
    assert float((value - exact).abs().median()) < float((rough - exact).abs().median())


def test_a_conditional_models_log_density_takes_its_conditions(models: dict[str, Model]):
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    event = (1, 4, 4)
    free, one, null = (
        bind(f"log_density(model=stripes{more}, steps=4)", models, event, {}, {})
        for more in ("", ", label=1", f", label={networks.NULL}")
    )
    assert free.key == null.key
    assert torch.equal(scores(free, x), scores(null, x))
    assert float((scores(free, x) - scores(one, x)).abs().min()) > 1e-3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log_density", "reward 'log_density': expected argument 'reward_model', got none"),
        ("log_density(steps=3)", "reward 'log_density': expected argument 'reward_model', got none"),
        (
            "log_density(model=ring)",
            "reward_model of reward 'log_density': unknown sampler 'ring', did you mean 'rings'",
        ),
        ("log_density(model=stripes)", "reward_model of reward 'log_density': unknown sampler 'stripes'"),
        ("log_density(model=7)", "reward_model of reward 'log_density': unknown sampler 7"),
        ("log_density(model=rings, steps=0)", r"reward_steps of .* expected an integer in 1\.\.1000, got 0"),
        ("log_density(model=rings, probes=2.5)", r"reward_probes of .* expected an integer in 1\.\.256, got 2\.5"),
        ("log_density(model=rings, label=1)", "unknown argument 'reward_label', expected reward_model, reward_steps"),
    ],
)
def test_log_densities_that_are_refused(models: dict[str, Model], text: str, expected: str):
    with pytest.raises(RequestError) as caught:
        of(text, models)
    assert re.search(expected, caught.value.detail), caught.value.detail


# What steering makes of them, through the engine.


def near(samples: np.ndarray, mode: int) -> float:
    return float(np.mean(np.linalg.norm(samples - networks.modes().numpy()[mode], axis=1) < 1))


def test_two_modes_at_once(models: dict[str, Model], make_engine):
    """log(exp r_1 + exp r_5): both modes, in the model's own proportion of 1 to 1."""
    text = "logsumexp(nearness(mode=1), nearness(mode=5))"
    answer = start(make_engine().engine, models, ask("rings", samples=400, seed=3, reward=text, beta=0.2)).result(60)
    shares = [near(answer.outputs["samples"], mode) for mode in (1, 5)]
    assert sum(shares) > 0.97
    assert 0.4 < shares[0] < 0.6  # 4 standard deviations of a fair coin
    best = torch.logsumexp(torch.stack([nearness(k, torch.from_numpy(answer.outputs["samples"])) for k in (1, 5)]), 0)
    assert np.allclose(answer.outputs["rewards"], best, rtol=1e-3, atol=1e-4)


def test_a_product_of_experts(models: dict[str, Model], make_engine):
    """p times p is p^2: every component of the rings with half the variance."""
    engine, spreads = make_engine().engine, []
    request: dict[str, Any] = {"samples": 300, "seed": 1, "steps": 12, "particles": 16}
    for parameters in (request, request | {"reward": "log_density", "reward_model": "rings"}):
        samples = start(engine, models, ask("rings", **parameters)).result(120).outputs["samples"]
        offsets = ((samples[:, None] - networks.modes().numpy()) ** 2).sum(2)
        spreads.append(offsets.min(1).mean())
    assert 0.4 < spreads[1] / spreads[0] < 0.67


@pytest.mark.parametrize(
    ("parameters", "inputs"),
    [
        ({"reward": "nearness", "reward_mode": 2, "threshold": -0.045}, {}),
        ({"reward": "nearness(mode=2) + 0", "threshold": -0.045}, {}),
        ({"reward": "norm_band", "reward_high": 0.045**0.5}, {"reward_center": networks.modes().numpy()[2]}),
    ],
    ids=["parameter", "expression", "built-in"],
)
def test_conditioning_on_an_event(models: dict[str, Model], make_engine, parameters, inputs):
    """Within 0.21 of a mode: one sample in 13 of the model, and 0.63 of that component."""
    request = ask("rings", inputs, samples=200, seed=4, **parameters)
    answer = start(make_engine().engine, models, request).result(60)
    distance = np.linalg.norm(answer.outputs["samples"] - networks.modes().numpy()[2], axis=1)
    assert np.mean(distance <= 0.045**0.5) > 0.85
    # a Gaussian's squared distance is exponential; within the disc, its mean is 0.0189
    assert np.mean(distance**2) == pytest.approx(0.0189, rel=0.3)
    assert np.isfinite(answer.outputs["rewards"]).all()  # scores, not indicators


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"threshold": 1.0}, "threshold: expected a parameter reward beside it, got none"),
        ({"reward": "nan", "threshold": 1.0, "beta": 1.0}, "threshold: expected no beta beside it"),
        ({"reward": "nan", "threshold": "high"}, "parameter threshold: expected a valid number, got 'high'"),
        ({"reward": "norm_band", "reward_high": 1, "threshold": 0.0}, "threshold: expected none beside reward 'norm_b"),
        ({"reward": "norm_band", "reward_high": 1, "reward_low": 2}, "norm_band: expected low <= high and 0 <= high"),
    ],
)
def test_thresholds_that_are_refused(models: dict[str, Model], parameters: dict[str, Any], expected: str):
    with pytest.raises(RequestError) as caught:
        job.task_for(ask("rings", **parameters), models["rings"], models)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.detail.startswith(expected), caught.value.detail


def test_rewards_of_many_requests_share_calls(models: dict[str, Model], make_engine):
    """One network whatever its arguments, alone or as a term: its rows ride together, and keep their bytes."""
    gated = Gated(replace(models["nearness"].network, costs=Costs({64: 1.0})))  # so dear that calls are shared
    shared = {**models, "nearness": PlainModel("nearness", "1", gated.network, "f")}
    requests = [
        ask("rings", samples=2, seed=k, steps=5, particles=4, posterior="gaussian", reward="nearness", reward_mode=k)
        for k in range(4)
    ] + [
        ask("rings", samples=2, seed=k, steps=5, particles=4, posterior="gaussian",
            reward=f"maximum(nearness(mode={k}), nearness(mode={k + 1}))")
        for k in (4, 5)
    ]  # fmt: skip
    engine = make_engine(max_bucket=64).engine
    running = [start(engine, shared, requests[0])]
    assert gated.entered.wait(20)
    running += [start(engine, shared, request) for request in requests[1:]]  # taken on at once
    gated.gate.set()
    together = [future.result(60) for future in running]
    assert max(len(set(call["mode"].tolist())) for call in gated.calls) > 1
    alone = make_engine().engine
    for request, answer in zip(requests, together, strict=True):
        assert same(start(alone, shared, request).result(60), answer)


def write_root(root: Path) -> Network:
    """The square root of |x|^2 - level: NaN for samples within. Said to be dear, so that calls are shared."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSumSquare", ["x", "last"], ["square"], keepdims=0),
            helper.make_node("Sub", ["square", "level"], ["above"]),
            helper.make_node("Sqrt", ["above"], ["reward"]),
        ],
        "root",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("level", TensorProto.FLOAT, ["n"]),
        ],
        [helper.make_tensor_value_info("reward", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("last", TensorProto.INT64, [1], [1])],
    )
    return Network("root", OrtNetwork(networks.write_graph(root / "root", graph), 1), Costs({64: 1.0}))


def test_a_reward_that_is_nan_for_some_fails_those_alone(models: dict[str, Model], make_engine, tmp_path: Path):
    """The good requests' rows are in the same calls of the same network."""
    gated = Gated(write_root(tmp_path))
    shared = {**models, "root": PlainModel("root", "1", gated.network, "f")}
    engine = make_engine(max_bucket=64).engine
    request: dict[str, Any] = {"samples": 2, "steps": 5, "particles": 4, "posterior": "gaussian"}

    def steered(reward: str, seed: int) -> Any:
        return start(engine, shared, ask("rings", reward=reward, seed=seed, **request))

    good = [steered("root(level=-1)", 0)]
    until(gated.entered.is_set)
    good += [steered("root(level=-1)", 1), steered("root(level=-1)", 2)]  # taken on at once with the bad ones
    bad = [steered("root(level=1e6)", 7), steered("nearness(mode=1) - root(level=1e6)", 7)]
    gated.gate.set()
    for future in bad:
        with pytest.raises(steering.SteeringError) as caught:
            future.result(30)
        error = job.request_error(caught.value)
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
        assert error.detail == "reward 'root': expected finite values or -inf, got NaN"
    results = [future.result(30) for future in good]
    assert any(len(set(call["level"].tolist())) > 1 for call in gated.calls)
    engine = make_engine().engine
    for k, result in enumerate(results):
        assert same(steered("root(level=-1)", k).result(30), result)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("0 * half_space(direction=a, threshold=1e6)", "NaN"),
        ("half_space(direction=a, threshold=1e6) - half_space(direction=a, threshold=1e5)", "NaN"),
        ("-half_space(direction=a, threshold=1e6)", "+inf"),
    ],
)
def test_infinities_without_a_value_fail_the_request(models: dict[str, Model], make_engine, text: str, got: str):
    request = ask("rings", {"reward_a": AXES[0]}, samples=2, steps=3, reward=text)
    with pytest.raises(steering.SteeringError) as caught:
        start(make_engine().engine, models, request).result(30)
    error = job.request_error(caught.value)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert error.detail == f"reward {text!r}: expected finite values or -inf, got {got}"


SINGLE = "at most 3.40282e+38"


@pytest.mark.parametrize(
    ("text", "parameters", "expected"),
    [
        ("1e39 * nearness(mode=1)", {}, "expected numbers of " + SINGLE),
        ("nearness(mode=1) - 4e38", {}, "expected numbers of " + SINGLE),
        ("maximum(nearness(mode=1), -1e300)", {}, "expected numbers of " + SINGLE),
        (f"{10**60} * nearness(mode=1)", {}, "expected numbers of " + SINGLE),
        ("1e30 * 1e30 * nearness(mode=1)", {}, "expected finite numbers"),
        ("nearness(mode=1) + logsumexp(3e38 + 3e38, 0)", {}, "expected finite numbers"),
        ("linear(scale=1e39)", {}, "reward_scale of reward 'linear': expected a number of " + SINGLE),
        ("half_space", {"reward_threshold": -1e39}, "reward_threshold of reward 'half_space': expected a number of "),
        ("norm_band", {"reward_low": 1e308}, "reward_low of reward 'norm_band': expected a number of " + SINGLE),
        ("nearness", {"reward_mode": 1e39}, "reward_mode of reward 'nearness': expected int64"),
    ],
)
def test_numbers_that_float32_does_not_hold(models: dict[str, Model], text: str, parameters: Any, expected: str):
    with pytest.raises(RequestError) as caught:
        bind(text, models, (2,), parameters, direction(0) if "nearness" not in text and text != "norm_band" else {})
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert expected in caught.value.detail


def test_numbers_that_float32_holds_just_so(models: dict[str, Model]):
    for text in ("3e38 + nearness(mode=1)", "1e-46 * nearness(mode=1)", "maximum(nearness(mode=1), -3.4e38)"):
        assert bool(scores(of(text, models)).isfinite().all())


@pytest.mark.parametrize("text", ["3e38 * nearness(mode=1) - 3e38", "1e20 * nearness(mode=1) * 1e20"])
def test_scores_that_float32_does_not_hold(models: dict[str, Model], text: str):
    """Minus infinity would rule candidates out without a word."""
    with pytest.raises(SteeringError, match="expected values in the range of float32, got one beyond"):
        scores(of(text, models))
    with pytest.raises(SteeringError, match="'linear': expected values in the range of float32"):
        scores(bind("linear", {}, (2,), {"reward_scale": -3e38}, {"reward_direction": np.full(2, 1e3, np.float32)}))


def test_a_float_argument_of_a_network_fits_into_its_type():
    tensor = GraphTensor("scale", np.dtype(np.float32), ())
    half = GraphTensor("scale", np.dtype(np.float16), ())
    assert tensor_argument("r", tensor, 1e38).dtype == np.float32
    for each, value in ((tensor, 1e39), (tensor, np.array(-1e300)), (half, 1e5), (half, np.array(7e4))):
        with pytest.raises(RequestError, match="reward_scale of reward 'r': expected float"):
            tensor_argument("r", each, value)
