"""A repository's model without a server: the same graph, with the same inputs, answers a sampler's rows."""

from collections.abc import Collection, Generator
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

import steering
from serving.backends import Array, LoadError
from serving.backends.opening import Opener
from serving.engine.references import whole
from serving.engine.task import Evaluation, Step
from serving.models.evaluations import evaluations
from serving.models.folders import scan
from serving.models.model import Sampler
from serving.models.repository import load
from serving.models.trial import Trials
from steering.sampling.rows import answered

Result = TypeVar("Result")
BATCH = 64
"""Rows per network call. A row's bytes do not depend on it, if the call has more than one row."""


def open_sampler(root: Path, name: str, threads: int = 2, *, trust: Collection[str] = ()) -> Sampler:
    """The newest version of the sampler `name` in the repository `root`.

    Args:
        trust: names of models that are opened even if their rows are not independent.

    Raises:
        LoadError: one line: no such model, no sampler, or what is wrong with its files.
    """
    folders = {folder.name: folder for folder in scan(root)} if root.is_dir() else {}  # of versions, the newest
    if name not in folders:
        raise LoadError(f"unknown model {name!r} in {root}: expected one of {', '.join(folders) or 'none'}")
    model = load(folders[name], Opener(threads), trials=Trials(trusted=name in trust))
    if not isinstance(model, Sampler):
        raise LoadError(f"model {name!r}: expected a sampler (a card with a path), got a plain network")
    return model


def solve(generator: Generator[steering.Rows, Tensor, Result], model: Sampler) -> Result:
    """The result of a generator of network rows, answered by the model's graph."""

    def answer(evaluation: Step) -> list[Array]:
        assert isinstance(evaluation, Evaluation)  # all evaluations are of this network
        parts = []
        for first in range(0, evaluation.rows, BATCH):
            feeds = {name: whole(value[first : first + BATCH]) for name, value in evaluation.feeds.items()}
            size = len(next(iter(feeds.values())))
            if size == 1:  # a row never runs alone, see backends.sizes
                feeds = {name: np.repeat(value, 2, axis=0) for name, value in feeds.items()}
            parts.append([output[:size] for output in model.network.backend.run(feeds, evaluation.outputs)])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    return answered(evaluations(generator, model, None), answer)
