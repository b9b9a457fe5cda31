"""Other people's graphs behind a real server: their cards alone make them give what the plain form gives."""

import concurrent.futures
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from tests import gaussians, scorers
from tests.scorers import EVENT
from tests.serving.live import Live, running
from tiltserve import Client, Inferred, InvalidArgument

FLOAT, HALF, BFLOAT16, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT8
Floats = NDArray[np.float32]
FORMS: dict[str, dict[str, Any]] = {
    "half": {"dtype": HALF},
    "bfloat": {"dtype": BFLOAT16},
    "scalar": {"time_shape": []},
    "variance": {"variance": 0, "learned_variance": True},
    "reversed": {"time": "1-t", "sign": -1.0, "output_scale": -1},
}
PLAIN = {"samples": 64, "seed": 3, "steps": 10}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("foreign")
    gaussians.write(root, "plain")
    for name, form in FORMS.items():
        gaussians.write(root, name, **form)
    mask = {"mask": {"dtype": "bool", "shape": [3], "null": False}}
    conditions = {"shift": mask["mask"]}
    gaussians.write(root, "masked", shift=(TensorProto.BOOL, [1, 3]), time_shape=[1], conditions=conditions)
    gaussians.write(root, "small", shift=(TensorProto.INT8, ["n"]), conditions={"shift": {"dtype": "int64"}})
    gaussians.write(root, "clipped", wild=50.0, clip=1.25)
    gaussians.write(root, "images", event=EVENT)
    sample = {"range": [-1, 4], "to": [0, 255], "layout": "HWC"}
    scorers.write(root, "bytes", (4, 6, 3), dtype=UINT8, gives=TensorProto.INT64, column=True, card={"sample": sample})
    scorers.write(root, "verdict", gives=TensorProto.BOOL, column=True, above=0.0)
    scorers.write(root, "unsaid", (4, 6, 3), dtype=UINT8)
    with running(root) as server:
        yield server


def infer(address: str, model: str, parameters: dict[str, Any], inputs: dict[str, NDArray[Any]]) -> Inferred:
    with Client(address) as client:
        return client.infer(model, inputs, parameters=parameters)


def ask(live: Live, model: str, inputs: dict[str, NDArray[Any]] | None = None, **parameters: Any) -> Any:
    return infer(live.address, model, PLAIN | parameters, inputs or {})


def samples(live: Live, model: str, inputs: dict[str, NDArray[Any]] | None = None, **parameters: Any) -> Floats:
    found: Floats = ask(live, model, inputs, **parameters).outputs["samples"]
    return found


def test_the_plain_form_has_its_law(live: Live):
    x = samples(live, "plain", samples=4096, steps=30)
    assert x.mean() == pytest.approx(gaussians.MEAN, abs=0.02)
    assert x.std() == pytest.approx(gaussians.STD, rel=0.03)


@pytest.mark.parametrize("form", FORMS)
def test_forms(live: Live, form: str):
    near = 0.02 if form == "half" else 1e-3
    np.testing.assert_allclose(samples(live, form), samples(live, "plain"), rtol=0, atol=near)


@pytest.mark.parametrize("form", ["scalar", "masked"])
def test_requests_at_other_times_change_no_byte(live: Live, form: str):
    """Of different step counts, so that calls hold rows of many times."""
    masks = {"shift": np.array([[True, False, True]])} if form == "masked" else {}
    alone = [samples(live, form, masks, seed=seed, samples=5, steps=3 + seed) for seed in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        together = pool.map(lambda seed: samples(live, form, masks, seed=seed, samples=5, steps=3 + seed), range(6))
    assert [each.tobytes() for each in together] == [each.tobytes() for each in alone]


def test_a_mask_is_a_condition(live: Live):
    free = samples(live, "masked")
    masks = np.arange(64 * 3).reshape(64, 3) % 2 == 0
    np.testing.assert_allclose(free, samples(live, "plain"), rtol=0, atol=1e-3)
    moved = samples(live, "masked", {"shift": masks})
    np.testing.assert_allclose((moved - free).mean(axis=1), masks.sum(axis=1), atol=0.1)
    with pytest.raises(
        InvalidArgument, match=r"condition 'shift': expected bool \[64, 3\] or \[1, 3\], got int64 \[64, 3\]"
    ):
        ask(live, "masked", {"shift": masks.astype(np.int64)})


def test_what_the_graphs_type_cannot_hold_is_refused(live: Live):
    moved = samples(live, "small", {"shift": np.array([2])})
    np.testing.assert_allclose((moved - samples(live, "plain")).mean(), 2, atol=0.1)
    with pytest.raises(
        InvalidArgument, match=r"condition 'shift': expected -128..127, as the graph's int8 holds, got 258"
    ):
        ask(live, "small", {"shift": np.array([258])})


def test_raw_networks_take_what_their_graphs_take(live: Live):
    x, t = np.zeros((3, 2), np.float32), np.array([0.2, 0.5, 0.5], np.float32)
    plain = infer(live.address, "plain.network", {}, {"x": x, "t": t}).outputs["output"]
    scalar = infer(live.address, "scalar.network", {}, {"x": x, "t": t}).outputs["output"]
    np.testing.assert_allclose(scalar, plain, rtol=1e-6)
    for one in (np.array(0.5, np.float32), np.array([0.5], np.float32)):  # in the graph's own shape, for all rows
        scalar = infer(live.address, "scalar.network", {}, {"x": x, "t": one}).outputs["output"]
        np.testing.assert_allclose(scalar[1:], plain[1:], rtol=1e-6)
    with pytest.raises(InvalidArgument, match="inputs: expected one batch size, got "):
        infer(live.address, "scalar.network", {}, {"x": x, "t": t[:2]})
    half = infer(live.address, "half.network", {}, {"x": x.astype(np.float16), "t": t.astype(np.float16)})
    assert half.outputs["output"].dtype == np.float16
    variance = infer(live.address, "variance.network", {}, {"x": x, "t": t}).outputs["output"]
    assert variance.shape == (3, 4)


def test_an_estimate_is_clipped(live: Live):
    x = samples(live, "clipped")
    np.testing.assert_allclose(x[:, 0], 1.25, atol=0.02)


def test_a_reward_of_bytes_with_channels_last(live: Live):
    answer = ask(live, "images", samples=16, reward="bytes", steering="none")
    x = answer.outputs["samples"]
    pixels = np.rint((x + 1) / 5 * 255).clip(0, 255).transpose(0, 2, 3, 1)
    expected = np.trunc((pixels * scorers.weights((4, 6, 3))).reshape(16, -1).sum(axis=1))
    np.testing.assert_allclose(answer.outputs["rewards"], expected, atol=1)
    steered = ask(live, "images", samples=16, reward="bytes", beta=100.0, posterior="gaussian")
    assert steered.outputs["rewards"].mean() > expected.mean() + 10


def test_a_verdict_as_a_reward(live: Live):
    answer = ask(live, "images", reward="verdict", steering="none")
    scores = (answer.outputs["samples"] * scorers.weights(EVENT)).reshape(64, -1).sum(axis=1)
    assert answer.outputs["rewards"].tolist() == (scores > 0).astype(float).tolist()
    assert 0 < answer.outputs["rewards"].mean() < 1
    twice = ask(live, "images", reward="2 * verdict + 1", steering="none")
    assert twice.outputs["rewards"].tolist() == (2 * answer.outputs["rewards"] + 1).tolist()


def test_what_does_not_fit_is_said(live: Live):
    with pytest.raises(
        InvalidArgument, match=r"reward 'unsaid': expected an input of floats \[n, 3, 4, 6\] for the sample, "
    ):
        ask(live, "images", reward="unsaid")
    with pytest.raises(InvalidArgument, match=r"reward 'unsaid': expected .* got image uint8 \[n, 4, 6, 3\]"):
        ask(live, "images", reward="unsaid + linear")
