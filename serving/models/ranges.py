"""What a graph's inputs may be, as far as it is known: from its own tables, and from a sampler's card."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import steering
from protos.card import Card, Range
from protos.ranges import divided, index_ranges
from serving.backends import Backend

_log = logging.getLogger(__name__)


class Found(NamedTuple):
    """What a graph's integer inputs may be, by name.

    Attributes:
        ranges: the least number and the greatest, as the graph's own tables have them.
        without: numbers that end the process: the graph divides them, and their quotient may have no place.
    """

    ranges: Mapping[str, tuple[int, int]]
    without: Mapping[str, Collection[int]]


def found(graph: Path, backend: Backend) -> Found:
    """What the graph says of its integer inputs; nothing where it is not here as ONNX."""
    whole = {each.name: each.dtype for each in backend.inputs if each.dtype.kind in "iu"}
    if not whole or graph.suffix != ".onnx" or not graph.is_file():
        return Found({}, {})
    import onnx  # slow to import, and most models have no such input

    try:
        model = onnx.load(str(graph), load_external_data=False)
    except Exception as error:  # ONNX Runtime has opened it; ranges are a help
        _log.warning("%s: no ranges of its inputs were looked for: %s", graph, error)
        return Found({}, {})
    without = {
        name: {_least(whole[name], plus) for plus in numbers}
        for name, numbers in divided(model.graph).items()
        if name in whole and whole[name] in (np.int32, np.int64)
    }
    return Found({name: each for name, each in index_ranges(model.graph).items() if name in whole}, without)


def _least(dtype: np.dtype[np.generic], plus: int) -> int:
    """What becomes the least number of its type when `plus` is added."""
    least = np.iinfo(str(dtype)).min
    return least + (-plus % (-2 * least))


def asked(card: Card, path: steering.Path) -> Mapping[str, Range]:
    """What a sampler's requests ask of its graph's inputs by name: its times, conditions and masks."""
    ranges = dict[str, Range]()
    ends = torch.tensor([path.t_min, path.t_max], dtype=torch.float64)
    times = steering.paths.time_input(card.inputs.time)(path, ends)
    if bool(times.isfinite().all()):  # log(sigma) may have no end
        ranges[card.inputs.t] = Range(min=float(times.min()), max=float(times.max()))
    for name, condition in card.conditions.items():
        if condition.mask is not None:
            ranges[condition.mask] = Range(min=0, max=1)
        if condition.dtype == "bool":
            ranges[name] = Range(min=0, max=1)
        elif condition.min is not None or condition.max is not None:
            ranges[name] = condition
        elif condition.dtype == "int64" and condition.null is not None and (most := int(np.max(condition.null))) > 0:
            ranges[name] = Range(min=0, max=most)  # classes are counted from 0, and the null is mostly one more
    return ranges
