"""What a replica tells of a request that ends: its times and the pieces of its trace, from what its task has taken."""

import time
from collections.abc import Iterator

from serving.engine.task import Task
from serving.watching import times
from serving.watching.record import Piece, Record


def close(record: Record) -> None:
    """Write into the record what is wanted of the times of a request that ends."""
    if record.asked:
        record.times = line(record)
    if record.trace is not None and record.trace.sampled and isinstance(record.task, Task):
        record.pieces += pieces(record.task)


def pieces(task: Task) -> Iterator[Piece]:
    """What a request waited for, each network and reward, and its own computations.

    A piece lasts from the first call to the end of the last; `seconds` are those of its calls, and `share_seconds` of
    them its own, by rows.
    """
    spent = task.spent
    yield Piece("queue", task.submitted, task.submitted + queued(task))
    for part in list(spent.parts.values()):  # a task that was cancelled may still be in a call
        told = {"rows": part.rows, "calls": part.calls, "seconds": part.seconds, "share_seconds": part.share_s}
        kind = part.kind if part.rows else "wait for"
        where = " elsewhere" if part.elsewhere and part.rows else ""
        yield Piece(f"{kind} {part.name}{where}", part.first, max(part.first, part.last), told)
    if spent.updates:
        told = {"calls": spent.updates, "seconds": spent.update_s}
        yield Piece("update", spent.update_first, spent.update_last, told)


def line(record: Record) -> str:
    """The times until now: decoding, queue, networks, rewards, the request's own computations, encoding, the whole.

    `network` and `reward` are whole calls in which rows of the request took part; those of a reward outside of the
    server, and of a client, include the wait for it.
    """
    seconds = {"decode": 0.0, "queue": 0.0, "network": 0.0, "reward": 0.0, "update": 0.0, "encode": 0.0}
    rows = {"network": 0, "reward": 0}
    for piece in record.pieces:
        seconds[piece.name] = seconds.get(piece.name, 0.0) + piece.ended - piece.began
    if isinstance(record.task, Task):
        spent = record.task.spent
        seconds["queue"] = queued(record.task)
        seconds["update"] = spent.update_s
        for part in list(spent.parts.values()):  # a task that was cancelled may still be in a call
            if part.rows:  # not what another request was waited for
                seconds[part.kind] += part.seconds
                rows[part.kind] += part.rows
    seconds["replica"] = record.seconds
    return times.line({name: 1000 * each for name, each in seconds.items()}, rows)


def queued(task: Task) -> float:
    """Seconds from when a task was made until its first call began, or until now."""
    return max(0.0, (task.begun or time.monotonic()) - task.submitted)
