"""Seconds that identities had, so that each gets an even share before requests are compared: pure.

Start-time fair queueing (Goyal, Vin and Cheng 1996): each identity has a virtual time, which runs while it is served,
and who has the least is next. One that had nothing to do comes back at the least time of those that waited: it saved
up nothing. So an identity that always has work gets at least its share, whatever the others ask for, and what an
identity does not use goes to the others. With one identity there is nothing to share.
"""

from collections.abc import Collection

GRACE_S = 1.0
"""Seconds by which an identity may be ahead of the others while a deadline of its own goes first: deadlines are kept
where requests are mixed as they usually are, and whoever gives one to every request gains so much, once."""
_MOST = 1000


class Shares:
    """Virtual times by identity. Those that are not held are where one that comes anew begins."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._now = 0.0

    def __getitem__(self, identity: str) -> float:
        return self._spent.get(identity, self._now)

    def come(self, identity: str) -> None:
        """An identity has something to do."""
        self._spent[identity] = max(self[identity], self._now)
        if len(self._spent) > _MOST:  # clients may have any number of names
            self._spent = {name: spent for name, spent in self._spent.items() if spent > self._now}

    def least(self, waiting: Collection[str]) -> float:
        """The time of those that are next, of the identities that wait; there must be one."""
        least = min(self[each] for each in waiting)
        self._now = max(self._now, least)
        return least

    def ahead(self, identity: str) -> float:
        """Seconds that an identity had more than the one that is next."""
        return self[identity] - self._now

    def charge(self, identity: str, seconds: float) -> None:
        """An identity was served for so long."""
        self._spent[identity] = self[identity] + seconds
