"""Events, stiff solvers and exponents over the wire: a real client, front and replica."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tiltserve import Client, InvalidArgument

PHASES = np.array([0.3, 1.0, 2.0, 4.0])
STARTS = np.stack([np.cos(PHASES), np.sin(PHASES)], axis=1)
FINE: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}


@pytest.fixture(scope="module")
def client(odes: str) -> Iterator[Client]:
    with Client(odes) as client:
        yield client


@pytest.mark.parametrize("events", ["1:falling", "height:falling", {"network": "height", "direction": "falling"}])
def test_events_end_trajectories(client: Client, events: Any) -> None:
    found = client.solve("turning", STARTS, [0.0, 0.05, 6.0], events=events, **FINE)
    exact = np.remainder(math.pi - PHASES, 2 * math.pi) / 2
    assert found.statuses == ["event"] * 4
    assert found.ok.all()
    assert np.abs(found.outputs["t_event"][:, 0] - exact).max() < 1e-8
    assert found.outputs["y_event"].shape == (4, 1, 2)
    assert np.abs(found.outputs["y_event"][..., 1]).max() < 1e-8
    assert found.outputs["event"].tolist() == [[0]] * 4
    assert np.isnan(np.asarray(found)[:, 2]).all()
    assert "warnings" not in found.parameters or not found.warnings


def test_events_on_the_way(client: Client) -> None:
    """As company and alone, to the bit; the network's part of the answer's fingerprint."""
    asked: dict[str, Any] = {"events": "height:continue,0:rising:continue", "max_events": 3, "rtol": 1e-6}
    found = client.solve("turning", STARTS, [0.0, 6.0], **asked)
    assert found.statuses == ["ok"] * 4
    assert (np.diff(found.outputs["t_event"], axis=1) > 0).all()
    assert {*found.outputs["event"].ravel().tolist()} == {0, 1}
    for i in range(4):
        alone = client.solve("turning", STARTS[i : i + 1], [0.0, 6.0], **asked)
        for name in ("y", "t_event", "y_event", "event"):
            assert alone.outputs[name][0].tobytes() == found.outputs[name][i].tobytes()
    assert found.fingerprint != client.solve("turning", STARTS, [0.0, 1.0]).fingerprint


def test_a_stiff_model(client: Client) -> None:
    found = client.solve(
        "stiff", [[1.0, 0.0, 0.0]], [0.0, 0.4, 4e6], solver="esdirk4", rtol=1e-6, atol=1e-10, max_steps=2000
    )  # fmt: skip
    assert found.statuses == ["ok"]
    np.testing.assert_allclose(np.asarray(found)[0, 1], [0.98517213864, 3.3863953790e-05, 0.014794022184], rtol=1e-4)
    explicit = client.solve("stiff", [[1.0, 0.0, 0.0]], [0.0, 40.0], max_steps=300)
    assert explicit.statuses == ["max_steps"]


def test_exponents(client: Client) -> None:
    found = client.solve("saddle", STARTS, [0.0, 1.0, 3.0], sensitivity="ftle", rtol=1e-8)
    assert np.abs(found.outputs["ftle"][:, 1:] - 1).max() < 1e-7
    assert np.abs(found.outputs["exponents"][:, 1:] - [1, -1]).max() < 1e-7
    assert np.isnan(found.outputs["ftle"][:, 0]).all()
    assert found.network_rows == found.evaluations.sum()
    assert np.abs(np.asarray(found)[:, -1] - STARTS * np.exp([3, -3])).max() < 1e-5


def test_a_stiff_linear_part(client: Client) -> None:
    """dz/dt = (z_0, -z_1) + L z with rates of 1e6 and 3, whose fast one bounds no step."""
    matrix = np.diag([-1e6, -2.0])
    found = client.solve("saddle", STARTS, [0.0, 1.0], solver="imex4", linear=matrix, rtol=1e-7, atol=1e-9)
    assert np.abs(np.asarray(found)[:, -1] - STARTS * [0, np.exp(-3)]).max() < 1e-6
    assert found.evaluations.max() < 2000


def test_a_fractional_derivative(client: Client) -> None:
    """D^alpha z = -z, alpha = 1/2: z = exp(t) erfc(sqrt t)."""
    times = 2 * np.linspace(0, 1, 81) ** 4
    found = client.solve("decay", [[1.0, -2.0]], times, solver="fractional", alpha=0.5)
    exact = math.exp(2) * math.erfc(math.sqrt(2))
    assert np.abs(np.asarray(found)[0, -1] - np.array([1, -2]) * exact).max() < 2e-3


def test_metadata(client: Client) -> None:
    assert {"t_event", "y_event", "event", "ftle", "exponents"} <= {
        each.name for each in client.metadata("turning").outputs
    }


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"events": "2"}, "coordinate"),
        ({"events": "sky:rising"}, "sky"),
        ({"events": "turning"}, "plain model"),
        ({"events": "1:upward"}, "what:direction:terminal"),
        ({"events": ""}, "what:direction:terminal"),
        ({"events": "[" * 400}, "JSON"),
        ({"events": "[]"}, "1..16"),
        ({"events": ",".join("1" * 17)}, "1..16"),
        ({"events": "1" * 5000}, "500"),
        ({"events": '[{"coordinate": 1, "level": 1e999}]'}, "level"),
        ({"events": '[{"coordinate": 1, "network": "height"}]'}, "both or neither"),
        ({"events": '[{"network": "hei\\u0067ht"}]'}, "escapes"),
        ({"events": '[{"network": "height", "output": "z"}]'}, "output"),
        ({"events": "1", "solver": "rk4"}, "events"),
        ({"events": "1", "max_events": 0}, "max_events"),
        ({"max_events": 3}, "events"),
        ({"y0": np.ones((4096, 2)), "events": "1", "max_events": 1024}, "max_events"),
        ({"outputs": ["t_event"]}, "events"),
        ({"outputs": ["ftle"]}, "sensitivity"),
        ({"sensitivity": "ftle", "events": "1"}, "events"),
        ({"sensitivity": "ftle", "solver": "esdirk4"}, "explicit"),
        ({"sensitivity": "adjoint"}, "sensitivity"),
        ({"solver": "imex4"}, "linear"),
        ({"linear": np.eye(2)}, "linear"),
        ({"linear": np.eye(3), "solver": "imex4"}, "linear"),
        ({"linear": np.full((2, 2), np.inf), "solver": "imex4"}, "linear"),
        ({"solver": "fractional", "alpha": 2.0}, "alpha"),
        ({"t_eval": [1.0, 0.0], "solver": "fractional"}, "rising"),
    ],
)
def test_refusals(client: Client, keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        client.solve("turning", **{"y0": STARTS, "t_eval": [0.0, 1.0], **keywords})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
