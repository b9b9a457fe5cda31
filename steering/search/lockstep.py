"""Many samplers at once: their rows go to the network together, each row with a time of its own."""

from collections.abc import Generator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from steering.errors import NetworkError
from steering.sampling.rows import Rows

Result = TypeVar("Result")


def lockstep(samplers: Sequence[Generator[Rows, Tensor, Result]]) -> Generator[Rows, Tensor, list[Result | None]]:
    """The results of `samplers`, None for those whose states grow until the network gives up."""
    results: list[Result | None] = [None] * len(samplers)
    waiting = {k: next(sampler) for k, sampler in enumerate(samplers)}
    while waiting:
        replies = (yield _joined(list(waiting.values()))).split([len(rows) for rows in waiting.values()])
        further = {}
        for k, reply in zip(waiting, replies, strict=True):
            try:
                further[k] = samplers[k].send(reply)
            except StopIteration as stop:
                results[k] = stop.value
            except NetworkError:
                pass
        waiting = further
    return results


def _joined(requests: Sequence[Rows]) -> Rows:
    """Network rows of several samplers as one request."""
    condition = {name: torch.cat([rows.condition[name] for rows in requests]) for name in requests[0].condition}
    return Rows(
        "network", torch.cat([rows.x for rows in requests]), torch.cat([rows.t for rows in requests]), condition
    )
