"""Row by row mathematics whose rows have the same bits in any batch.

Torch's matrix products change a row's last bits with the number of rows, but not with the row's place or its
neighbours. So `Matrix` and `product` multiply tiles of one fixed size, the last one padded with zeros. Reductions along
a row keep its bits, except that a single long row is divided among threads: `by_tiles` never leaves a row alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = 16


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix [d, k] that many samples' rows are multiplied by: as rows of kind "product", several samples' at once.

    A product of a few rows takes as long as it takes to read the matrix.
    """

    values: Float[Tensor, "d k"]

    def times(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """x @ values."""
        return product(x, self.values)


def product(x: Float[Tensor, "n d"], matrix: Float[Tensor, "d k"]) -> Float[Tensor, "n k"]:
    """x @ matrix."""
    n = len(x)
    padded = torch.nn.functional.pad(x, (0, 0, 0, -n % ROWS))
    parts = [tile.contiguous() @ matrix for tile in padded.split(ROWS)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[:n]


def by_tiles(function: Callable[[Tensor], tuple[Tensor, ...]], x: Float[Tensor, "n d"]) -> tuple[Tensor, ...]:
    """Apply `function` ([m, d] -> tensors of m rows) to a few rows at a time and join the results, [n, ...] each.

    Matrix products in it are to be `product`s.
    """
    parts = [function(tile) if len(tile) > 1 else _paired(function, tile) for tile in x.split(ROWS)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _paired(function: Callable[[Tensor], tuple[Tensor, ...]], row: Float[Tensor, "1 d"]) -> tuple[Tensor, ...]:
    return tuple(each[:1] for each in function(torch.cat([row, row])))
