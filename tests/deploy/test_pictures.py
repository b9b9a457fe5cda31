"""Pictures: every sample is where it should be, at the right grey level and size."""

import numpy as np
import pytest

from deploy.pictures import grey_images, grid, side_by_side


def ramp(count: int) -> np.ndarray:
    """`count` flat 4x5 images whose level rises from -1 to 1."""
    return np.broadcast_to(np.linspace(-1, 1, count, dtype=np.float32)[:, None, None], (count, 4, 5)).copy()


def test_levels_span_black_to_white_and_clip() -> None:
    levels = grey_images(np.array([-2, -1, 0, 1, 2], dtype=np.float32).reshape(5, 1, 1, 1))
    assert levels.dtype == np.uint8
    assert levels.ravel().tolist() == [0, 0, 128, 255, 255]


def test_a_grid_places_each_sample_row_by_row() -> None:
    samples = ramp(5)
    image = np.asarray(grid(samples, columns=3, scale=3, gap=1))
    assert image.shape == (3 * (2 * 5 + 1), 3 * (3 * 6 + 1))
    for index, level in enumerate(grey_images(samples)[:, 0, 0]):
        top, left = 3 * (1 + index // 3 * 5), 3 * (1 + index % 3 * 6)
        cell = image[top : top + 12, left : left + 15]
        assert (cell == level).all()
    assert (image[-15:, -18:] == 255).all()  # the empty sixth cell is paper


def test_channels_of_one_are_dropped() -> None:
    samples = ramp(4)
    assert grid(samples).tobytes() == grid(samples[:, None]).tobytes()


def test_few_samples_need_no_empty_columns() -> None:
    assert grid(ramp(2), columns=8, scale=1).size == (2 * 6 + 1, 6)


def test_side_by_side_holds_both_grids_and_titles() -> None:
    left, right = ramp(4), ramp(9)
    sheet = np.asarray(side_by_side([("plain", left), ("steered", right)], columns=2))
    for samples in (left, right):
        part = np.asarray(grid(samples, columns=2))
        windows = np.lib.stride_tricks.sliding_window_view(sheet[32:], part.shape)[0]
        assert any((window == part).all() for window in windows)
    assert (sheet[:32] < 128).any()  # the titles are written above them


def test_a_long_title_is_not_cut() -> None:
    sheet = np.asarray(side_by_side([("a title much wider than one small picture", ramp(1))]))
    assert (sheet[:, -8:] == 255).all()
    assert sheet.shape[1] > 200


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 3, 4, 5), (0, 4, 4), (1, 2, 3, 4, 5)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected images of shape \[n, h, w\] or \[n, 1, h, w\], got"):
        grid(np.zeros(shape, dtype=np.float32))


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="got NaN"):
        grid(np.full((1, 2, 2), np.nan, dtype=np.float32))
