"""A backend without some of its outputs: those that must not be served."""

from collections.abc import Collection, Mapping, Sequence

from serving.backends import Array, Backend


class Limited:
    """Gives only the named outputs of another backend."""

    def __init__(self, backend: Backend, outputs: Collection[str]) -> None:
        self._backend = backend
        self.inputs, self.kind, self.invariant = backend.inputs, backend.kind, backend.invariant
        self.outputs = tuple(each for each in backend.outputs if each.name in outputs)

    def sizes(self, most: int) -> tuple[int, ...]:
        """Implements `Backend.sizes`."""
        return self._backend.sizes(most)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Implements `Backend.run`."""
        return self._backend.run(feeds, outputs)

    def close(self) -> None:
        """Implements `Backend.close`."""
        self._backend.close()
