"""What can go wrong in the mathematics."""


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


def choose(kind: str, name: str, known: object) -> str:
    """The text for an unknown name: what was expected and what came."""
    return f"unknown {kind} {name!r}: expected one of {', '.join(sorted(known))}"  # type: ignore[call-overload]
