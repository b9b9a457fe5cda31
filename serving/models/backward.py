"""A network's vector-Jacobian graph beside it: what it must look like, and how it is fed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protos.card import Vjp
from serving.backends import Array, Backend, GraphTensor, LoadError, shown
from serving.engine.references import Feed
from serving.engine.task import Evaluation, Kind, Network


@dataclass(frozen=True, eq=False)
class Backward:
    """J^T v of one output in one input, beside the output itself.

    Attributes:
        card: which output and input, and the names of v and of J^T v.
        units: how many rows of the network itself one of its rows takes as long as, as both were measured.
    """

    network: Network
    card: Vjp
    units: float

    def evaluation(
        self,
        feeds: Mapping[str, Feed],
        cotangent: Tensor,
        kind: Kind,
        *,
        units: float | None = None,
        announced: bool = True,
        both: bool = False,
    ) -> Evaluation:
        """Asks for J^T `cotangent` [B, ...] at the network's own feeds; with `both`, for the output first."""
        takes = {each.name: each for each in self.network.backend.inputs}
        value = _shaped(cotangent, takes[self.card.cotangent])
        given: dict[str, Feed] = {name: each for name, each in feeds.items() if name in takes}
        given[self.card.cotangent] = value
        outputs = (self.card.of, self.card.gradient) if both else (self.card.gradient,)
        return Evaluation(self.network, given, outputs, len(value), kind, announced, units)


def number(array: Array) -> Tensor:
    """An output as float32, or float64 of a float64 graph."""
    kept = array.dtype in (np.float32, np.float64)
    return torch.from_numpy(np.ascontiguousarray(array if kept else array.astype(np.float32)))


def _shaped(cotangent: Tensor, tensor: GraphTensor) -> Array:
    """As the graph takes it: of its type, and [B, 1] where it wants columns."""
    array = cotangent.detach().contiguous().numpy().astype(tensor.dtype, copy=False)
    return array.reshape(len(array), *(axis or 1 for axis in tensor.row)) if array.ndim == 1 else array


def check_backward(file: object, card: Vjp, forward: Backend, backward: Backend) -> None:
    """LoadError where a graph is not the vector-Jacobian graph of the network beside it, after the graph's `file`."""
    takes, gives = ({each.name: each for each in side} for side in (forward.inputs, forward.outputs))
    for what, name, there in (("of", card.of, gives), ("to", card.to, takes)):
        if name not in there:
            raise LoadError(f"{file}: card vjp.{what}: expected one of {', '.join(there)}, got {name!r}")
    wanted = {**takes, card.cotangent: gives[card.of]}
    got = {each.name: each for each in backward.inputs}
    made = {each.name: each for each in backward.outputs}
    _check(file, "input", wanted, got, (card.cotangent, card.to))
    _check(file, "output", {card.of: gives[card.of], card.gradient: takes[card.to]}, made, (card.of, card.gradient))


def _check(
    file: object,
    what: str,
    wanted: Mapping[str, GraphTensor],
    got: Mapping[str, GraphTensor],
    needed: Sequence[str],
) -> None:
    """LoadError unless all that there is, is wanted and alike; of what is wanted, `needed` must be there."""
    if missing := [name for name in needed if name not in got]:
        raise LoadError(f"{file}: expected the {what} {missing[0]!r}, as the card's vjp says, got {', '.join(got)}")
    for name, here in got.items():
        if name not in wanted:
            raise LoadError(f"{file}: {what} {name!r}: expected one of {', '.join(wanted)}")
        there = wanted[name]
        if (here.row, here.dtype) != (there.row, there.dtype):
            raise LoadError(
                f"{file}: {what} {name!r}: expected {there.dtype} {shown(('n', *there.row))}, "
                f"got {here.dtype} {shown(('n', *here.row))}"
            )
