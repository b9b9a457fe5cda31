"""What `deterministic` promises and refuses, asked of a real front with two replicas."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from serving.models.model import Model, Sampler
from serving.wire.defaults import completed
from serving.wire.parameters import Parameters
from tests.networks import edit_card
from tests.serving.live import Live, running
from tests.serving.requests.test_job import refusal
from tests.unmodified import inferred, tensors

NEAR: dict[str, Any] = {"reward": "nearness", "reward_mode": 3, "beta": 0.2, "particles": 4}
STATE = np.array([[0.5, -1.0]], np.float32)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, small_models: Path) -> Iterator[Live]:
    """Two replicas with rings (a bank), stripes (conditional images), and rings whose card draws noise."""
    root = tmp_path_factory.mktemp("deterministic")
    for name in ("rings", "stripes", "nearness"):
        shutil.copytree(small_models / name, root / name)
    for name, defaults in (
        ("noisy", {"solver": "euler_ancestral", "steps": 6}),
        ("churned", {"solver": "heun", "steps": 4, "options": {"churn": 5.0}}),
        ("sprayed", {"solver": "ddim", "steps": 6, "options": {"eta": 1.0}}),
    ):
        shutil.copytree(small_models / "rings", root / name)
        edit_card(root / name, name=name, defaults=defaults)
        (root / name / "config.pbtxt").unlink(missing_ok=True)
    with running(root, count=2) as server:
        yield server


def asked(
    address: str, model: str = "rings", inputs: Mapping[str, Any] | None = None, **parameters: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    with triton.InferenceServerClient(address) as client:
        answer = inferred(client.infer(model, tensors(dict(inputs or {})), parameters=parameters, client_timeout=60))
    return answer.outputs, answer.parameters


PLAIN: dict[str, Any] = {"samples": 5, "seed": 11, "steps": 8, "deterministic": True}
WAYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("rings", {}, PLAIN),
    "from a client's state": ("rings", {"x_init": STATE}, {**PLAIN, "samples": 1}),
    "steered": ("rings", {}, {**PLAIN, **NEAR}),
    "steered from a state": ("rings", {"x_init": STATE}, {**PLAIN, **NEAR, "samples": 1}),
    "best of": ("rings", {}, {**PLAIN, "reward": "nearness", "reward_mode": 1, "steering": "best_of", "chains": 3}),
    "adaptive": ("rings", {}, {**PLAIN, "solver": "rk45"}),
    "guided": ("stripes", {"label": np.array([2])}, {**PLAIN, "guidance": 3.0}),
    "to noise": ("rings", {"x_init": STATE}, {**PLAIN, "samples": 1, "reverse": True}),
}


@pytest.mark.parametrize("way", WAYS)
def test_replays_have_one_hash_alone_and_among_others_on_either_replica(live: Live, way: str):
    model, inputs, parameters = WAYS[way]
    addresses = [live.address, *(each._address for each in live.replicas)]
    outputs, said = asked(live.address, model, inputs, **parameters)
    assert said["samples_sha256"] == hashlib.sha256(outputs["samples"].tobytes()).hexdigest()
    found = {(said["samples_sha256"], said["fingerprint"])}
    for address in addresses:
        alone, told = asked(address, model, inputs, **parameters)
        assert np.array_equal(alone["samples"], outputs["samples"])
        found.add((told["samples_sha256"], told["fingerprint"]))
    others: list[dict[str, Any]] = [{"samples": n, "seed": n, "steps": 3 + n, "solver": "heun"} for n in range(1, 5)]
    with ThreadPoolExecutor(8) as pool:
        among = [pool.submit(asked, addresses[i % 3], model, inputs, **parameters) for i in range(6)]
        for other in others:
            pool.submit(asked, live.address, "rings", **other)
        found |= {(each.result()[1]["samples_sha256"], each.result()[1]["fingerprint"]) for each in among}
    assert len(found) == 1


def test_only_deterministic_answers_have_a_hash(live: Live):
    parameters = {**PLAIN, "deterministic": False}
    outputs, said = asked(live.address, **parameters)
    assert "samples_sha256" not in said
    same, _ = asked(live.address, **PLAIN)
    assert np.array_equal(outputs["samples"], same["samples"])


def test_the_hash_comes_without_the_samples_too(live: Live):
    """Whoever only compares need not have them sent."""
    wanted = [triton.InferRequestedOutput("rewards")]
    with triton.InferenceServerClient(live.address) as client:
        answer = inferred(client.infer("rings", [], parameters={**PLAIN, **NEAR}, outputs=wanted, client_timeout=60))
    assert {*answer.outputs} == {"rewards"}
    assert answer.parameters["samples_sha256"] == asked(live.address, **PLAIN, **NEAR)[1]["samples_sha256"]


def test_a_default_that_draws_noise_is_replaced(live: Live):
    expected = asked(live.address, solver="dpmpp_2m", **{**PLAIN, "steps": 6})[0]["samples"]
    etas: list[dict[str, Any]] = [{}, {"eta": 0.0}]
    for eta in etas:
        outputs, said = asked(live.address, "noisy", samples=5, seed=11, deterministic=True, **eta)
        assert said["solver"] == "dpmpp_2m"
        assert np.array_equal(outputs["samples"], expected)
    assert asked(live.address, "churned", samples=1, deterministic=True)[1]["solver"] == "dpmpp_2m"
    outputs, said = asked(live.address, "sprayed", samples=5, seed=11, deterministic=True)
    assert said["solver"] == "ddim"  # without the card's eta
    assert np.array_equal(outputs["samples"], asked(live.address, solver="ddim", **{**PLAIN, "steps": 6})[0]["samples"])


@pytest.mark.parametrize("asked", [{"solver": "heun"}, {"solver": "ddim"}, {"reverse": True}, {"likelihood": "data"}])
def test_a_cards_eta_is_its_own_solvers_alone(asked: dict[str, Any]):
    """Another solver that is named, and the way to noise, have none of it."""
    card: dict[str, Any] = {"solver": "ddim", "eta": 1.0}
    assert completed(Parameters(), {}, card)[0].eta == 1.0
    assert completed(Parameters(**asked), {}, card)[0].eta is None


def test_steered_images_are_drawn_without_noise(live: Live):
    inputs = {"label": np.array([1]), "reward_direction": np.ones((1, 4, 4), np.float32)}
    parameters: dict[str, Any] = {"steps": 16, "reward": "linear", "posterior": "gaussian"}
    assert asked(live.address, "stripes", inputs, **parameters)[1]["solver"] == "sde_dpmpp_2m"
    assert asked(live.address, "stripes", inputs, deterministic=True, **parameters)[1]["solver"] == "dpmpp_2m"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"eta": 0.5}, "deterministic: expected eta 0, got 0.5"),
        ({"solver": "ddim", "eta": 1.0}, "deterministic: expected eta 0, got 1"),
        (
            {"solver": "sde_dpmpp_2m"},
            "deterministic: expected a plan without noise, got solver 'sde_dpmpp_2m'; without noise: dpmpp_2m",
        ),
        ({"solver": "sde_dpmpp_2m", "eta": 0.0}, "deterministic: expected a plan without noise, got solver 'sde_dpmpp"),
        ({"solver": "euler_a"}, "deterministic: expected a plan without noise, got solver 'euler_ancestral'"),
        (
            {"solver": "heun", "churn": 5.0},
            "deterministic: expected a plan without noise, got solver 'heun' with churn 5",
        ),
        ({"solver": "dlg"}, "deterministic: expected a plan without noise, got solver 'dlg'"),
        (
            {**NEAR, "steering": "smc"},
            "deterministic: expected steering without noise (none, doob, best_of, bank_resampling, "
            "classifier_guidance, dps, lgd_mc, tfg), got 'smc'",
        ),
        (
            {**NEAR, "steering": "doit", "preset": "hopper-medium-v2"},
            "deterministic: expected no preset, whose plan draws noise, got 'hopper-medium-v2'",
        ),
        ({**NEAR, "residual_wait": False}, "deterministic: expected residual_wait true, got false, which has other"),
        ({"solver": "nothing"}, "unknown solver 'nothing'"),
        ({**NEAR, "steering": "nothing"}, "unknown steering 'nothing'"),
    ],
)
def test_what_asks_for_noise_is_refused(models: dict[str, Model], parameters: dict[str, Any], expected: str):
    assert expected in refusal(models, "rings", deterministic=True, **parameters)


def test_nan_is_refused(live: Live):
    inputs = {"x_init": np.full((1, 2), np.nan, np.float32)}
    status, text = live.refusal(inputs=inputs, deterministic=True, reverse=True)
    assert (status, text) == ("INVALID_ARGUMENT", "input 'x_init': expected finite numbers, got NaN or infinity")


def test_rewards_that_are_scored_elsewhere_are_refused(small_models: Path):
    with running(small_models, rewards={"far": "127.0.0.1:9"}) as live:
        for reward in ("far", "nearness(mode=1) + far"):
            status, text = live.refusal(deterministic=True, reward=reward)
            assert status == "INVALID_ARGUMENT"
            expected = f"expected a reward that is scored here, got {reward!r}, which a service scores"
            assert text == f"deterministic: {expected}"


def test_while_a_bank_is_being_made_only_what_it_does_not_change_is_drawn(live: Live):
    replica = live.replicas[0]
    model = replica._models.model("rings")
    assert isinstance(model, Sampler)
    there = model.known
    try:
        model.learn(None, None)  # as it is loaded from a folder without a bank
        before, said = asked(replica._address, **PLAIN)
        with pytest.raises(InferenceServerException) as caught:
            asked(replica._address, **PLAIN, **NEAR)
        asked(replica._address, **{**PLAIN, "deterministic": False}, **NEAR)  # as ever, with a warning
    finally:
        model.known = there
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    expected = "model 'rings' is still making its bank, and steered samples will be others once it is there"
    assert caught.value.message() == f"deterministic: {expected}: try again later"
    after, told = asked(replica._address, **PLAIN)
    assert np.array_equal(before["samples"], after["samples"])
    assert said["samples_sha256"] == told["samples_sha256"]
    assert said["fingerprint"] != told["fingerprint"]
    assert "is still making its bank" in said["warnings"]
    assert "bank" not in told["warnings"]
