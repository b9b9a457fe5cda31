"""What is kept of a model that was dropped from memory: enough to list it, to check requests, and to load it again."""

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO

import torch

from serving.backends import Array, Backend
from serving.engine.task import Network
from serving.models.dynamics import SIDES, Dynamics
from serving.models.model import Knowledge, Model, PlainModel, Sampler
from serving.models.pipeline import Opened


class UnloadedBackend:
    """Stands in for a backend that is not in memory: has its inputs and outputs, and runs nothing."""

    invariant = False

    def __init__(self, backend: Backend) -> None:
        self.inputs, self.outputs, self.kind = backend.inputs, backend.outputs, backend.kind

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Implements `Backend.run`."""
        raise RuntimeError("the model is not in memory")

    def sizes(self, most: int) -> tuple[int, ...]:
        """Implements `Backend.sizes`."""
        return ()

    def close(self) -> None:
        """Implements `Backend.close`."""


def unloaded(model: Model) -> Model:
    """The model without its network, and without what is known of its law."""
    if isinstance(model, Dynamics):
        sides = {name: getattr(model, name) for name in SIDES}
        gone = {name: replace(each, network=_unloaded(each.network)) for name, each in sides.items() if each}
        return replace(model, network=_unloaded(model.network), **gone)
    network, backward = _unloaded(model.network), model.backward
    if backward is not None:
        backward = replace(backward, network=_unloaded(backward.network))
    if isinstance(model, PlainModel):
        return replace(model, network=network, backward=backward)
    other = Sampler(
        model.name, model.version, model.card, model.path, network, model.digest, model.programs, model.ranges
    )
    other.backward = backward
    return other


def _unloaded(network: Network) -> Network:
    return replace(network, backend=UnloadedBackend(network.backend))


def identity(model: Opened) -> str:
    """Equal for the same graph, card and backend."""
    return model.fingerprint if isinstance(model, PlainModel) else model.digest


class Kept:
    """A model's identity, and what is known of a sampler's law, in an unnamed file that ends with the process, or in
    memory where this machine has no room for files.

    A model that comes back has the bank, calibration and choice it had, wherever they came from: equal requests have
    equal bytes. They are written when they are made, so that dropping a model takes no time.
    """

    def __init__(self, model: Opened) -> None:
        self._identity = identity(model)
        if isinstance(model, Sampler):
            known = model.known
            self._file: IO[bytes]
            self._file = whole = io.BytesIO()
            # in one piece: the bank's cloud and its local posterior's are the same, and stay so
            torch.save((known.cloud, known.calibration, known.choice), whole)
            with contextlib.suppress(OSError):
                file = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the model may come back
                file.write(whole.getvalue())
                file.flush()
                self._file = file

    def fits(self, model: Opened) -> bool:
        """Whether this is the model that was kept."""
        return identity(model) == self._identity

    def restore(self, model: Opened) -> None:
        """Give a sampler what was known of it."""
        if isinstance(model, Sampler):
            self._file.seek(0)
            # our own file, which no other process can open, so unpickling it is safe
            cloud, calibration, choice = torch.load(self._file, weights_only=False)
            model.known = Knowledge(model.card, model.digest, cloud, calibration, choice)
