"""Cards: what is read, what is refused, and how the refusal reads."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.card import Card, CardError, Condition, Range, dump_card, load_card

DIGITS = """
format: 1
name: digits
path: {kind: vp_cosine}
prediction: eps
preconditioning: none
t_range: [0.001, 0.999]
event_shape: [1, 28, 28]
inputs: {x: x, t: t, time: 1000*t}
output: output
conditions: {label: {dtype: int64, shape: [], null: 10}}
calibration: {t: [0.1, 0.5, 0.9], mse: [0.01, 0.1, 0.9]}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "card.yaml"
    file.write_text(text)
    return file


def complaint(folder: Path, text: str) -> str:
    file = write(folder, text)
    with pytest.raises(CardError) as caught:
        load_card(file)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{file}: ")
    return line.removeprefix(f"{file}: ")


def test_reads_a_whole_card(tmp_path: Path) -> None:
    card = load_card(write(tmp_path, DIGITS))
    assert card.is_sampler
    assert card.path == {"kind": "vp_cosine"}
    assert card.t_range == (0.001, 0.999)
    assert card.event_shape == (1, 28, 28)
    assert card.inputs.time == "1000*t"
    assert card.conditions["label"].null == 10
    assert card.calibration is not None
    assert card.calibration.mse == [0.01, 0.1, 0.9]
    assert card.posterior is None


def test_a_written_card_reads_back_equal(tmp_path: Path) -> None:
    card = load_card(write(tmp_path, DIGITS))
    copy = tmp_path / "copy.yaml"
    dump_card(card, copy)
    assert load_card(copy) == card


def test_a_plain_network_needs_only_its_name(tmp_path: Path) -> None:
    card = load_card(write(tmp_path, "name: classifier\n"))
    assert not card.is_sampler
    assert card == Card(name="classifier")


def test_a_third_partys_edm_network(tmp_path: Path) -> None:
    text = """
    name: theirs
    path: {kind: edm, sigma_min: 2e-2, sigma_max: 80}
    prediction: x0
    event_shape: [2]
    inputs: {x: noisy, t: noise_level, time: log(sigma)/4}
    output: denoised
    """
    card = load_card(write(tmp_path, text))
    assert card.path == {"kind": "edm", "sigma_min": 0.02, "sigma_max": 80}  # YAML 1.1 reads 2e-2 as text
    assert card.inputs.x == "noisy"


SAMPLER = "name: m\npath: {kind: vp_cosine}\nprediction: eps\nevent_shape: [2]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SAMPLER.replace("prediction", "predicton"), "unknown key 'predicton', did you mean 'prediction'?"),
        (SAMPLER + "inputs: {x: x, time_: t}", "inputs: unknown key 'time_', did you mean 'time'?"),
        (
            SAMPLER + "conditions: {label: {dtype: int64, shap: []}}",
            "conditions.label: unknown key 'shap', did you mean 'shape'?",
        ),
        (
            SAMPLER.replace("eps", "foo"),
            "prediction: expected 'eps', 'x0', 'v', 'velocity' or 'score', got 'foo'",
        ),
        (SAMPLER + "inputs: {time: 3}", "inputs.time: expected a valid string, got 3"),
        (
            SAMPLER.replace("prediction: eps", ""),
            "prediction: expected one of eps, x0, v, velocity, score beside a path",
        ),
        (SAMPLER.replace("event_shape: [2]", ""), "event_shape: expected the shape of one sample beside a path"),
        ("name: m\nprediction: eps\n", "path: expected one beside prediction, got none"),
        ("path: {kind: vp_cosine}\n", "name: expected a value, got none"),
        ("name: digits.network\n", "name: expected a name that does not end in .network"),
        ("name: ../etc\n", "name: string should match pattern"),
        (SAMPLER.replace("kind", "knd"), "path: expected the key 'kind'"),
        (
            SAMPLER.replace("{kind: vp_cosine}", "{kind: edm, sigma_max: .nan}"),
            "path: expected a finite number for 'sigma_max', got nan",
        ),
        (SAMPLER.replace("[2]", "[2, 0]"), "event_shape: expected axes >= 1, got [2, 0]"),
        (SAMPLER.replace("[2]", "[a]"), "event_shape.0: expected a valid integer, got 'a'"),
        (SAMPLER + "t_range: [0.9, 0.1]", "t_range: expected [low, high] with 0 <= low < high, got [0.9, 0.1]"),
        (SAMPLER + "calibration: {t: [1, 2], mse: [1]}", "calibration: expected as many mse as t, got 1 mse and 2 t"),
        (SAMPLER + "calibration: {t: [2, 1], mse: [1, 1]}", "calibration: expected ascending t"),
        (SAMPLER + "calibration: {t: [1], mse: [.nan]}", "calibration.mse.0: expected a finite number, got nan"),
        (
            SAMPLER + "conditions: {c: {dtype: float16}}",
            "conditions.c.dtype: expected 'int64', 'float32', 'float64' or 'bool', got 'float16'",
        ),
        (SAMPLER + "conditions: {c: {dtype: int64, null: none}}", "conditions.c.null: expected a number"),
        (
            SAMPLER + "conditions: {c: {dtype: int64, shape: [-2]}}",
            "conditions.c.shape: expected axes >= 1, or -1 for a free length, got [-2]",
        ),
        (
            SAMPLER + "conditions: {c: {dtype: int64, shape: [3], longest: 5}}",
            "conditions.c: longest: expected a free length (-1) in shape beside it, got none",
        ),
        (
            SAMPLER + "conditions: {c: {dtype: int64, shape: [-1], longest: 0}}",
            "conditions.c.longest: expected greater than or equal to 1, got 0",
        ),
        (
            SAMPLER + "conditions: {c: {dtype: int64, shape: [3], pad: 0}}",
            "conditions.c: pad: expected a free length (-1) in shape beside it, got none",
        ),
        (
            SAMPLER + "conditions: {c: {dtype: int64, shape: [-1], pad: 0.5}}",
            "conditions.c: pad: expected a whole number for int64, got 0.5",
        ),
        (
            SAMPLER + "conditions: {c: {dtype: bool, shape: [-1], pad: 2}}",
            "conditions.c: pad: expected true, false, 0 or 1 for bool, got 2",
        ),
        (
            SAMPLER + "conditions: {c: {dtype: bool, max: 1}}",
            "conditions.c: min, max: expected none for bool, got some",
        ),
        (
            SAMPLER + "conditions: {c: {dtype: int64, shape: [-1], mask: there}}",
            "conditions.c: mask: expected a pad and one free length (-1) in shape beside it, got others",
        ),
        (
            SAMPLER + "conditions: {c: {dtype: int64, shape: [-1], longest: 2, null: [1, 2, 3]}}",
            "conditions.c: null: expected free lengths of 1..2, got [3]",
        ),
        (
            SAMPLER + "conditions: {c: {dtype: int64, shape: [-1, 2], null: [1, 2, 3]}}",
            "conditions.c: null: expected shape [-1, 2], got [1, 2, 3]",
        ),
        (SAMPLER + "conditions: {c: {dtype: int64, guidance: no}}", "conditions.c.guidance: expected 'drop' or 'keep'"),
        ("name: m\narguments: {label: {min: 3, max: 2}}", "arguments.label: expected min <= max, got 3 and 2"),
        (SAMPLER + "arguments: {label: {min: 0}}", "arguments: expected none beside a path, got some"),
        (
            SAMPLER + "conditions: {c: {dtype: bool, null: 2}}",
            "conditions.c: null: expected true, false, 0 or 1 for bool, got 2",
        ),
        (SAMPLER + "output_scale: 0", "output_scale: expected a number other than 0, got 0"),
        (SAMPLER + "output_scal: 2", "unknown key 'output_scal', did you mean 'output_scale'?"),
        (SAMPLER + "learned_variance: 3", "learned_variance: expected a valid boolean, "),
        (SAMPLER + "clip: -1", "clip: expected a number > 0 or [low, high] with low < high, got [1.0, -1.0]"),
        (SAMPLER + "clip: [1, 0]", "clip: expected a number > 0 or [low, high] with low < high, got [1.0, 0.0]"),
        (
            SAMPLER + "clip: 1\ndynamic_threshold: {quantile: .9}",
            "dynamic_threshold: expected none beside clip, got one",
        ),
        (SAMPLER + "dynamic_threshold: {quantile: 2}", "dynamic_threshold.quantile: expected less than or equal to 1"),
        (SAMPLER + "dynamic_threshold: {most: .5}", "dynamic_threshold: expected most >= bound 1, got 0.5"),
        (
            SAMPLER + "dynamic_threshold: {ratio: .9}",
            "dynamic_threshold: unknown key 'ratio', expected one of bound, most, quantile",
        ),
        (SAMPLER + "sample: {layout: HWC}", "sample: expected none beside a path, got some"),
        (SAMPLER + "score_output: y", "score_output: expected none beside a path, got some"),
        ("name: m\noutput_scale: 2", "path: expected one beside output_scale, got none"),
        ("name: m\nclip: 1", "path: expected one beside clip, got none"),
        ("name: m\nsample: {layout: NHWC}", "sample.layout: expected 'CHW', 'HWC', 'HW' or 'flat', got"),
        ("name: m\nsample: {size: [8, 8]}", "sample: unknown key 'size', did you mean 'resize'?"),
        ("name: m\nsample: {range: [-1, 1]}", "sample: expected range and to together, got one of them"),
        ("name: m\nsample: {range: [1, 1], to: [0, 1]}", "sample: range: expected [low, high] with low < high"),
        ("name: m\nsample: {resize: [8, 0]}", "sample.resize: expected axes >= 1, got [8, 0]"),
        ("name: m\nsample: {mean: .5}", "sample: expected mean and std together, got one of them"),
        ("name: m\nsample: {mean: .5, std: 0}", "sample: std: expected numbers > 0, got 0"),
        (
            "name: m\nsample: {mean: [1, 2], std: [1]}",
            "sample: expected as many numbers in mean as in std, got [1.0, 2.0] and [1.0]",
        ),
        (SAMPLER + "format: 2", "format: expected 1, got 2"),
        ("just text", "expected keys and values, got 'just text'"),
        ("", "expected keys and values, got None"),
        ("name: [", "expected YAML, got "),
    ],
)
def test_refusals_name_the_key_and_what_came(tmp_path: Path, text: str, expected: str) -> None:
    assert complaint(tmp_path, text).startswith(expected)


def test_reads_what_adapts_a_network(tmp_path: Path) -> None:
    more = "clip: 1\noutput_scale: -1\nlearned_variance: true\n"
    mask = "conditions: {mask: {dtype: bool, shape: [3], null: false}}\n"
    card = load_card(write(tmp_path, SAMPLER + more + mask))
    assert card.clip == (-1.0, 1.0)
    assert card.output_scale == -1
    assert card.learned_variance
    assert card.conditions["mask"].null_rows is not None
    assert card.conditions["mask"].null_rows.tolist() == [[False, False, False]]
    copy = tmp_path / "copy.yaml"
    dump_card(card, copy)
    assert load_card(copy) == card
    scorer = "name: s\nsample: {range: [-1, 1], to: [0, 255], resize: [8, 8], layout: HWC}\nscore_output: logit\n"
    plain = load_card(write(tmp_path, scorer))
    assert plain.sample is not None
    assert plain.sample.resize == (8, 8)
    dump_card(plain, copy)
    assert load_card(copy) == plain


def test_what_a_card_does_not_say_is_not_written(tmp_path: Path) -> None:
    """Cards, and with them fingerprints, stay as they were before there were such keys."""
    dump_card(load_card(write(tmp_path, DIGITS)), tmp_path / "copy.yaml")
    text = (tmp_path / "copy.yaml").read_text()
    assert not any(key in text for key in ("output_scale", "learned_variance", "clip", "threshold", "sample", "score"))


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no such file"):
        load_card(tmp_path / "card.yaml")


def test_nulls_of_free_lengths(tmp_path: Path) -> None:
    """A number is as long as what stands beside it; a list has the length it has."""
    text = (
        SAMPLER
        + """
conditions:
  a: {dtype: float32, shape: [-1, 2], null: 0.5}
  b: {dtype: float32, shape: [-1, 2], null: [1, 2]}
  c: {dtype: int64, shape: [-1], longest: 4, null: [7, 8, 9], pad: 0, mask: there}
  d: {dtype: int64, shape: [-1]}
"""
    )
    a, b, c, d = load_card(write(tmp_path, text)).conditions.values()
    assert [each.most for each in (a, c)] == [1024, 4]
    assert [each.fed for each in (a, c)] == [(-1, 2), (4,)]
    wanted: list[tuple[Any, tuple[int, ...], list[Any]]] = [
        (a, (3, 2), [[[0.5, 0.5]] * 3]),
        (b, (2, 2), [[[1, 2], [1, 2]]]),
        (c, (2,), [[7, 8, 9]]),
    ]
    for spec, row, null in wanted:
        found = spec.null_like(row)
        assert found is not None
        assert (found.tolist(), found.dtype) == (null, spec.dtype)
    assert d.null_like((5,)) is d.null_rows is None
    shortest = [each.null_rows for each in (a, b, c)]
    assert [None if rows is None else rows.shape for rows in shortest] == [(1, 1, 2), (1, 1, 2), (1, 3)]
    assert [a.fits(row) for row in ((1, 2), (1024, 2), (0, 2), (1025, 2), (3,), (3, 1))] == [True] * 2 + [False] * 4


def test_what_is_outside_a_range_is_named():
    limits = Range(min=0, max=9)
    assert limits.fault(np.arange(10)) == ""
    assert limits.fault(np.array(-1)) == "expected 0..9, got -1"
    assert limits.fault(np.array([[3, 4], [5, 2**62]])) == "expected 0..9, got 4611686018427387904"
    assert Range(max=0.5).fault(np.array([0.25, 0.75], np.float32)) == "expected ..0.5, got 0.75"
    assert limits.fault(np.empty(0, np.int64)) == ""


def test_a_null_is_in_every_range():
    condition = Condition.model_validate({"dtype": "int64", "null": -1, "min": 0, "max": 9})
    assert condition.fault(np.array([0, 9, -1])) == ""
    assert condition.fault(np.array([0, -2])) == "expected 0..9, got -2"


def test_ranges_are_looked_at_in_one_go():
    """Four million labels took 12 s."""
    labels = np.zeros(4_000_000, np.int64)
    labels[-1] = 10
    began = time.thread_time()
    assert Range(min=0, max=9).fault(labels) == "expected 0..9, got 10"
    assert time.thread_time() - began < 1
