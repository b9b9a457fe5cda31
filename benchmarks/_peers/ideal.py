"""What the bare network could do at best: no overhead, one row at a time, and nothing is computed in vain."""

import heapq
from collections.abc import Callable, Sequence

from benchmarks._peers.load import Outcome
from benchmarks._peers.trace import Request

Order = Callable[[Request], float]


def arrival(request: Request) -> float:
    """First come, first served: of all orders the one with the shortest tail where no request is given up."""
    return request.at


def deadline(request: Request) -> float:
    """Earliest deadline first: no order meets all deadlines where this one does not."""
    return request.at + request.timeout


ORDERS: dict[str, Order] = {"ideal, first come": arrival, "ideal, first due": deadline}


def ideal(requests: Sequence[Request], capacity: float, order: Order) -> list[Outcome]:
    """The request that is first in `order` has the network's `capacity` (rows/s), until one before it comes.

    A request that cannot be in time any more is given up when it is its turn.
    """
    outcomes: list[Outcome | None] = [None] * len(requests)
    waiting: list[tuple[float, int, float]] = []  # rank, index, seconds left
    coming = sorted(range(len(requests)), key=lambda i: requests[i].at, reverse=True)
    clock = 0.0
    while coming or waiting:
        if not waiting:
            clock = max(clock, requests[coming[-1]].at)
        while coming and requests[coming[-1]].at <= clock:
            index = coming.pop()
            heapq.heappush(waiting, (order(requests[index]), index, requests[index].rows / capacity))
        rank, index, left = heapq.heappop(waiting)
        if clock + left > deadline(requests[index]):
            outcomes[index] = Outcome("refused", clock - requests[index].at, 0.0, "")
            continue
        until = min(clock + left, requests[coming[-1]].at if coming else clock + left)
        if until < clock + left:
            heapq.heappush(waiting, (rank, index, clock + left - until))
        else:
            outcomes[index] = Outcome("ok", until - requests[index].at, 0.0, "")
        clock = until
    return [outcome for outcome in outcomes if outcome is not None]
