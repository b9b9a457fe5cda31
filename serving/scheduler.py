"""Whose rows go into the next network call: pure, so that its promises can be tested."""

from collections import deque
from collections.abc import Hashable, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)


@dataclass
class Waiting(Generic[Owner]):
    """Rows first..total of an evaluation are still to be run."""

    owner: Owner
    total: int
    first: int = 0

    @property
    def left(self) -> int:
        return self.total - self.first


@dataclass(frozen=True)
class Slice(Generic[Owner]):
    """Rows first..stop of an owner's evaluation, chosen for the next call."""

    owner: Owner
    first: int
    stop: int


def pack(queue: deque[Waiting[Owner]], capacity: int) -> list[Slice[Owner]]:
    """Take up to `capacity` rows, an equal share from each owner and what is over from those who have more.

    The queue turns: owners that were served only in part go to its end, so that each is reached within
    ceil(len(queue) / capacity) calls, whatever the others ask for. Owners served in full leave it. No row is taken
    twice, and none is passed over within an owner.
    """
    chosen: list[Waiting[Owner]] = []
    starts: list[int] = []
    while queue and len(chosen) < capacity:
        chosen.append(queue.popleft())
        starts.append(chosen[-1].first)
    room = capacity
    while room and (hungry := [each for each in chosen if each.left]):
        share = max(1, room // len(hungry))
        for each in hungry:
            taken = min(share, each.left, room)
            each.first += taken
            room -= taken
    queue.extend(each for each in chosen if each.left)
    return [Slice(each.owner, first, each.first) for each, first in zip(chosen, starts, strict=True)]


def bucket(rows: int, largest: int, uneven: Set[int] = frozenset()) -> int:
    """The batch size a call of `rows` rows is filled up to: 2, 3, 4, 6, 8, 12, 16, 24, ... and `largest`, without those
    in `uneven`, at which the network gives rows other bits.

    Two sizes per doubling waste at most a third of a call and keep the sizes a backend must be ready for few. A row
    never runs alone: runtimes have shortcuts for a batch of one (ONNX Runtime's sums over a middle axis) that round
    otherwise, and a row's bits must not tell whether it had company.
    """
    power = max(2, 1 << (rows - 1).bit_length())
    between = 3 * power // 4
    size = min(largest, between if between >= rows and power >= 4 else power)
    return bucket(size + 1, largest, uneven) if size in uneven and size < largest else size
