"""What can go wrong in the mathematics."""

from collections.abc import Iterable
from difflib import get_close_matches

_NEAR, _LONGEST = 0.75, 100
"""How alike (0..1, `difflib`'s ratio) a misspelt name is at least, and its most characters: long ones take seconds."""


class PlanError(ValueError):
    """A plan that cannot be compiled: an unknown name or a value out of range."""


class SteeringError(ValueError):
    """A reward that raised, or returned the wrong shape, NaN or +inf."""


class UnsuitableError(SteeringError):
    """A method that cannot draw what is asked for: its plan, conditions or first states are none it can use."""


class NetworkError(ValueError):
    """A network that returned the wrong shape or NaN."""


class BudgetError(ValueError):
    """An adaptive solver that would need more network rows than it was allowed."""


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """The text for an unknown name: what was expected, what came, and the nearest name if one is near."""
    names = sorted(known)
    if not names:
        return f"unknown {kind} {name!r}: expected none"
    near = get_close_matches(name, names, 1, _NEAR) if len(name) <= _LONGEST else []
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {kind} {name!r}{meant}: expected one of {', '.join(names)}"
