"""Products whose rows have the same bits in any batch."""

import pickle

import pytest
import torch

from steering.numerics.tiles import ROWS, Matrix, product

SHAPES = [(784, 4096), (4096, 784), (2, 1000), (100, 3), (1, 1)]


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_times_a_matrix_has_the_same_bits_in_any_batch(shape: tuple[int, int], dtype: torch.dtype):
    matrix, x = Matrix(numbers(*shape, dtype=dtype)), numbers(5 * ROWS + 3, shape[0], dtype=dtype)
    whole = matrix.times(x)
    places = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert torch.equal(matrix.times(x[places]), whole[places])
    for n in (1, 2, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS):
        assert torch.equal(matrix.times(x[:n]), whole[:n])
        assert torch.equal(matrix.times(x[-n:]), whole[-n:])


@pytest.mark.parametrize("columns", [*range(1, 20), 31, 33, 255, 257, 785])
@pytest.mark.parametrize("rows", [2, 10, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_has_the_same_bits_in_any_place_however_few_columns_there_are(
    columns: int, rows: int, dtype: torch.dtype
):
    values, x = numbers(rows, columns, dtype=dtype), numbers(5 * ROWS + 3, rows, dtype=dtype)
    places = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    for matrix in (values, values.T.contiguous().T):
        assert torch.equal(product(x[places], matrix), product(x, matrix)[places])


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_product_however_the_matrix_lies_in_memory(shape: tuple[int, int]):
    values, x = numbers(*shape), numbers(7, shape[0])
    exact = (x.double() @ values.double()).float()
    lying = [values, values.T.contiguous().T, numbers(2 * shape[0], shape[1])[::2].copy_(values)]
    for each in lying:
        assert torch.equal(Matrix(each).times(x), Matrix(values).times(x))
        torch.testing.assert_close(Matrix(each).times(x), exact, rtol=1e-4, atol=1e-3)
    assert not len(Matrix(values).times(x[:0]))


def test_it_has_the_same_bits_on_more_threads():
    matrix, x, before = Matrix(numbers(4096, 784)), numbers(20, 4096), torch.get_num_threads()
    found = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.append(matrix.times(x))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_without_onednn_it_is_the_tiled_product(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    values, x = numbers(30, 50), numbers(ROWS + 5, 30)
    assert torch.equal(Matrix(values).times(x), product(x, values))


def test_a_matrix_that_was_used_can_be_kept_in_a_file():
    matrix, x = Matrix(torch.randn(40, 32)), torch.randn(3, 40)
    expected = matrix.times(x)
    assert torch.equal(pickle.loads(pickle.dumps(matrix)).times(x), expected)
