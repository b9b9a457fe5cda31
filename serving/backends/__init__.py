"""What runs networks. A backend takes arrays by input name, one row per sample, and returns arrays."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph. `row` is the shape of one row; None stands for a length that varies.

    Attributes:
        shared: where the graph has no batch axis here and takes one value for all rows of a call, that value's shape:
            [] or [1] of a time, [1, 77, 768], [77, 768]. `row` is then without a first axis of 1.
        bfloat16: it is bfloat16 in the graph; a backend takes and gives it in float32.
    """

    name: str
    dtype: np.dtype[np.generic]
    row: tuple[int | None, ...]
    shared: tuple[int, ...] | None = None
    bfloat16: bool = False

    def fits(self, row: tuple[int, ...]) -> bool:
        """Whether a row of this shape is one of this tensor's."""
        return len(row) == len(self.row) and all(b in (None, a) for a, b in zip(row, self.row, strict=True))


def shared_input(
    name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...], *, bfloat16: bool = False
) -> GraphTensor:
    """An input without a batch axis."""
    return GraphTensor(name, dtype, shape[1:] if shape[:1] == (1,) else shape, shape, bfloat16)


def shown(shape: Iterable[int | str | None]) -> str:
    """A shape as errors name it, such as `[n, 3, ?]`: letters name lengths, `?` is a length that varies."""
    return "[" + ", ".join("?" if axis is None else str(axis) for axis in shape) + "]"


class LoadError(Exception):
    """A graph that cannot be run; one line."""


class InputError(Exception):
    """Inputs that a graph refuses, such as an index out of bounds; one line."""


class OutOfMemoryError(Exception):
    """A call that needed more memory than there was; a call of fewer rows may succeed. One line."""


class UnavailableError(Exception):
    """A network on another server did not answer; it may answer later. One line."""


class Backend(Protocol):
    """A loaded graph whose first axis is the batch. Its calls are made one at a time, from any thread."""

    @property
    def inputs(self) -> tuple[GraphTensor, ...]: ...

    @property
    def outputs(self) -> tuple[GraphTensor, ...]: ...

    @property
    def kind(self) -> str:
        """Software and hardware that compute; part of the fingerprint, since another kind rounds differently."""
        ...

    @property
    def invariant(self) -> bool:
        """Whether a row's bits are the same in calls of every size, except sizes that `profiling` finds."""
        ...

    def sizes(self, most: int) -> tuple[int, ...]:
        """Good sizes of calls in rows, ascending; the last is `most` or the largest it takes."""
        ...

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The named outputs for `feeds`, all of one batch size.

        Raises:
            InputError: the graph refuses the values.
            OutOfMemoryError: a call of fewer rows may succeed.
            UnavailableError: the network is elsewhere and did not answer.
        """
        ...

    def close(self) -> None:
        """Release memory, threads and connections. No call follows."""
        ...
