"""What each identity has under way, held against its limits."""

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping

from serving.access.bucket import Bucket
from serving.access.caller import Caller, Limits
from serving.wire import errors
from serving.wire.errors import RequestError

SAVED_S = 10.0
"""Seconds of rows that an identity may save up, unless its limits say how many."""
_MOST = 100_000
"""Identities whose rows are remembered: JWTs may name any number."""


class Usage:
    """The requests under way and the rows of each identity, in one front."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way = Counter[str]()
        self._buckets: OrderedDict[str, tuple[Limits, Bucket]] = OrderedDict()

    @contextlib.contextmanager
    def of(self, who: Caller, asked: Mapping[str, int], rows: int) -> Iterator[None]:
        """Around a request of so many network rows. `asked` is by the names of limits.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, with the limit, its bound and what came.
        """
        limits = who.limits
        for name, came in asked.items():
            if (most := getattr(limits, name)) is not None and came > most:
                raise _over(who, name, f"at most {most}, got {came}")
        if limits.concurrent is not None and self._under_way[who.name] >= limits.concurrent:
            raise _over(who, "concurrent", f"at most {limits.concurrent} requests under way, got one more")
        self._take(who, rows)
        self._under_way[who.name] += 1
        try:
            yield
        finally:
            self._under_way[who.name] -= 1
            if not self._under_way[who.name]:
                del self._under_way[who.name]

    def _take(self, who: Caller, rows: int) -> None:
        rate = who.limits.rows_per_second
        if rate is None:
            return
        now = self._clock()
        limits, bucket = self._buckets.pop(who.name, (None, None))
        if bucket is None or limits != who.limits:  # new, or its limits have changed
            bucket = Bucket(rate, float(who.limits.rows_at_once or max(1.0, SAVED_S * rate)), now)
        self._buckets[who.name] = who.limits, bucket
        if len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)
        if bucket.take(rows, now):
            return
        wait = bucket.wait(rows, now)
        again = f"there are enough in {wait:.2g} s" if wait < float("inf") else "so many are never there"
        raise _over(
            who,
            "rows_per_second",
            f"at most {rate:g} network rows a second and {bucket.most:g} at once, got {rows} with "
            f"{int(bucket.level(now))} left; {again}",
        )


def _over(who: Caller, limit: str, expected: str) -> RequestError:
    whose = f" of {who.name!r}" if who.name else ""
    return errors.exhausted(f"limit {limit}{whose}: expected {expected}")
