"""Samples of a sampler of the repository, as a request for them would be answered."""

from pathlib import Path

from torch import Tensor

import steering
from exporters.network import OnnxNetwork
from protos.card import load_card


def network(repository: Path, model: str, rows: int = 64) -> OnnxNetwork:
    """The newest graph of a model, with its card."""
    folder = repository / model
    version = max(int(each.name) for each in folder.iterdir() if each.name.isdigit())
    return OnnxNetwork(folder / str(version) / "model.onnx", load_card(folder / "card.yaml"), rows=rows, threads=1)


def samples(net: OnnxNetwork, n: int, *, solver: str, steps: int, seed: int = 0, **condition: Tensor) -> Tensor:
    """n samples [n, *event], which depend on the seed alone."""
    card = net.card
    assert card.prediction is not None  # a sampler
    plan = steering.plan(solver, path=net.path, steps=steps, prediction=card.prediction, limit=net.limit, end=card.end)
    return steering.run(plan, net, (n, *card.event_shape), seed, condition=condition or None)
