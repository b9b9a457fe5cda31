"""Several generators side by side: rows of one kind that they wait for at one time are asked for in one request."""

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from steering.sampling.rows import Result, Rows


def together(running: Sequence[Generator[Rows, Tensor, Result]]) -> Generator[Rows, Tensor, list[Result]]:
    """The results of all."""
    results: dict[int, Result] = {}
    waiting: dict[int, Rows] = {}

    def go_on(number: int, reply: Tensor | None) -> None:
        try:
            waiting[number] = next(running[number]) if reply is None else running[number].send(reply)
        except StopIteration as stop:
            results[number] = stop.value

    for number in range(len(running)):
        go_on(number, None)
    while waiting:
        for numbers in _alike(waiting):
            asked = [waiting.pop(number) for number in numbers]
            replies = (yield _joined(asked)).split([len(rows) for rows in asked])
            for number, reply in zip(numbers, replies, strict=True):
                go_on(number, reply)
    return [results[number] for number in range(len(running))]


def _alike(waiting: dict[int, Rows]) -> list[list[int]]:
    """The numbers of those whose rows can be one request."""
    groups: dict[object, list[int]] = {}
    for number, rows in waiting.items():
        shapes = tuple((name, tuple(tensor.shape[1:])) for name, tensor in sorted(rows.condition.items()))
        # a product's rows share its matrix; gradient rows are rare and go alone
        what = rows.kind in ("network", "reward", "product")
        groups.setdefault((rows.kind, rows.matrix, shapes) if what else number, []).append(number)
    return list(groups.values())


def _joined(asked: Sequence[Rows]) -> Rows:
    first = asked[0]
    if len(asked) == 1:
        return first
    condition = {name: torch.cat([rows.condition[name] for rows in asked]) for name in first.condition}
    x, t = torch.cat([rows.x for rows in asked]), torch.cat([rows.t for rows in asked])
    return Rows(first.kind, x, t, condition, matrix=first.matrix)
