"""What runs networks. A backend takes arrays by input name, one row per sample, and returns arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph. `row` is the shape of one row; None stands for a length that varies."""

    name: str
    dtype: np.dtype[np.generic]
    row: tuple[int | None, ...]


class LoadError(Exception):
    """A graph that cannot be run; one line."""


class InputError(Exception):
    """Inputs that a graph refuses, such as an index out of bounds; one line."""


class Backend(Protocol):
    """A loaded graph whose first axis is the batch."""

    @property
    def inputs(self) -> tuple[GraphTensor, ...]: ...

    @property
    def outputs(self) -> tuple[GraphTensor, ...]: ...

    @property
    def kind(self) -> str:
        """What computes: part of the fingerprint, since another kind rounds differently."""
        ...

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The named outputs for `feeds`, all of one batch size; raises InputError where the values are to blame."""
        ...
