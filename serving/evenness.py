"""In calls of which sizes a graph gives a row other bits than in the largest: measured when it is loaded.

Vectorised exponentials and sines run over a batch's numbers in strides, and what is left over at the end is rounded
by other code. So where rows are short, a row's last bits depend on how many rows there are; such sizes are not used.
"""

import math

import numpy as np

from serving.backends import Array, Backend, InputError
from serving.scheduler import bucket

REFERENCE = 32
SIZES = tuple(sorted({bucket(rows, REFERENCE) for rows in range(1, REFERENCE)} - {REFERENCE}))
SHORT, TRIALS = 1024, 8
"""Graphs with fewer numbers a row are tried so many times, longer rows once."""


def uneven_sizes(backend: Backend) -> frozenset[int]:
    """Sizes below 32 at which a row's bits differ; none for graphs whose inputs cannot be made up."""
    if any(axis is None for each in backend.inputs for axis in each.row):
        return frozenset()
    numbers = sum(math.prod(axis or 0 for axis in each.row) for each in backend.inputs)
    rng = np.random.default_rng(0)
    uneven: set[int] = set()
    names = [each.name for each in backend.outputs]
    try:
        for _ in range(TRIALS if numbers < SHORT else 1):
            feeds = {each.name: _made_up(rng, each.row, each.dtype) for each in backend.inputs}
            whole = backend.run(feeds, names)
            for size in SIZES:
                for first in (0, REFERENCE - size):
                    rows = slice(first, first + size)
                    part = backend.run({name: value[rows] for name, value in feeds.items()}, names)
                    if any(not _equal(a, b[rows]) for a, b in zip(part, whole, strict=True)):
                        uneven.add(size)
    except InputError:
        return frozenset()
    return frozenset(uneven)


def _made_up(rng: np.random.Generator, row: tuple[int | None, ...], dtype: np.dtype[np.generic]) -> Array:
    """Rows of an input: numbers in 0..1 for scalars such as times, normal ones for tensors, zeros for labels."""
    shape = (REFERENCE, *(axis or 0 for axis in row))
    if dtype.kind != "f":
        return np.zeros(shape, dtype)
    return (rng.standard_normal(shape) if row else rng.uniform(0.05, 0.95, shape)).astype(dtype)


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
