"""Graphs that take one value for all rows of a call, such as a scalar time, served as if they took one a row.

A graph does not say how it uses such a value, so no rewriting makes it take one a row. Rows that have the same values
share a call of the graph, and others get a call of their own.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from serving.backends import Array, Backend, GraphTensor
from serving.backends.sizes import FIXED


def per_row(backend: Backend) -> Backend:
    """The backend, with every input taken row by row."""
    return SharedInputs(backend) if any(each.shared is not None for each in backend.inputs) else backend


def varying(inputs: Sequence[GraphTensor]) -> frozenset[str]:
    """The inputs that may differ from row to row of a call; all of a graph of one row, whose rows are calls."""
    found = frozenset(each.name for each in inputs if each.shared is None)
    return found or frozenset(each.name for each in inputs)


def one_call(inputs: Sequence[GraphTensor], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Values [rows, *row] as the graph takes them in one call: of what is shared, the first row's in its own shape."""
    return {
        each.name: feeds[each.name] if each.shared is None else np.asarray(feeds[each.name][0]).reshape(each.shared)
        for each in inputs
    }


class SharedInputs:
    """A backend some of whose inputs are `GraphTensor.shared`, called with those row by row like the others.

    Rows of k different values are k calls of the graph. Each is filled up to one of the sizes in use (`use`), in which
    a row keeps its bits. Where bits depend on the size, as on GPUs, the size that is kept for requests that must not
    depend on it is filled up to as well: each of its k calls is as large as the whole. Of a graph of one row, which
    shares all inputs, every row is a call.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.inputs, self.outputs, self.kind = backend.inputs, backend.outputs, backend.kind
        self._shared = [each.name for each in backend.inputs if each.shared is not None]
        self._of_one_row = len(self._shared) == len(backend.inputs)
        self._sizes: tuple[int, ...] = ()

    @property
    def invariant(self) -> bool:
        """Implements `Backend.invariant`."""
        return self._backend.invariant

    def use(self, sizes: Iterable[int]) -> None:
        """Fill calls up to these sizes; before, only a lone row gets a second one."""
        self._sizes = tuple(sorted(sizes))

    def sizes(self, most: int) -> tuple[int, ...]:
        """Implements `Backend.sizes`."""
        return self._backend.sizes(most)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Implements `Backend.run`; values of shared inputs are [rows, *row], like those of the others."""
        rows = len(next(iter(feeds.values())))
        groups: dict[bytes, list[int]] = {}
        for row in range(rows):
            groups.setdefault(b"".join(feeds[name][row].tobytes() for name in self._shared), []).append(row)
        if len(groups) == 1 and not self._of_one_row:
            return self._call(feeds, outputs)
        results: list[Array] = []
        for members in groups.values():
            filled = members + members[-1:] * (self._size(len(members), rows) - len(members))
            parts = self._call({name: value[filled] for name, value in feeds.items()}, outputs)
            results = results or [np.empty((rows, *part.shape[1:]), part.dtype) for part in parts]
            for result, part in zip(results, parts, strict=True):
                result[members] = part if self._of_one_row else part[: len(members)]
        return results

    def close(self) -> None:
        """Implements `Backend.close`."""
        self._backend.close()

    def _size(self, rows: int, whole: int) -> int:
        """Rows of the call that is run for `rows` rows out of `whole`."""
        if not self.invariant and whole == FIXED:
            return whole
        return next((size for size in self._sizes if size >= rows), max(rows, 2))

    def _call(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """One call, of rows that have the same values."""
        return self._backend.run(one_call(self.inputs, feeds), outputs)
