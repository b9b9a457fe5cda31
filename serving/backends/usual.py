"""A graph whose rows may have other lengths, seen as one of rows of the usual shape: so it is tried and measured.

Who knows of the other lengths feeds rows of them all the same: nothing is checked here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from serving.backends import Array, Backend, GraphTensor

Row = tuple[int, ...]


class Usual:
    """A backend with `rows` as shapes of those inputs and outputs whose lengths vary, by name; -1 remains free.

    A name that the graph lacks, and a shape that is none of its tensor's, is left to whoever compares card and graph.
    """

    def __init__(self, backend: Backend, rows: Mapping[str, Row]) -> None:
        self._backend = backend
        self.inputs, self.outputs = (
            tuple(_usual(each, rows.get(each.name)) for each in side) for side in (backend.inputs, backend.outputs)
        )
        self.kind, self.invariant = backend.kind, backend.invariant

    def sizes(self, most: int) -> tuple[int, ...]:
        """Implements `Backend.sizes`."""
        return self._backend.sizes(most)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Implements `Backend.run`."""
        return self._backend.run(feeds, outputs)

    def close(self) -> None:
        """Implements `Backend.close`."""
        self._backend.close()


def varies(tensors: Sequence[GraphTensor], rows: Mapping[str, Row]) -> bool:
    """Whether one of these has lengths that vary where the usual row has some."""
    return any(_usual(each, rows.get(each.name)) is not each for each in tensors)


def _usual(tensor: GraphTensor, row: Row | None) -> GraphTensor:
    if row is None or len(row) != len(tensor.row):
        return tensor
    fixed = tuple(usual if here is None and usual != -1 else here for here, usual in zip(tensor.row, row, strict=True))
    return tensor if fixed == tensor.row else replace(tensor, row=fixed)
