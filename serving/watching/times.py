"""How long the parts of a request took, as one line in the syntax of HTTP's Server-Timing: `queue;dur=0.2`.

Milliseconds; a network's entry also has the rows that were evaluated.
"""

import re
from collections.abc import Mapping

_ENTRY = re.compile(r"(\w+);dur=([0-9.]+)(?:;rows=(\d+))?")


def line(milliseconds: Mapping[str, float], rows: Mapping[str, int] | None = None) -> str:
    """The times by name, in order, with rows by the same names."""
    rows = rows or {}
    return ", ".join(
        f"{name};dur={each:.3f}" + (f";rows={rows[name]}" if name in rows else "")
        for name, each in milliseconds.items()
    )


def with_total(line: str, seconds: float) -> str:
    """The times of a replica, if it told any, and how long the whole took at a front."""
    return f"{line}, total;dur={1000 * seconds:.3f}" if line else f"total;dur={1000 * seconds:.3f}"


def milliseconds(line: str) -> dict[str, float]:
    """The times by name; nothing of what is none."""
    return {name: float(each) for name, each, _ in _ENTRY.findall(line)}


def rows(line: str) -> dict[str, int]:
    """The rows by name."""
    return {name: int(each) for name, _, each in _ENTRY.findall(line) if each}
