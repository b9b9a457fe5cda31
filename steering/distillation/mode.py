"""What a mode of distillation is given, and what it is."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.distillation.estimates import Estimator, State
from steering.distillation.levels import Levels
from steering.sampling.rows import Rows
from steering.targets.target import Target


@dataclass(frozen=True, eq=False)
class Looked:
    """B views, each looked at through `noises` noises: copies of the views, one block after another.

    Attributes:
        copies: x [noises * B, *event].
        of: [noises * B], the view of each copy, from 0.
        first, second: their levels at t1 and t2.
        noise: [noises * B, *event], for modes that draw some.
        rescale: see `Estimate.rescaled`.
        stride, scale: see `ism`.
        target: the reward that weighs noises, for the mode that does.
    """

    estimator: Estimator
    copies: State
    of: Tensor
    first: Levels
    second: Levels
    noise: State
    noises: int = 1
    rescale: float = 0.0
    stride: float = 200.0
    scale: float = 1.0
    target: Target | None = None


Direction = Callable[[Looked], Generator[Rows, Tensor, State]]


@dataclass(frozen=True)
class Mode:
    """A gradient of distillation.

    Attributes:
        direction: of a view [B, *event], which the optimiser goes down along; weights, clips and division by the number
            of views come after.
        noise: "fixed" or "iteration", which is best for it; None if it draws none.
        two: it compares t1 with t2.
        weighs: it weighs noises by a reward, and needs one.
        reference: its paper.
    """

    name: str
    direction: Direction
    noise: str | None
    two: bool
    reference: str
    weighs: bool = False


def mean_of(each: State, noises: int) -> State:
    """The mean [B, *event] over a view's noises."""
    blocks = each.chunk(noises)
    total = blocks[0]
    for block in blocks[1:]:  # one after another: a reduction's bits would depend on the batch
        total = total + block
    return total / noises if noises > 1 else total


def weighted(each: State, weights: Tensor) -> State:
    """sum_k w_k each_k [B, *event], weights [B, noises]."""
    shape = (-1, *(1 for _ in each.shape[1:]))
    total = torch.zeros_like(each[: len(weights)])
    for k, block in enumerate(each.chunk(weights.shape[1])):
        total = total + weights[:, k].reshape(shape) * block
    return total
