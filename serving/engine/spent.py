"""What a request has taken: kept as numbers while it runs, so that its times can be told when it has ended."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True)
class Part:
    """What a request took of one network, or of one reward outside of the server.

    Attributes:
        kind: what its rows count as.
        elsewhere: whether it was computed outside of the server.
        rows: that were evaluated.
        calls: in which it took part.
        seconds: of these calls, each as a whole; share_s: its share of them, by rows.
        first, last: when the first began and the last ended, on time.monotonic()'s clock.
    """

    name: str
    kind: Literal["network", "reward"]
    elsewhere: bool
    first: float
    last: float = 0.0
    rows: int = 0
    calls: int = 0
    seconds: float = 0.0
    share_s: float = 0.0


@dataclass(slots=True)
class Spent:
    """The parts of one request, and what its own program computed between them.

    Attributes:
        updates: how often its program went on. update_s: seconds in which it computed. update_first, update_last: when
            it began to for the first time, and ended for the last.
    """

    parts: dict[tuple[str, str, bool], Part] = field(default_factory=dict)
    updates: int = 0
    update_s: float = 0.0
    update_first: float = 0.0
    update_last: float = 0.0

    def took_part(
        self, name: str, kind: Literal["network", "reward"], rows: int, of: int, began: float, ended: float
    ) -> None:
        """Rows of the request were among the `of` rows of a network's call."""
        part = self._part(name, kind, False, began)
        part.share_s += (ended - began) * rows / of
        _add(part, rows, began, ended)

    def asked(self, name: str, kind: Literal["network", "reward"], rows: int, began: float, ended: float) -> None:
        """Rows were evaluated elsewhere, or something else was waited for."""
        part = self._part(name, kind, True, began)
        part.share_s += ended - began
        _add(part, rows, began, ended)

    def computed(self, began: float, ended: float) -> None:
        """The request's program went on."""
        self.updates += 1
        self.update_s += ended - began
        self.update_first = self.update_first or began
        self.update_last = ended

    def _part(self, name: str, kind: Literal["network", "reward"], elsewhere: bool, began: float) -> Part:
        key = name, kind, elsewhere
        part = self.parts.get(key)
        if part is None:
            part = self.parts[key] = Part(name, kind, elsewhere, began)
        return part


def _add(part: Part, rows: int, began: float, ended: float) -> None:
    part.rows += rows
    part.calls += 1
    part.seconds += ended - began
    part.last = ended
