"""Conditions as a sampler's graph takes them: free lengths filled up where the card says so, with their masks."""

import numpy as np

from serving.backends import Array
from serving.models.model import Sampler


def fed(model: Sampler, name: str, value: Array) -> dict[str, Array]:
    """A condition [n, ...] of the card as inputs of the graph, by name.

    Lengths are always filled up to the card's `longest`: a row then has the same bytes whatever it shares a call with.
    """
    spec = model.card.conditions[name]
    if spec.pad is None:
        return {name: value}
    room = [(0, 0), *((0, axis - length) for axis, length in zip(spec.fed, value.shape[1:], strict=True))]
    filled = {name: np.pad(value, room, constant_values=spec.pad)}
    if spec.mask is not None:
        dtype = next(each.dtype for each in model.network.backend.inputs if each.name == spec.mask)
        length = value.shape[1 + spec.shape.index(-1)]
        filled[spec.mask] = np.tile(np.arange(spec.most) < length, (len(value), 1)).astype(dtype)
    return filled
