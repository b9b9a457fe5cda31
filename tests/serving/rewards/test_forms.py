"""Scoring networks of other forms than [n, *event] -> [n]: their scores are those of the prepared samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from protos.card import Sample
from serving.backends import LoadError
from serving.backends.ort import OrtNetwork
from serving.backends.shared import per_row
from serving.models.folders import scan
from serving.models.model import Model
from serving.models.repository import load
from serving.rewards import Reward, bind
from serving.rewards.taking import Taking
from serving.wire.errors import RequestError
from tests import networks, scorers
from tests.scorers import EVENT, weights
from tests.serving.rewards.test_rewards import answered

X = 0.5 * torch.randn(9, *EVENT, generator=torch.Generator().manual_seed(0))
BYTES = {"range": [-1, 1], "to": [0, 255]}
Floats = NDArray[np.float32]


def models(root: Path) -> dict[str, Model]:
    return {folder.name: load(folder, lambda file: OrtNetwork(file, 1)) for folder in scan(root)}


def reward(root: Path, name: str = "scorer", event: tuple[int, ...] = EVENT, **arguments: Any) -> Reward:
    return bind(name, models(root), event, arguments, {})


def scored(root: Path, x: torch.Tensor = X, **arguments: Any) -> Floats:
    found = answered(reward(root, event=tuple(x.shape[1:]), **arguments).scores(x))
    assert found.dtype == torch.float32
    assert found.shape == (len(x),)
    result: Floats = found.numpy()
    return result


def total(image: NDArray[Any]) -> Floats:
    """What the networks give for prepared images."""
    return np.asarray((image * weights(image.shape[1:])).reshape(len(image), -1).sum(1), np.float32)


def refusal(root: Path, event: tuple[int, ...] = EVENT) -> str:
    with pytest.raises(RequestError) as caught:
        reward(root, event=event)
    return caught.value.detail


@pytest.mark.parametrize(
    ("gives", "cast"),
    [
        (TensorProto.FLOAT, np.float32),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.INT64, np.int64),
        (TensorProto.INT32, np.int32),
        (TensorProto.INT8, np.int8),
    ],
)
@pytest.mark.parametrize("column", [False, True])
def test_scores_may_be_any_numbers_and_columns(tmp_path: Path, gives: int, cast: type[np.generic], column: bool):
    scorers.write(tmp_path, "scorer", gives=gives, column=column)
    found = answered(reward(tmp_path).scores(X)).numpy()
    assert found.shape == (len(X),)
    np.testing.assert_allclose(found, total(X.numpy()).astype(cast), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("column", [False, True])
def test_a_verdict_is_0_or_1(tmp_path: Path, column: bool):
    scorers.write(tmp_path, "scorer", gives=TensorProto.BOOL, column=column, above=0.0)
    assert scored(tmp_path).tolist() == (total(X.numpy()) > 0).astype(float).tolist()


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16])
def test_samples_may_be_taken_as_other_floats(tmp_path: Path, dtype: int):
    scorers.write(tmp_path, "scorer", dtype=dtype)
    np.testing.assert_allclose(scored(tmp_path), total(X.numpy()), atol=5e-3)


@pytest.mark.parametrize("column", [False, True])
def test_a_scorer_of_one_row(tmp_path: Path, column: bool):
    scorers.write(tmp_path, "scorer", rows=1, column=column)
    np.testing.assert_allclose(scored(tmp_path), total(X.numpy()), rtol=1e-4, atol=1e-4)


def test_bytes_are_rounded_and_kept_in_their_range(tmp_path: Path):
    scorers.write(tmp_path, "scorer", dtype=TensorProto.UINT8, card={"sample": BYTES})
    x = X.clone()
    x[0], x[1] = 7.0, -7.0  # beyond the range: 255 and 0, not what is left of a cast
    pixels = np.clip(np.rint((x.numpy() + 1) * 127.5), 0, 255)
    np.testing.assert_allclose(scored(tmp_path, x), total(pixels), rtol=1e-5, atol=1e-2)
    assert pixels[0].min() == 255


@pytest.mark.parametrize(("dtype", "to"), [(TensorProto.INT8, [-128, 127]), (TensorProto.INT32, [0, 1000])])
def test_other_whole_numbers(tmp_path: Path, dtype: int, to: list[int]):
    scorers.write(tmp_path, "scorer", dtype=dtype, card={"sample": {"range": [-1, 1], "to": to}})
    pixels = np.rint((X.numpy() + 1) / 2 * (to[1] - to[0]) + to[0]).clip(to[0], to[1])
    np.testing.assert_allclose(scored(tmp_path), total(pixels), rtol=1e-4, atol=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_the_ends_of_types_of_whole_numbers(dtype: type[np.generic]):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max  # type: ignore[type-var]
    taking = Taking(Sample.model_validate({"range": [-1, 1], "to": [low, high]}), np.dtype(dtype))
    least, most = taking(torch.tensor([[-1.0], [1.0]]))[:, 0].tolist()
    assert least == low
    assert 0.999 * high < most <= high


def test_bytes_whose_channels_come_last(tmp_path: Path):
    scorers.write(
        tmp_path, "scorer", (4, 6, 3), dtype=TensorProto.UINT8, card={"sample": BYTES | {"layout": "HWC"}}
    )  # fmt: skip
    pixels = np.clip(np.rint((X.numpy() + 1) * 127.5), 0, 255)
    np.testing.assert_allclose(scored(tmp_path), total(pixels.transpose(0, 2, 3, 1)), rtol=1e-5, atol=1e-2)


def test_channels_have_their_mean_and_spread(tmp_path: Path):
    """ImageNet's numbers, as most classifiers want them."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    sample = {"range": [-1, 1], "to": [0, 1], "mean": mean, "std": std}
    scorers.write(tmp_path, "scorer", card={"sample": sample})
    there = (X.numpy() + 1) / 2
    expected = total((there - np.array(mean)[:, None, None]) / np.array(std)[:, None, None])
    np.testing.assert_allclose(scored(tmp_path), expected, rtol=1e-4, atol=1e-4)


def test_one_mean_serves_samples_of_any_shape(tmp_path: Path):
    scorers.write(tmp_path, "scorer", (5,), card={"sample": {"mean": 2, "std": 0.5}})
    x = torch.randn(4, 5)
    np.testing.assert_allclose(scored(tmp_path, x), total((x.numpy() - 2) / 0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size", [(8, 12), (2, 3), (5, 7)])
def test_images_are_resized(tmp_path: Path, mode: str, size: tuple[int, int]):
    scorers.write(
        tmp_path, "scorer", (*size, 3), card={"sample": {"resize": list(size), "filter": mode, "layout": "HWC"}}
    )  # fmt: skip
    antialias = {} if mode == "nearest" else {"antialias": True, "align_corners": False}
    torchs = "nearest-exact" if mode == "nearest" else mode
    there = torch.nn.functional.interpolate(X, size, mode=torchs, **antialias)
    np.testing.assert_allclose(scored(tmp_path), total(there.permute(0, 2, 3, 1).numpy()), rtol=1e-4, atol=1e-4)
    if size == (2, 3) and mode == "bilinear":  # a mean of what is there, not every second pixel
        flat = torch.ones(2, *EVENT) * torch.tensor([1.0, 2.0])[:, None, None, None]
        np.testing.assert_allclose(scored(tmp_path, flat), total(np.ones((2, 2, 3, 3))) * [1, 2], atol=1e-4)


GREY = X[:, :1]


@pytest.mark.parametrize(
    ("x", "shape", "sample", "expected"),
    [
        (GREY, (3, 4, 6), {"channels": 3}, GREY.expand(-1, 3, -1, -1)),
        (X, (3, 4, 6), {"channels": 3}, X),
        (GREY, (4, 6), {"layout": "HW"}, GREY[:, 0]),
        (X, (72,), {"layout": "flat"}, X.flatten(1)),
        (X[:, 0, 0], (6,), {"layout": "flat"}, X[:, 0, 0]),
        (X[:, 0], (24,), {"layout": "flat"}, X[:, 0].flatten(1)),
        (GREY, (4, 6, 3), {"channels": 3, "layout": "HWC", "mean": [0, 1, 2], "std": [1, 1, 1]},
         GREY.permute(0, 2, 3, 1) - torch.tensor([0.0, 1, 2])),
    ],
)  # fmt: skip
def test_channels_and_layouts(
    tmp_path: Path, x: torch.Tensor, shape: tuple[int, ...], sample: dict[str, Any], expected: torch.Tensor
):
    scorers.write(tmp_path, "scorer", shape, card={"sample": sample})
    np.testing.assert_allclose(scored(tmp_path, x), total(expected.numpy()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ({"channels": 4}, "channels: expected samples of 1 or 4, got 3"),
        ({"layout": "HW"}, "layout HW: expected samples of 1 channel, got 3"),
    ],
)
def test_channels_that_do_not_fit(tmp_path: Path, sample: dict[str, Any], expected: str):
    scorers.write(tmp_path, "scorer", card={"sample": sample})
    assert refusal(tmp_path) == f"reward 'scorer': sample: {expected}"


def test_a_row_has_the_same_bits_whatever_its_company(tmp_path: Path):
    sample = BYTES | {"resize": [7, 5], "filter": "bicubic", "mean": [1, 2, 3], "std": [2, 3, 4], "layout": "HWC"}
    scorers.write(tmp_path, "scorer", (7, 5, 3), card={"sample": sample})
    taking = reward(tmp_path).taking  # type: ignore[attr-defined]
    whole = taking(X)
    assert all(np.array_equal(taking(X[i : i + 1])[0], whole[i]) for i in range(len(X)))
    assert np.array_equal(taking(X[2:7]), whole[2:7])


def test_the_card_may_name_input_and_output(tmp_path: Path):
    inputs = [helper.make_tensor_value_info(name, 1, ["n", 2]) for name in ("x", "other")]
    outputs = [helper.make_tensor_value_info(name, 1, ["n"]) for name in ("reward", "second")]
    nodes = [
        helper.make_node("ReduceSum", ["x", "last"], ["reward"], keepdims=0),
        helper.make_node("ReduceSum", ["other", "last"], ["second"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "two", inputs, outputs, [helper.make_tensor("last", TensorProto.INT64, [1], [1])])
    networks.write_graph(tmp_path / "scorer", graph)
    x = torch.randn(3, 2)

    def found() -> Floats:
        given = {"reward_x": np.zeros(2, np.float32), "reward_other": np.ones(2, np.float32)}
        bound = models(tmp_path)
        taken = "reward_other" if (tmp_path / "scorer" / "card.yaml").exists() else "reward_x"
        given.pop(taken)
        return np.asarray(answered(bind("scorer", bound, (2,), {}, given).scores(x)).numpy())

    np.testing.assert_allclose(found(), x.sum(1), atol=1e-6)
    (tmp_path / "scorer" / "card.yaml").write_text("name: scorer\nsample: {input: other}\nscore_output: second\n")
    np.testing.assert_allclose(found(), x.sum(1), atol=1e-6)


def test_arguments_may_be_shared_or_masks(tmp_path: Path):
    """A scalar weight, and a mask, beside a sample: neither has to be an input of floats with rows."""
    inputs = [
        helper.make_tensor_value_info("x", 1, ["n", 2]),
        helper.make_tensor_value_info("weight", 1, []),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["n", 2]),
    ]
    nodes = [
        helper.make_node("Cast", ["mask"], ["kept"], to=1),
        helper.make_node("Mul", ["x", "kept"], ["masked"]),
        helper.make_node("Mul", ["masked", "weight"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "last"], ["reward"], keepdims=0),
    ]
    outputs = [helper.make_tensor_value_info("reward", 1, ["n"])]
    graph = helper.make_graph(nodes, "two", inputs, outputs, [helper.make_tensor("last", TensorProto.INT64, [1], [1])])
    networks.write_graph(tmp_path / "scorer", graph)
    x = torch.randn(3, 2)
    for mask in (np.array([True, False]), np.array([1, 0])):
        bound = bind("scorer", models(tmp_path), (2,), {"reward_weight": 3}, {"reward_mask": mask})
        np.testing.assert_allclose(answered(bound.scores(x)).numpy(), 3 * x[:, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (
            lambda root: scorers.write(root, "scorer", dtype=TensorProto.UINT8),
            "reward 'scorer': expected an input of floats [n, 3, 4, 6] for the sample, got image uint8 [n, 3, 4, 6]; "
            "how else it takes one, `sample` in its card says",
        ),
        (
            lambda root: scorers.write(root, "scorer", (4, 6, 3)),
            "reward 'scorer': expected an input of floats [n, 3, 4, 6] for the sample, got image float32 [n, 4, 6, 3]",
        ),
        (
            lambda root: scorers.write(root, "scorer", dtype=TensorProto.UINT8, card={"sample": {"layout": "CHW"}}),
            "reward 'scorer': expected an input of numbers [n, 3, 4, 6] for the sample, as its card says, whole "
            "numbers only with `range` and `to`, got image uint8 [n, 3, 4, 6]",
        ),
        (
            lambda root: scorers.write(root, "scorer", card={"sample": {"resize": [8, 8]}}),
            "reward 'scorer': expected an input of numbers [n, 3, 8, 8] for the sample, as its card says, "
            "got image float32 [n, 3, 4, 6]",
        ),
        (
            lambda root: scorers.write(root, "scorer", card={"sample": {"mean": [1, 2], "std": [1, 1]}}),
            "reward 'scorer': sample: mean: expected a number for each of 3 channels, got 2",
        ),
        (
            lambda root: networks.write_scale(root / "scorer", {"x": (1, ["n", *EVENT])}, ("y", ["n", *EVENT])),
            "reward 'scorer': expected an output [n] or [n, 1] of numbers for the score, got y float32 [n, 3, 4, 6]",
        ),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, write: Callable[[Path], object], expected: str):
    write(tmp_path)
    assert refusal(tmp_path).startswith(expected)


def test_samples_without_channels_have_no_layout(tmp_path: Path):
    scorers.write(tmp_path, "scorer", (5,), card={"sample": {"layout": "HWC"}})
    expected = "sample: resize, layout and channels: expected samples [channels, height, width], got [5]"
    assert refusal(tmp_path, (5,)) == f"reward 'scorer': {expected}"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({"sample": {"input": "picture"}}, r"sample.input: expected an input of the graph \(image\), got 'picture'"),
        ({"score_output": "logit"}, r"score_output: expected an output of the graph \(score\), got 'logit'"),
    ],
)
def test_names_that_the_graph_lacks(tmp_path: Path, card: dict[str, Any], expected: str):
    scorers.write(tmp_path, "scorer", card=card)
    with pytest.raises(LoadError, match=expected):
        models(tmp_path)


def test_per_row_leaves_graphs_with_rows_alone(tmp_path: Path):
    scorers.write(tmp_path, "scorer")
    backend = OrtNetwork(tmp_path / "scorer" / "1" / "model.onnx", 1)
    assert per_row(backend) is backend
