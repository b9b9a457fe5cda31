"""Rows of an input by reference: they become one array when a call needs them, and not before."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.backends import Array


@dataclass(frozen=True)
class References:
    """Rows [n, *row] of one type, where many may be one and the same array.

    What a prompt says is some megabytes (5.2 for Stable Diffusion 3), and every step of every sample needs it: requests
    refer to it, and only the network call has it once a row.
    """

    rows: tuple[Array, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.rows[0].shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice) -> "References":
        return References(self.rows[index])


Feed = Array | References
"""What an input is fed, [rows, ...]."""


def whole(feed: Feed) -> Array:
    """A feed as one array."""
    return np.stack(feed.rows) if isinstance(feed, References) else feed


class Gatherer:
    """Makes arrays of rows. The last one is kept: in the next step of the same requests the rows are the same."""

    def __init__(self) -> None:
        self._rows: tuple[Array, ...] = ()
        self._whole = np.empty(0)

    def gathered(self, parts: Sequence[Feed], copies: int) -> Array:
        """All rows of the parts one after another, and so many copies of the last; nobody may write to them."""
        rows = tuple(row for part in parts for row in (part.rows if isinstance(part, References) else part))
        rows += rows[-1:] * copies
        if len(rows) != len(self._rows) or any(a is not b for a, b in zip(rows, self._rows, strict=True)):
            self._whole, self._rows = np.stack(rows), rows
        return self._whole
