"""Row by row mathematics whose rows have the same bits in any batch.

Torch's matrix products change a row's last bits with the number of rows and, where the columns are no multiple of 16,
with the row's place among them, but not with its neighbours. So `Matrix` and `product` multiply tiles of one fixed
size, the last one padded with zeros, by matrices whose columns are padded. Reductions along a row keep its bits, except
that a single long row is divided among threads: `by_tiles` never leaves a row alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = 16
COLUMNS = 16


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix [d, k] that many samples' rows are multiplied by: as rows of kind "product", several samples' at once.

    A product of a few rows takes as long as it takes to read the matrix. MKL also copies it into another order each
    time, which takes as long again; oneDNN reads a copy that is put into order once.
    """

    values: Float[Tensor, "d k"]

    def times(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """x @ values."""
        if self._packed is None:
            return product(x, self._ordered)
        return _joined([_LINEAR(tile, self._packed, None, "none", [], "") for tile in _tiles(x)], len(x))

    @cached_property
    def _packed(self) -> Tensor | None:
        """The values in oneDNN's order for tiles of `ROWS` rows; None where torch has no such product."""
        if self.values.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            return None
        return torch.ops.mkldnn._reorder_linear_weight(self.values.T.contiguous(), ROWS)

    @cached_property
    def _ordered(self) -> Tensor:
        return self.values.contiguous()

    def __getstate__(self) -> dict[str, Tensor]:
        """The values alone: oneDNN's order cannot be written to a file."""
        return {"values": self.values}


_LINEAR = torch.ops.mkldnn._linear_pointwise


def product(x: Float[Tensor, "n d"], matrix: Float[Tensor, "d k"]) -> Float[Tensor, "n k"]:
    """x @ matrix."""
    k = matrix.shape[1]
    padded = torch.nn.functional.pad(matrix, (0, -k % COLUMNS)).contiguous()
    return _joined([tile @ padded for tile in _tiles(x)], len(x))[:, :k]


def _tiles(x: Float[Tensor, "n d"]) -> list[Tensor]:
    """The rows in tiles of `ROWS`, the last one padded with zeros."""
    padded = torch.nn.functional.pad(x, (0, 0, 0, -len(x) % ROWS))
    return [tile.contiguous() for tile in padded.split(ROWS)]


def _joined(parts: list[Tensor], n: int) -> Tensor:
    """The first n rows of the tiles' results."""
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[:n]


def by_tiles(function: Callable[[Tensor], tuple[Tensor, ...]], x: Float[Tensor, "n d"]) -> tuple[Tensor, ...]:
    """Apply `function` ([m, d] -> tensors of m rows) to a few rows at a time and join the results, [n, ...] each.

    Matrix products in it are to be `product`s.
    """
    parts = [function(tile) if len(tile) > 1 else _paired(function, tile) for tile in x.split(ROWS)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _paired(function: Callable[[Tensor], tuple[Tensor, ...]], row: Float[Tensor, "1 d"]) -> tuple[Tensor, ...]:
    return tuple(each[:1] for each in function(torch.cat([row, row])))
