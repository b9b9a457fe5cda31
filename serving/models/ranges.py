"""What a graph's inputs may be, as far as it is known: from its own tables, and from a sampler's card."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

import steering
from protos.card import Card, Range
from protos.ranges import index_ranges
from serving.backends import Backend

_log = logging.getLogger(__name__)


def found(graph: Path, backend: Backend) -> Mapping[str, tuple[int, int]]:
    """Ranges of the graph's integer inputs as its own tables have them; none where the graph is not here as ONNX."""
    whole = {each.name for each in backend.inputs if each.dtype.kind in "iu"}
    if not whole or graph.suffix != ".onnx" or not graph.is_file():
        return {}
    import onnx  # slow to import, and most models have no such input

    try:
        model = onnx.load(str(graph), load_external_data=False)
    except Exception as error:  # ONNX Runtime has opened it; ranges are a help
        _log.warning("%s: no ranges of its inputs were looked for: %s", graph, error)
        return {}
    return {name: each for name, each in index_ranges(model.graph).items() if name in whole}


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
