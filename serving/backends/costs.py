"""Seconds of a network's calls by size in rows; the engine chooses sizes by them."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from functools import cached_property

GUESSED_ROW_S = 1e-3
"""Seconds of a row where nothing was measured."""
EAGER = 1.1
"""The price of rows left over, in prices of the best size: a measurement's noise must not make calls small."""
PATIENCE = 4.0
"""Calls of at most this many times the seconds of the smallest call may be larger than that for a better price."""


class Costs:
    """Seconds of a call by its size in rows. Only listed sizes are used, and none costs less than a smaller one.

    Args:
        seconds: as measured. Where noise makes a larger call cheaper, the smaller one is given its cost.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        if not seconds or min(seconds) < 1 or min(seconds.values()) <= 0:
            raise ValueError(f"expected positive sizes with positive seconds, got {dict(seconds)}")
        self.sizes = tuple(sorted(seconds))
        least, costs = float("inf"), []
        for size in reversed(self.sizes):
            least = min(least, seconds[size])
            costs.append(least)
        self._costs = tuple(reversed(costs))
        self._at_price: dict[float, int] = {}
        self._chosen: dict[int, int] = {}

    @classmethod
    def guessed(cls, sizes: tuple[int, ...]) -> "Costs":
        """For a network whose inputs cannot be made up: each row the same."""
        costs = cls({size: size * GUESSED_ROW_S for size in sizes})
        costs.usual = costs.largest  # calls that may cost much of themselves are not made small
        return costs

    @property
    def largest(self) -> int:
        return self.sizes[-1]

    @cached_property
    def row_s(self) -> float:
        """Seconds of a row in calls of the best size."""
        return min(cost / size for size, cost in zip(self.sizes, self._costs, strict=True))

    @cached_property
    def usual(self) -> int:
        """Rows of a call at most, where no size is asked for: larger ones hardly cost less a row, and a request that
        comes while a call runs waits for its end."""
        return max(self.at_price(EAGER), self.within(PATIENCE * self._costs[0]))

    def up_to(self, most: int) -> "Costs":
        """The same costs without calls of more than `most` rows; the smallest size is kept."""
        kept = [size for size in self.sizes if size <= most] or [self.sizes[0]]
        if len(kept) == len(self.sizes):
            return self
        costs = Costs({size: self.seconds(size) for size in kept})
        costs.usual = min(self.usual, costs.largest)
        return costs

    def times(self, times: float) -> "Costs":
        """The costs of rows that take so many times as long and as much memory: calls hold fewer of them."""
        costs = Costs({size: times * self.seconds(size) for size in self.sizes})
        costs.usual = self.usual
        return costs.up_to(max(1, int(self.largest / max(1.0, times))))

    def only(self, size: int) -> "Costs":
        """Of calls of one size, which is one of `sizes`: they hold as many rows as there are."""
        return Costs({size: self.seconds(size)})

    def holding(self, rows: int) -> int:
        """The smallest size that holds `rows` rows, or the largest size."""
        return self.sizes[min(bisect_left(self.sizes, rows), len(self.sizes) - 1)]

    def seconds(self, rows: int) -> float:
        """Seconds of a call that holds `rows` rows."""
        return self._costs[min(bisect_left(self.sizes, rows), len(self.sizes) - 1)]

    def within(self, seconds: float) -> int:
        """The largest size that costs at most `seconds`, or the smallest size."""
        return self.sizes[max(0, bisect_right(self._costs, seconds) - 1)]

    def at_price(self, times: float) -> int:
        """The smallest size at which a row costs at most `times` the best price; `times` is more than 1."""
        if times not in self._at_price:
            fitting = [size for size in self.sizes if self.seconds(size) <= times * size * self.row_s]
            self._at_price[times] = min(fitting, default=self.largest)
        return self._at_price[times]

    def choose(self, rows: int) -> int:
        """The size of the next call when `rows` rows wait, at most `usual`: what it leaves over costs the best price.

        Minimises cost(size) + EAGER (rows left over) row_s; of equal sizes, the largest.
        """
        rows = min(rows, self.usual)  # what is left over beyond that costs the same whatever the size
        if rows not in self._chosen:
            self._chosen[rows] = min(
                reversed(self.sizes[: bisect_left(self.sizes, rows) + 1]),
                key=lambda size: self.seconds(size) + EAGER * max(0, rows - size) * self.row_s,
            )
        return self._chosen[rows]
