"""Steered SDEs over the wire: a real client, front and replica."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests import dynamics
from tests.serving.live import Live, running
from tiltserve import Client, FailedPrecondition, InvalidArgument, Trajectories

ZERO, TIMES, DT = [[0.0, 0.0]], [0.0, 1.0, 2.0], 0.1
VARIANCE = DT * sum((1 - DT) ** (2 * j) for j in range(20))
"""Of either number of the end of `wiener`'s chain, which is normal around 0."""
RARE = 3.2 * math.sqrt(VARIANCE)
PROBABILITY = 0.5 * math.erfc(3.2 / math.sqrt(2))
"""7e-4: 128 plain paths see it in one of eleven requests."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("steered") / "models"
    dynamics.write_wells(root)
    with running(root, count=2) as live:
        yield live


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[Client]:
    with Client(live.address) as client:
        yield client


def number(found: Trajectories, name: str) -> float:
    """A number of the answer's parameters."""
    return float(found.parameters[name])


def asked(client: Client, **wanted: Any) -> Trajectories:
    usual: dict[str, Any] = {"samples": 128, "seed": 3, "reward": "first", "explorers": 64, "particles": 16}
    return client.solve("wiener", ZERO, TIMES, **{**usual, **wanted})


@pytest.fixture(scope="module")
def rare(client: Client) -> Trajectories:
    return asked(client, threshold=RARE)


def test_a_rare_event(rare: Trajectories) -> None:
    assert number(rare, "probability") == pytest.approx(PROBABILITY, rel=0.35)
    assert 0 < number(rare, "probability_error") < 0.4 * PROBABILITY
    assert rare.y is not None
    assert rare.y.shape == (128, 3, 2)
    assert rare.y.dtype == np.float32
    assert rare.statuses == ["ok"] * 128
    weights = rare.outputs["log_weights"]
    assert weights.dtype == np.float64
    assert math.exp(number(rare, "log_normaliser")) == pytest.approx(np.exp(weights).mean())
    assert rare.rewards is not None
    np.testing.assert_allclose(rare.rewards, rare.y[:, -1, 0], rtol=1e-6)
    np.testing.assert_array_equal(weights > -np.inf, rare.rewards >= RARE)
    assert number(rare, "reach") > 0.85
    assert number(rare, "ess") > 40
    assert rare.parameters["steering"] == "doob"
    assert rare.parameters["coordinate"] == "reward"


def test_no_network_rows_but_the_paths_own(client: Client, rare: Trajectories) -> None:
    """What was learnt serves requests of other seeds and sizes; on another replica it's learnt again, to the bit."""
    plain = asked(client, steering="none", threshold=RARE)
    assert rare.network_rows == plain.network_rows == rare.evaluations.sum() == 128 * 20
    found = [asked(client, threshold=RARE, seed=seed, samples=64) for seed in (3, 4, 3, 4, 3, 4)]
    assert {number(each, "setup_rows") for each in found} <= {0, number(rare, "setup_rows")}
    assert number(found[-1], "setup_rows") == 0 or number(found[-2], "setup_rows") == 0
    for one, other in ((0, 2), (1, 3), (0, 4), (1, 5)):
        for name in ("y", "log_weights"):
            assert found[one].outputs[name].tobytes() == found[other].outputs[name].tobytes()
    assert found[0].outputs["y"].tobytes() != found[1].outputs["y"].tobytes()


@pytest.mark.parametrize("coordinate", ["state", "grid", "2 * first"])
def test_what_log_h_is_a_function_of(client: Client, coordinate: str) -> None:
    found = asked(client, threshold=RARE, coordinate=coordinate, particles=32)
    assert number(found, "probability") == pytest.approx(PROBABILITY, rel=0.5)
    assert found.parameters["coordinate"] == coordinate


def test_a_tilt_and_its_rivals(client: Client) -> None:
    """exp(y / beta) moves a normal law by v / beta; an expression with an argument scores as a network does."""
    exact = VARIANCE / (2 * 0.5**2)
    for steering in ("doob", "splitting", "none"):
        found = asked(client, reward="first", beta=0.5, steering=steering, samples=256)
        near = 0.5 if steering == "none" else 0.3
        assert number(found, "log_normaliser") == pytest.approx(exact, abs=near), steering
        assert found.parameters["steering"] == steering
    direction = np.array([0.5, 0.0], np.float32)
    linear = asked(client, reward="2 * linear", reward_direction=direction, beta=0.5, seed=1)
    assert number(linear, "log_normaliser") == pytest.approx(exact, abs=0.3)


def test_a_reward_alone_only_scores(client: Client) -> None:
    found = client.solve("wiener", ZERO, TIMES, samples=4, reward="first")
    assert "log_weights" not in found.outputs
    assert "steering" not in found.parameters
    assert found.rewards is not None


def test_conditions_and_rewards_of_paths(client: Client) -> None:
    """The well is left more often when the slow number pushes; along the path rewards are no less, up to errors."""
    wanted: dict[str, Any] = {
        "samples": 64, "seed": 1, "reward": "first", "threshold": 0.6, "explorers": 64, "particles": 16,
    }  # fmt: skip
    start = [[-1.0, 0.5]]
    still, pushed, along = (
        number(client.solve("wells", start, TIMES, **wanted, **more), "probability")
        for more in ({}, {"push": np.array([2.0], np.float32)}, {"over": "max"})
    )
    assert 0 < still < pushed / 1.5
    assert along > 0.7 * still


def test_paths_that_fail_are_said(client: Client) -> None:
    found = client.solve(
        "wiener", [[5.9, 0.0]], [0.0, 0.5], samples=256, seed=1, reward="first", beta=5.0, steering="none"
    )
    failed = np.array(found.statuses) == "not_finite"
    assert 0 < failed.sum() < 256
    assert np.isnan(found.outputs["rewards"][failed]).all()
    assert (found.outputs["log_weights"][failed] == -np.inf).all()
    assert "not_finite" in found.warnings[0]


def test_nothing_found_is_a_warning(client: Client) -> None:
    found = asked(client, threshold=1e6, samples=8, explorers=16)
    assert number(found, "probability") == 0
    assert any("no path has weight" in each for each in found.warnings)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"reward": None, "beta": 1.0}, "expected a parameter reward"),
        ({"reward": None, "steering": "doob"}, "expected a parameter reward"),
        ({"beta": 1.0, "threshold": 1.0}, "no beta"),
        ({"beta": 0.0}, "beta"),
        ({"beta": 1.0, "solver": "milstein"}, "euler_maruyama"),
        ({"beta": 1.0, "particles": 6}, "multiple of 4"),
        ({"beta": 1.0, "explorers": 2}, "explorers"),
        ({"beta": 1.0, "coordinate": "nothing"}, "unknown reward"),
        ({"beta": 1.0, "coordinate": "grid", "over": "max"}, "over end"),
        ({"beta": 1.0, "over": "start"}, "over"),
        ({"beta": 1.0, "dt": 1e-6}, "at most"),
        ({"beta": 1.0, "dt": 1e-4}, "at most"),
        ({"beta": 1.0, "samples": 65536}, "at most"),
        ({"beta": 1.0, "y0": [[0.0, 0.0], [1.0, 0.0]], "samples": None}, "the same for all"),
        ({"beta": 1.0, "y0": [[math.nan, 0.0]]}, "finite"),
        ({"beta": 1.0, "t_eval": [0.0, -1.0]}, "rising"),
        ({"beta": 1.0, "t_eval": [0.0]}, "two"),
        ({"outputs": ["log_weights"]}, "beta or threshold"),
    ],
)
def test_refusals(client: Client, keywords: dict[str, Any], said: str) -> None:
    usual: dict[str, Any] = {"y0": ZERO, "t_eval": TIMES, "samples": 16, "reward": "first"}
    with pytest.raises(InvalidArgument) as refused:
        client.solve("wiener", **{**usual, **keywords})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_reward_that_is_nan(client: Client) -> None:
    with pytest.raises(FailedPrecondition, match="NaN"):
        client.solve("wiener", ZERO, TIMES, samples=16, reward="3e38 * first * 1e38 - 3e38 * first * 1e38", beta=1.0)
