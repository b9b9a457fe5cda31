"""Shapes of tensors are checked while the tests run."""

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from steering.numerics.tiles import product
from steering.posteriors.calibration import Calibration
from steering.targets.target import Target


def test_axes_of_one_name_must_agree():
    with pytest.raises((TypeCheckError, BeartypeCallHintViolation), match="matrix"):
        product(torch.zeros(2, 3), torch.zeros(4, 5))
    assert product(torch.zeros(2, 3), torch.zeros(3, 5)).shape == (2, 5)


def test_types_of_numbers_are_checked_too():
    target = Target(lambda x: x.sum(1), 1.0)
    with pytest.raises((TypeCheckError, BeartypeCallHintViolation), match="rewards"):
        target.log_weights(torch.zeros(3, dtype=torch.int64))


def test_hints_without_a_shape_are_for_the_type_checker():
    assert Calibration([0.1, 0.9], [1, 2]).t == [0.1, 0.9]  # type: ignore[arg-type, comparison-overlap]
