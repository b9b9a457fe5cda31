"""What checks the shapes and types of tensors in `steering` at every call while the tests run.

tests/conftest.py names `checked` to jaxtyping's import hook, which puts it around every function of the rooms listed.
"""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

from beartype import beartype
from jaxtyping import AbstractArray

ROOMS = [
    f"steering.{room}"
    for room in (
        "baselines",
        "diagnostics",
        "flow",
        "methods",
        "numerics",
        "posteriors",
        "problems",
        "sampling",
        "search",
        "targets",
    )
]
"""Rooms whose functions take tensors. Plans, paths and solvers compute with numbers, and are called a million times."""
Function = TypeVar("Function", bound=Callable[..., Any])


def checked(function: Function) -> Function:
    """beartype for the hints that have a tensor's shape; mypy has judged the others."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _shaped(hint)}
    return beartype(function)


def _shaped(hint: object) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_shaped, get_args(hint)))
