"""Formulas as Python parses them: one thread at a time."""

import ast
import threading

_ONE = threading.Lock()
"""Python 3.11 counts the depth of trees in one place for all threads: two that parse at once, each at another depth of
calls, may both fail with SystemError."""


def parsed(text: str) -> ast.expr:
    """The tree of an expression; raises what `ast.parse` does."""
    with _ONE:
        return ast.parse(text.strip(), mode="eval").body
