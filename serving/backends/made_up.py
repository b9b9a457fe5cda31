"""Inputs made up to try a graph, since it comes without any: values that it accepts, in the ranges its card gives."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from protos.card import Range
from serving.backends import Array, Backend, GraphTensor, OutOfMemoryError, UnavailableError
from serving.backends.shared import varying

Feeds = dict[str, Array]

ROWS = 3
"""Rows of the call that shows whether a graph accepts values. A graph that wants a fixed number seldom wants 3."""
SEEDS = 2
"""Such calls that must be accepted."""
COUNTS = (1, 2, 4, 8, 16, 32, 64)
"""Other numbers of rows that a graph may have been written for."""
LENGTHS = (8, 16, 64, 4, 2, 1)
"""Lengths tried for axes whose length varies."""
TRIES = 64
"""Most combinations of laws that are tried."""
MANY = 5
"""Inputs beyond which not every combination of laws is a candidate, only the first of each, the second of each, ..."""


class RefusedError(Exception):
    """No made-up inputs were accepted; one line.

    Attributes:
        accepted: a number of rows that the graph does accept, None where it accepts none.
    """

    def __init__(self, cause: Exception, accepted: int | None) -> None:
        super().__init__(" ".join(str(cause).split()) or type(cause).__name__)
        self.accepted = accepted


@dataclass(frozen=True)
class Law:
    """Values between two ends: whole numbers with both ends, or numbers of a uniform law; normal ones without ends."""

    ends: tuple[float, float] | None
    whole: bool = False

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Values of that shape."""
        if self.ends is None:
            return rng.standard_normal(shape)
        low, high = self.ends
        return rng.integers(int(low), int(high), shape, endpoint=True) if self.whole else rng.uniform(low, high, shape)

    def others(self, rng: np.random.Generator, values: Array) -> Array:
        """Values of the same shape, each another one than there, unless the law has but one."""
        if self.ends is None or not self.whole or self.ends[0] == self.ends[1]:
            return self.draw(rng, values.shape)
        low, high = map(int, self.ends)
        steps = rng.integers(1, high - low, values.shape, endpoint=True)
        return low + (values.astype(np.int64) - low + steps) % (high - low + 1)


@dataclass(frozen=True)
class MadeUp:
    """Values by the laws of a graph's inputs; axes whose length varies have `length` numbers.

    What all rows of a call share has one value in them, unless the graph takes but one row.
    """

    inputs: Sequence[GraphTensor]
    laws: Mapping[str, Law]
    length: int = 1

    @classmethod
    def accepted(cls, backend: Backend, ranges: Mapping[str, Range] | None = None, most: int = ROWS) -> Self:
        """Laws whose values the graph accepts, in calls of at most `most` rows.

        Whole numbers are not zero if that is possible: a graph may divide by them.

        Args:
            ranges: of inputs by name; others have none.

        Raises:
            RefusedError: the graph accepts none.
            OutOfMemoryError, UnavailableError: as `Backend.run`.
        """
        candidates = list(itertools.islice(cls._all(backend.inputs, ranges or {}), TRIES))
        causes = []
        for each in candidates:
            if (cause := each._refusal(backend, min(ROWS, most))) is None:
                return each
            causes.append(cause)
        counts = (rows for rows in COUNTS if rows <= most and rows != ROWS)
        few = candidates[:4]
        raise RefusedError(causes[0], next((n for n in counts if any(not e._refusal(backend, n) for e in few)), None))

    @classmethod
    def _all(cls, inputs: Sequence[GraphTensor], ranges: Mapping[str, Range]) -> Iterator[Self]:
        """Every combination, the likeliest first."""
        laws = [_laws(each, ranges.get(each.name)) for each in inputs]
        lengths = LENGTHS if any(axis is None for each in inputs for axis in each.row) else (1,)
        if len(laws) > MANY:
            most = max(map(len, laws))
            chosen = [[law[min(k, len(law) - 1)] for law in laws] for k in range(most)]
        else:  # by the sum of their places: the first of each, then one input's second, ...
            places = sorted(itertools.product(*(range(len(law)) for law in laws)), key=sum)
            chosen = [[law[k] for law, k in zip(laws, place, strict=True)] for place in places]
        for each, length in itertools.product(chosen, lengths):
            yield cls(inputs, {tensor.name: law for tensor, law in zip(inputs, each, strict=True)}, length)

    @property
    def varying(self) -> frozenset[str]:
        """The inputs that differ from row to row."""
        return varying(self.inputs)

    def draw(self, rows: int, seed: int) -> Feeds:
        """Values [rows, ...] of every input; with one seed, the first rows of a larger call are the smaller call's."""
        feeds: Feeds = {}
        for k, each in enumerate(self.inputs):
            shape = (rows, *(axis or self.length for axis in each.row))
            value = _typed(self.laws[each.name].draw(np.random.default_rng([seed, k]), shape), each.dtype)
            feeds[each.name] = value if each.name in self.varying else np.repeat(value[:1], rows, axis=0)
        return feeds

    def others(self, feeds: Feeds, seed: int) -> Feeds:
        """Values of the same shapes, different everywhere but in what rows share."""
        return {
            each.name: _typed(
                self.laws[each.name].others(np.random.default_rng([seed, k]), feeds[each.name]), each.dtype
            )
            if each.name in self.varying
            else feeds[each.name]
            for k, each in enumerate(self.inputs)
        }

    def _refusal(self, backend: Backend, rows: int) -> Exception | None:
        """Why a call is refused; None if it is not."""
        try:
            for seed in range(SEEDS):
                feeds = self.draw(max(rows, ROWS), seed)
                # fewer rows than were refused together: each of them, so that it is not for their values
                for first in range(max(1, ROWS - rows + 1)):
                    call = {name: value[first : first + rows] for name, value in feeds.items()}
                    backend.run(call, [each.name for each in backend.outputs])
        except (OutOfMemoryError, UnavailableError):
            raise
        except Exception as error:  # a graph that divides whole numbers by zero raises what it likes
            return error
        return None


def _typed(values: Array, dtype: np.dtype[np.generic]) -> Array:
    """Values of a type; texts are numbers written out."""
    return values.astype(str).astype(object) if dtype == np.object_ else values.astype(dtype)


def _laws(tensor: GraphTensor, span: Range | None) -> Sequence[Law]:
    """Laws of an input's values, the likeliest to be accepted first."""
    if tensor.dtype.kind == "b":
        return Law((0, 1), whole=True), Law((1, 1), whole=True)
    low, high = (None, None) if span is None else (span.min, span.max)
    if tensor.dtype.kind != "f":
        return [Law(ends, whole=True) for ends in _ends(low, high)]
    if low is not None or high is not None:
        first = low if low is not None else float(high or 0) - 1
        return (Law((first, high if high is not None else first + 1)),)
    normal, unit, counts = Law(None), Law((0.05, 0.95)), Law((1, 2), whole=True)
    return (normal, unit, counts) if tensor.row else (unit, normal, counts)  # a number alone is likely to be a time


def _ends(low: float | None, high: float | None) -> Iterator[tuple[int, int]]:
    """Ends of whole numbers, those without zero between them first."""
    if low is None and high is None:
        yield from ((1, 2), (3, 5), (1, 1), (0, 1), (0, 0))
        return
    first = math.ceil(low) if low is not None else math.floor(high or 0) - 1
    last = math.floor(high) if high is not None else first + 1
    last = max(first, last)
    if first <= 0 and last > 1:
        yield 1, last
    yield first, last
    yield last, last
