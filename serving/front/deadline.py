"""When a request must be answered."""

import math
import time


class Deadline:
    """The earliest of several limits, each in seconds from now; None is no limit."""

    def __init__(self, *limits: float | None) -> None:
        self._at = time.monotonic() + min((limit for limit in limits if limit is not None), default=math.inf)

    def left(self) -> float | None:
        """Seconds left: 0 after the deadline, None if there is no limit."""
        return None if self._at == math.inf else max(0.0, self._at - time.monotonic())

    def within(self, seconds: float) -> float:
        """Seconds left, at most `seconds`."""
        left = self.left()
        return seconds if left is None else min(left, seconds)

    @property
    def past(self) -> bool:
        return self.left() == 0.0
