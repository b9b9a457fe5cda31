"""Prompts are encoded: by rows of the text network, each text once, unless it is known from before."""

from collections.abc import Generator, Sequence

import numpy as np

from serving.backends import Array
from serving.engine.task import Evaluation, Step
from serving.models.encodings import Encoding, Encodings, Handle
from serving.models.pipeline import Reading
from serving.pipelines.beside import beside

TOGETHER = 64
"""Most prompts that are encoded in one evaluation: bounds what their rows take."""


def encodings_of(
    reading: Reading, kept: Encodings, prompts: Sequence[str], handles: Sequence[Handle]
) -> Generator[Step, list[Array], dict[Handle, Encoding]]:
    """What different prompts say, by their handles; what was encoded here is kept for later requests."""
    found = kept.known(handles)
    missing = [(handle, text) for handle, text in zip(handles, prompts, strict=True) if handle not in found]
    for first in range(0, len(missing), TOGETHER):
        part = missing[first : first + TOGETHER]
        made = yield from _encoded(reading, [text for _, text in part])
        new = dict(zip((handle for handle, _ in part), made, strict=True))
        kept.keep(new)
        found |= new
    return found


def _encoded(reading: Reading, prompts: Sequence[str]) -> Generator[Step, list[Array], list[Encoding]]:
    network, names = reading.model.network, [*reading.tokenizing.lengths]
    types = {each.name: each.dtype for each in network.backend.inputs}

    def tokenized() -> list[Array]:
        tokens = [reading.tokenizing(each) for each in prompts]
        rows = [np.stack([each.rows[name] for each in tokens]).astype(types[name]) for name in names]
        return [*rows, np.array([each.cut for each in tokens])]

    *rows, cut = yield beside("tokenizer", tokenized)
    outputs = tuple(dict.fromkeys(reading.gives.values()))
    feeds = dict(zip(names, rows, strict=True))
    results = yield Evaluation(network, feeds, outputs, len(prompts), units=reading.units)
    # rows of their own: what is kept must not hold on to those that it came with
    return [
        Encoding({name: np.array(whole[i]) for name, whole in zip(outputs, results, strict=True)}, int(cut[i]))
        for i in range(len(prompts))
    ]
