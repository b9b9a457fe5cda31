"""What is made of a model when it is loaded, kept for other replicas and later starts: banks with their calibrations,
and what calls cost.

Each is a file that is named by the key of what decides it, and begins with a digest of key and content, which finds
damage. It is no signature, so whoever may write to the place decides how requests are steered. Nothing in a file is
executed, and none takes more memory than what is sought.
"""

import hashlib
import io
import json
import logging
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import steering
from serving.backends import Array
from serving.backends.costs import Costs
from serving.models.lease import Lease, Leases
from serving.models.model import Sampler
from serving.models.shelf import Shelf

FORM = 1
"""Of files, and of how what is in them is made; another number finds none of the old ones."""
MOST_TIMES = 4096
"""Most points of a calibration."""
_MOST_COSTS = 2**16
_HEADERS = 3 * 256 + 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A model's bank [K, *event], and the calibration that was measured on it."""

    samples: Tensor
    calibration: steering.Calibration


class Artifacts:
    """Finds and keeps what was made. A shelf that is away costs a line in the log: all is then made here. Calls block,
    for threads."""

    def __init__(self, shelf: Shelf, leases: Leases | None = None) -> None:
        self._shelf, self._leases = shelf, leases or Leases(shelf)
        self._away = set[str]()  # "read", "write": what cannot be done now, which was said

    def prepared(self, model: Sampler, key: str) -> Prepared | None:
        """The bank and calibration that a model lacks, as somebody made them.

        Args:
            key: see `bank_key`.
        """
        shape = _shape(model)
        most = 4 * math.prod(shape) + 16 * MOST_TIMES + _HEADERS
        if (body := self._get(key, "bank", most)) is None:
            return None
        try:
            file = io.BytesIO(body)
            samples, t, mse = _array(file, "<f4", shape), _array(file, "<f8"), _array(file, "<f8")
            if not np.isfinite(samples).all():
                raise ValueError("expected finite samples, got others")
            calibration = steering.Calibration(tuple(t.tolist()), tuple(mse.tolist()))
        except ValueError as error:
            _log.warning("%s: a bank of model %s is not used: %s", self._shelf, model.name, error)
            return None
        return Prepared(torch.from_numpy(samples), calibration)

    def keep_prepared(self, key: str, made: Prepared) -> None:
        """Keep what a model lacked.

        Args:
            key: see `bank_key`, from before it was made.
        """
        file = io.BytesIO()
        curve = np.array(made.calibration.t), np.array(made.calibration.mse)
        for each in (made.samples.to(torch.float32).contiguous().numpy(), *curve):
            np.lib.format.write_array(file, each, version=(1, 0), allow_pickle=False)
        self._keep(key, "bank", file.getvalue())

    def lease(self, key: str) -> Lease | None:
        """The right to make what is found by a key; None where nobody can be asked for it.

        Raises:
            BusyError: somebody else makes it.
        """
        try:
            lease = self._leases.take(f"{key}.lease")
        except OSError as error:
            self._say("write", error)
            return None
        self._away.discard("write")
        if lease is None:
            raise BusyError(key)
        return lease

    def costs(self, graph: str, most: int) -> Costs | None:
        """What calls of a graph were measured to cost on such a machine.

        Args:
            graph: equal for equal graphs on equal backends. most: the most rows of a call.
        """
        if (body := self._get(costs_key(graph, most), "costs", _MOST_COSTS)) is None:
            return None
        try:
            found = json.loads(body)
            seconds = {int(size): float(each) for size, each in found.items()}
            if not all(map(math.isfinite, seconds.values())):
                raise ValueError("expected finite seconds, got others")
            return Costs(seconds)
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            _log.warning("%s: costs are not used: %s", self._shelf, error)
            return None

    def keep_costs(self, graph: str, most: int, costs: Costs) -> None:
        seconds = {size: costs.seconds(size) for size in costs.sizes}
        self._keep(costs_key(graph, most), "costs", json.dumps(seconds).encode())

    def _get(self, key: str, kind: str, most: int) -> bytes | None:
        name = f"{key}.{kind}"
        try:
            content = self._shelf.get(name, most)
        except OSError as error:
            self._say("read", error)
            return None
        self._away.discard("read")
        if content is None:
            return None
        if content[:32] != _digest(key, content[32:]):
            _log.warning("%s: %s is not used: expected the digest of its key and content", self._shelf, name)
            return None
        return content[32:]

    def _keep(self, key: str, kind: str, body: bytes) -> None:
        try:
            # in the place of a damaged one too: whoever wrote first wrote the same
            self._shelf.put(f"{key}.{kind}", _digest(key, body) + body)
        except OSError as error:
            self._say("write", error)

    def _say(self, what: str, error: OSError) -> None:
        if not self._away:
            _log.warning("%s: what is made of models is not shared: %s", self._shelf, error.strerror or error)
        self._away.add(what)


class BusyError(Exception):
    """Somebody else makes what is wanted."""


def _shape(model: Sampler) -> tuple[int, ...]:
    """Of the bank that a model has or will have."""
    event = tuple(model.card.event_shape)
    cloud = model.known.cloud
    return (steering.bank_size(event) if cloud is None else len(cloud.samples), *event)


def bank_key(model: Sampler) -> str:
    """The key of what a model lacks, while it lacks it: its graph, weights, card and backend, and what it came with. A
    bank is hashed, so call it on a thread."""
    whole = hashlib.sha256(f"bank {FORM} {model.digest} {_shape(model)}".encode())
    if model.known.cloud is not None:
        whole.update(model.known.cloud.samples.contiguous().numpy().tobytes())
    whole.update(repr(model.known.calibration).encode())
    return whole.hexdigest()


def costs_key(graph: str, most: int) -> str:
    """The key of what `Artifacts.costs` finds."""
    return hashlib.sha256(f"costs {FORM} {graph} {most} {_machine()}".encode()).hexdigest()


def _machine() -> str:
    """What decides how fast it computes, beside what a backend says of itself."""
    processors: Sequence[str] = ()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processors = sorted({line.partition(":")[2].strip() for line in lines if line.startswith("model name")})
    except OSError:
        pass
    return f"{platform.machine()} {processors} {os.cpu_count()}"


def _digest(key: str, body: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b" " + body).digest()


def _array(file: io.BytesIO, dtype: str, shape: tuple[int, ...] | None = None) -> Array:
    """The next array, which must be of this type and shape (None: a few numbers); ValueError where it is not."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("expected an array of version 1.0")
    found, by_columns, kind = np.lib.format.read_array_header_1_0(file)
    few = shape is None and len(found) == 1 and found[0] <= MOST_TIMES
    if kind != np.dtype(dtype) or by_columns or not (few or found == shape):
        raise ValueError(f"expected {dtype} {list(shape or ['a few'])}, got {kind} {list(found)}")
    size = kind.itemsize * math.prod(found)
    body = file.read(size)
    if len(body) != size:
        raise ValueError("expected more bytes, got the end")
    return np.frombuffer(bytearray(body), kind).reshape(found)
