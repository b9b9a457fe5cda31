"""Matrix products whose rows have the same bits in any batch.

Torch's matrix products change a row's last bits with the number of rows, so rows go through in tiles of one fixed
size, the last one filled up with zeros. A row's place within its tile is its sample's place in the request.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = 16


def by_tiles(function: Callable[[Tensor], tuple[Tensor, ...]], x: Float[Tensor, "n d"]) -> tuple[Tensor, ...]:
    """Apply `function` ([ROWS, d] -> tensors of ROWS rows) tile by tile and join the results, [n, ...] each."""
    n = len(x)
    padded = torch.nn.functional.pad(x, (0, 0, 0, -n % ROWS))
    parts = [function(tile.contiguous()) for tile in padded.split(ROWS)]
    return tuple(torch.cat(column)[:n] for column in zip(*parts, strict=True))
