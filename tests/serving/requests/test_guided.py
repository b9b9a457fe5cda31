"""Guidance and conditions of any length, asked of a whole server by NVIDIA's client, on laws that are known."""

import math
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests import networks, prompted
from tests.serving.live import Live, running

F = np.float32
N, W = 256, 3.0
ERROR = 5 * networks.SPREAD / math.sqrt(N)


def words(*each: tuple[float, float]) -> np.ndarray:
    """A prompt [1, L, 2]."""
    return np.array([each], F)


PROMPT = words((2, 1), (0, 3))
"""Of mean (1, 2)."""
OFFSET = np.array([[0.5, 0.0]], F)
BOTH = {"prompt": PROMPT, "offset": OFFSET}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("prompted")
    prompted.write(root)
    prompted.write(root, "padded", masked=True)
    shutil.copytree(root / "prompted", root / "keeping")
    conditions = dict(prompted.CARD["conditions"])
    conditions["offset"] = {**conditions["offset"], "guidance": "keep"}
    networks.edit_card(root / "keeping", name="keeping", conditions=conditions)
    shutil.copytree(root / "prompted", root / "strict")
    without = {name: {k: v for k, v in each.items() if k != "null"} for name, each in conditions.items()}
    networks.edit_card(root / "strict", name="strict", conditions=without)
    with running(root, threads=1) as live:
        yield live


def drawn(live: Live, inputs: dict[str, Any], model: str = "prompted", **parameters: Any) -> tuple[np.ndarray, Any]:
    given = {"samples": N, "seed": 1, **parameters}
    outputs, answered = live.infer(inputs, model=model, **given)
    return outputs["samples"], answered


def close(*mean: float) -> Any:
    return pytest.approx(mean, abs=ERROR)


def mean(x: np.ndarray) -> list[float]:
    return x.mean(axis=0).tolist()


@pytest.mark.parametrize("model", ["prompted", "padded"])
@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_a_prompt_has_any_length(live: Live, model: str, length: int):
    prompt = words(*((float(i), -1.0) for i in range(length)))
    x, answered = drawn(live, {"prompt": prompt}, model)
    assert mean(x) == close((length - 1) / 2, -1)
    assert float(x.std(axis=0).mean()) == pytest.approx(networks.SPREAD, rel=0.15)
    each, _ = drawn(live, {"prompt": np.repeat(prompt, N, axis=0)}, model)
    assert each.tobytes() == x.tobytes()
    assert answered["network_rows"] == 20 * N


@pytest.mark.parametrize("model", ["prompted", "padded"])
def test_a_prompt_is_null_where_none_is_sent(live: Live, model: str):
    assert mean(drawn(live, {}, model)[0]) == close(0, 0)
    assert mean(drawn(live, {"offset": OFFSET}, model)[0]) == close(0.5, 0)


@pytest.mark.parametrize("model", ["prompted", "padded"])
def test_a_negative_prompt_of_another_length(live: Live, model: str):
    """m_null + w (m - m_null); and each sample may have its own."""
    negative = words((-1, 0), (-2, 0), (0, 0))
    x, answered = drawn(live, {**BOTH, "null_prompt": negative}, model, guidance=W)
    assert mean(x) == close(-1 + W * (1.5 + 1), W * 2)
    assert answered["network_rows"] == 40 * N
    where = np.linspace(-1, 1, N, dtype=F)
    own = np.stack([where, 0 * where], axis=1)[:, None].repeat(3, axis=1)
    plain, _ = drawn(live, BOTH, model, guidance=W)
    assert mean(plain) == close(W * 1.5, W * 2)
    moved, _ = drawn(live, {**BOTH, "null_prompt": own}, model, guidance=W)
    np.testing.assert_allclose((moved - plain)[:, 0], where * (1 - W), atol=0.02)


@pytest.mark.parametrize("model", ["prompted", "padded"])
def test_requests_of_all_lengths_have_the_same_bytes_alone_and_together(live: Live, model: str):
    """Conditions and negative prompts of lengths 1 to 6, guided and not: among one another, the same."""
    rng = np.random.default_rng(0)
    asked = []
    for i in range(18):
        inputs = {"prompt": rng.standard_normal((1, 1 + i % 6, 2)).astype(F)}
        parameters: dict[str, Any] = {"samples": 1 + 3 * (i % 4), "seed": i, "steps": 6 + i % 3}
        if i % 3:
            inputs["null_prompt"] = rng.standard_normal((1, 1 + (i // 3) % 6, 2)).astype(F)
            parameters |= {"guidance": 2.5, "guidance_rescale": 0.3 * (i % 2)}
        asked.append((inputs, parameters))
    alone = [drawn(live, inputs, model, **parameters)[0].tobytes() for inputs, parameters in asked]
    with ThreadPoolExecutor(18) as pool:
        for _ in range(3):
            together = [pool.submit(drawn, live, inputs, model, **parameters) for inputs, parameters in asked]
            assert [each.result()[0].tobytes() for each in together] == alone


def test_padding_leaves_no_trace(live: Live):
    """Filled up with nines, which the mask hides: the samples are those of the graph that takes any length."""
    for length in (1, 3, 6):
        prompt = words(*((float(i), 2.0) for i in range(length)))
        free, padded = (drawn(live, {"prompt": prompt}, model)[0] for model in ("prompted", "padded"))
        np.testing.assert_allclose(padded, free, atol=1e-5)


def test_each_condition_is_dropped_or_kept(live: Live):
    wanted = {"both": (W * 1.5, W * 2), "prompt": (0.5 + W * 1, W * 2), "offset": (1 + W * 0.5, 2.0)}
    asked: list[tuple[dict[str, Any], str]] = [
        ({}, "both"),
        ({"guidance_drop": "prompt"}, "prompt"),
        ({"guidance_keep": "offset"}, "prompt"),
        ({"guidance_drop": "offset"}, "offset"),
        ({"guidance_drop": " offset, prompt"}, "both"),
    ]
    for parameters, which in asked:
        assert mean(drawn(live, BOTH, guidance=W, **parameters)[0]) == close(*wanted[which]), parameters
    assert mean(drawn(live, BOTH, "keeping", guidance=W)[0]) == close(*wanted["prompt"])
    assert mean(drawn(live, BOTH, "keeping", guidance=W, guidance_drop="prompt,offset")[0]) == close(*wanted["both"])


def test_nulls_of_a_request_stand_in_for_those_of_the_card(live: Live):
    nulls = {"null_prompt": words((0, 0)), "null_offset": np.zeros((1, 2), F)}
    x, _ = drawn(live, {**BOTH, **nulls}, "strict", guidance=W, guidance_drop="prompt,offset")
    assert mean(x) == close(W * 1.5, W * 2)
    x, _ = drawn(live, {**BOTH, "null_prompt": words((0, 0))}, "strict", guidance=W)  # its card keeps the offset
    assert mean(x) == close(0.5 + W, W * 2)


def test_null_rows_are_asked_inside_of_the_interval_alone(live: Live):
    plain, none = drawn(live, BOTH)
    whole, all_of_it = drawn(live, BOTH, guidance=W)
    for low, high, unit, inside in (
        (0.3, 0.6, "t", None),
        (0.0, 1.0, "t", 20),
        (1.0, 1e6, "rho", None),
        (-1.0, None, "logsnr", None),
        (None, 0.5, "sigma", None),
        (5000.0, None, "rho", 0),
    ):
        bounds = {"guidance_low": low, "guidance_high": high, "guidance_unit": unit}
        given: dict[str, Any] = {name: value for name, value in bounds.items() if value is not None}
        x, answered = drawn(live, BOTH, guidance=W, **given)
        rows = answered["network_rows"] // N - 20
        assert answered["network_rows"] == N * (20 + rows)
        if inside is None:
            assert 0 < rows < 20
            assert mean(plain)[1] + 0.05 < mean(x)[1] < mean(whole)[1] + 0.01
            assert answered["warnings"] == ""
        else:
            assert rows == inside
            assert x.tobytes() == (whole if inside else plain).tobytes()
            assert bool(answered["warnings"]) == (not inside)
    assert (none["network_rows"], all_of_it["network_rows"]) == (20 * N, 40 * N)


def test_the_front_counts_rows_of_an_interval_no_lower_than_they_are(live: Live):
    _, answered = drawn(live, BOTH, guidance=W, guidance_low=0.5, solver="rk45", samples=2, rtol=1e-3)
    assert answered["network_rows"] > 0
    assert answered["warnings"] == ""
    _, answered = drawn(live, BOTH, guidance=W, guidance_low=0.5, solver="heun", samples=8)
    assert 8 * 39 < answered["network_rows"] < 8 * 78


def test_rescaling_moves_what_guidance_overdoes(live: Live):
    """Guidance by 3 about a null of 0 triples what outputs differ by; rescaled, they have their own deviation."""
    base, _ = drawn(live, BOTH, guidance=W)
    same, _ = drawn(live, BOTH, guidance=W, guidance_rescale=0.0)
    assert same.tobytes() == base.tobytes()
    spread = [float(np.abs(drawn(live, BOTH, guidance=W, guidance_rescale=phi)[0]).max()) for phi in (0.0, 0.5, 1.0)]
    assert spread[0] > spread[1] > spread[2]
    one, _ = drawn(live, BOTH)
    unguided, _ = drawn(live, BOTH, guidance=1.0, guidance_rescale=0.7, guidance_low=0.2)  # 1 is no guidance
    assert unguided.tobytes() == one.tobytes()


@pytest.mark.parametrize(
    ("model", "inputs", "parameters", "expected"),
    [
        ("prompted", {"prompt": words(*[(0, 0)] * 7)}, {},
         r"condition 'prompt': expected float32 \[4, -1, 2\] or \[1, -1, 2\], -1 for 1..6, got float32 \[1, 7, 2\]"),
        ("prompted", {"prompt": np.zeros((1, 0, 2), F)}, {}, r"condition 'prompt': .* -1 for 1..6, got .*\[1, 0, 2\]"),
        ("prompted", {"prompt": np.zeros((1, 2), F)}, {}, r"condition 'prompt': expected .* got float32 \[1, 2\]"),
        ("prompted", {"prompt": np.zeros((3, 2, 2), F)}, {}, r"condition 'prompt': expected .*got float32 \[3, 2, 2\]"),
        ("prompted", {"prompt": np.zeros((1, 2, 2))}, {}, r"condition 'prompt': expected float32 .*got float64"),
        ("padded", {"prompt": words(*[(0, 0)] * 7)}, {}, r"condition 'prompt': .* -1 for 1..6, got float32 \[1, 7, 2"),
        ("padded", {"mask": np.ones((1, 6), np.bool_)}, {}, "known and mask: expected both inputs or neither"),
        ("prompted", {"null_prompt": np.zeros((1, 7, 2), F)}, {"guidance": 2.0}, "condition 'null_prompt': expected"),
        ("prompted", {"null_prompt": np.zeros((2, 2), F)}, {}, "condition 'null_prompt': expected float32"),
        ("prompted", {"null_style": PROMPT}, {}, "unknown input 'null_style', "),
        ("prompted", {"null_offset": OFFSET}, {"guidance": 2.0, "guidance_keep": "offset"},
         "null_offset: expected none for 'offset', which guidance keeps, got one"),
        ("prompted", {}, {"guidance": 2.0, "guidance_drop": "style"}, "guidance_drop: unknown condition 'style', expe"),
        ("prompted", {}, {"guidance": 2.0, "guidance_keep": ""}, "guidance_keep: unknown condition '', expected one o"),
        ("prompted", {}, {"guidance": 2.0, "guidance_keep": "prompt,offset"},
         "guidance 2.0: expected a condition that is dropped, got all of them kept"),
        ("prompted", {}, {"guidance": 2.0, "guidance_keep": "prompt", "guidance_drop": "offset"},
         "guidance_keep: expected none beside guidance_drop, got both"),
        ("prompted", {}, {"guidance_keep": 3}, "parameter guidance_keep: expected a valid string, got 3"),
        ("prompted", {}, {"guidance": 2.0, "guidance_low": 0.6, "guidance_high": 0.4},
         "guidance_low and guidance_high: interval: expected two values of t, the lower first, got 0.6 and 0.4"),
        ("prompted", {}, {"guidance_rescale": 1.5}, "parameter guidance_rescale: expected less than or equal to 1"),
        ("prompted", {}, {"guidance_rescale": -0.1}, "parameter guidance_rescale: expected greater than or equal to 0"),
        ("prompted", {}, {"guidance_unit": "step"}, "parameter guidance_unit: expected 't', 'sigma', 'rho' or 'logsnr"),
        ("prompted", {}, {"guidance_low": "low"}, "parameter guidance_low: expected a valid number, got 'low'"),
        ("strict", {"prompt": PROMPT, "offset": OFFSET}, {"guidance": 2.0},
         "guidance 2.0: expected a null value for prompt in the model's card, or an input null_prompt, got none"),
        ("strict", {"prompt": PROMPT}, {}, r"condition 'offset': expected float32 \[4, ...\] or \[1, ...\], got none"),
    ],
)  # fmt: skip
def test_what_is_refused(live: Live, model: str, inputs: dict[str, Any], parameters: dict[str, Any], expected: str):
    code, text = live.refusal(inputs=inputs, model=model, samples=4, **parameters)
    assert code == "INVALID_ARGUMENT", text
    assert re.match(expected, text), text


@pytest.mark.parametrize(
    ("solver", "more"),
    [("sde_dpmpp_2m", {"steering": "smc", "population": 8, "keep": 1}), ("dpmpp_2m", {"steering": "doob"})],
)
def test_steering_goes_with_all_of_it(live: Live, solver: str, more: dict[str, Any]):
    inputs = {**BOTH, "null_prompt": words((0, 0), (0, 0), (0, 0)), "reward_direction": np.array([1, 0], F)}
    given: dict[str, Any] = {"samples": 32, "guidance": W, "guidance_low": 0.2, "reward": "linear", "solver": solver}
    x, answered = drawn(live, inputs, **given, **more)
    assert np.isfinite(x).all()
    assert answered["reward_rows"] > 0
