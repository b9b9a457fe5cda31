"""The ONNX Runtime backend on the demo's own classifier."""

from pathlib import Path

import numpy as np
import pytest

from serving.backends import InputError
from serving.backends.ort import OrtNetwork

CLASSIFIER = Path(__file__).parents[2] / "deploy" / "models" / "classifier" / "1" / "model.onnx"


def test_a_label_out_of_bounds_is_the_inputs_fault():
    network = OrtNetwork(CLASSIFIER, threads=1)
    images = np.zeros((2, 1, 28, 28), np.float32)
    with pytest.raises(InputError, match=r"^an index out of bounds in a GatherElements node$"):
        network.run({"x": images, "label": np.array([99, 1])}, ["reward"])
    (reward,) = network.run({"x": images, "label": np.array([7, 1])}, ["reward"])
    assert reward.astype(float).max() < 0
