"""What prompts say, as a text network encoded them: kept by content, so that a prompt is encoded once."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.backends import Array

MOST_BYTES = 2**28
"""Bytes of encodings that are kept: 1100 prompts of Stable Diffusion 1.5, 50 of Stable Diffusion 3."""


class Handle(NamedTuple):
    """What an encoding is called, 128 bits of a digest: equal ones for the same text, tokenizers and network."""

    high: int
    low: int

    @classmethod
    def of(cls, *parts: str) -> "Handle":
        """The name of what these parts determine."""
        digest = hashlib.sha256(repr(parts).encode()).digest()
        return cls(*(int.from_bytes(digest[at : at + 8], "big", signed=True) for at in (0, 8)))


@dataclass(frozen=True)
class Encoding:
    """A prompt's row of each output of the text network, by name; `cut` tokens of it did not fit."""

    rows: Mapping[str, Array]
    cut: int = 0

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self.rows.values())


class Encodings:
    """The encodings used last, at most so many bytes of them. For any thread."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._lock = most_bytes, threading.Lock()
        self._kept: OrderedDict[Handle, Encoding] = OrderedDict()
        self.nbytes = 0

    def known(self, handles: Sequence[Handle]) -> dict[Handle, Encoding]:
        """Those that are there."""
        with self._lock:
            found = {each: self._kept[each] for each in handles if each in self._kept}
            for each in found:
                self._kept.move_to_end(each)
            return found

    def keep(self, made: Mapping[Handle, Encoding]) -> None:
        """New ones; those that were not used for longest make room."""
        with self._lock:
            for handle, encoding in made.items():
                if handle not in self._kept:
                    self._kept[handle] = encoding
                    self.nbytes += encoding.nbytes
            while self.nbytes > self._most and self._kept:
                _, gone = self._kept.popitem(last=False)
                self.nbytes -= gone.nbytes

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self.nbytes = 0
