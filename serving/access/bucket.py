"""A token bucket: pure, the time is passed in."""


class Bucket:
    """Holds up to `most` units, filled at `rate` a second; full at first.

    Args:
        now: seconds on any clock, which must not run backwards; of all methods.
    """

    def __init__(self, rate: float, most: float, now: float) -> None:
        self.rate, self.most = rate, most
        self._level, self._at = most, now

    def level(self, now: float) -> float:
        """What there is."""
        return min(self.most, self._level + self.rate * max(0.0, now - self._at))

    def take(self, units: float, now: float) -> bool:
        """Take so many, if there are so many."""
        level = self.level(now)
        if units > level:
            return False
        self._level, self._at = level - units, now
        return True

    def wait(self, units: float, now: float) -> float:
        """Seconds until there are so many; infinite where there never will be."""
        if units > self.most:
            return float("inf")
        return max(0.0, units - self.level(now)) / self.rate
