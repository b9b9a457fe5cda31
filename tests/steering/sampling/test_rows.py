"""Products that are remembered: asked for once, with the bits they would have had."""

from collections.abc import Generator

import torch
from torch import Tensor

from steering.numerics.tiles import Matrix
from steering.sampling.rows import Rows, answered, part_of, remembering


def asking(x: Tensor, matrix: Matrix) -> Generator[Rows, Tensor, Tensor]:
    return (yield Rows.product(x, matrix))


def run(rows: Generator[Rows, Tensor, Tensor]) -> tuple[Tensor, int]:
    """The result, and how many products were asked for."""
    asked: list[Matrix] = []

    def product(request: Rows) -> Tensor:
        assert request.matrix is not None
        asked.append(request.matrix)
        return request.matrix.times(request.x)

    return answered(rows, product), len(asked)


def test_products_of_a_part_are_taken_from_those_of_the_whole_bit_by_bit():
    g = torch.Generator().manual_seed(0)
    x, matrix = torch.randn(37, 96, generator=g), Matrix(torch.randn(96, 200, generator=g))
    known: dict[Matrix, Tensor] = {}
    whole, asked = run(remembering(asking(x, matrix), x, known))
    assert (asked, list(known)) == (1, [matrix])
    assert torch.equal(whole, matrix.times(x))
    rows = torch.tensor([3, 17, 20, 36])
    part = x[rows]
    again, asked = run(remembering(asking(part, matrix), part, part_of(known, rows)))
    assert asked == 0
    assert torch.equal(again, matrix.times(part))


def test_products_of_other_tensors_are_asked_for():
    x, matrix = torch.ones(2, 4), Matrix(torch.ones(4, 3))
    known = {matrix: torch.zeros(2, 3)}
    reply, asked = run(remembering(asking(2 * x, matrix), x, known))
    assert asked == 1
    assert torch.equal(reply, matrix.times(2 * x))
