"""Expressions of rewards, such as `2 * classifier(label=7) - quadratic`: a small part of Python's grammar."""

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from serving.wire.parameters import LONGEST_REWARD
from serving.wire.tensors import SINGLE
from steering.formulas import parsed

DEEPEST, MOST_TERMS = 20, 16


class ExpressionError(ValueError):
    """The text is not an expression of rewards; one line."""


@dataclass(frozen=True)
class Name:
    """A bare or quoted name as the value of an argument."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Term:
    """A reward and the arguments inside its call."""

    name: str
    arguments: tuple[tuple[str, int | float | Name], ...] = ()

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={value}" for name, value in self.arguments)
        return f"{self.name}({inside})" if inside else self.name


@dataclass(frozen=True)
class Apply:
    """A function of expressions."""

    function: str
    parts: "tuple[Expression, ...]"


Expression = float | Term | Apply


def _logsumexp(*values: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    return torch.logsumexp(torch.stack(values, dim=-1), dim=-1)


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def fold(first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return fold


FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "logsumexp": _logsumexp,
    "minimum": _folded(torch.minimum),
    "maximum": _folded(torch.maximum),
}
_OPERATORS: Mapping[type[ast.AST], tuple[str, Callable[..., Tensor]]] = {
    ast.Add: ("+", torch.add),
    ast.Sub: ("-", torch.subtract),
    ast.Mult: ("*", torch.multiply),
    ast.USub: ("negative", torch.negative),
    ast.UAdd: ("positive", torch.positive),
}
_APPLIED = dict(FUNCTIONS) | dict(_OPERATORS.values())


def parse(text: str) -> Expression:
    """An expression of rewards.

    Numbers, `+ - *` and parentheses; names of rewards, with or without a call whose arguments are numbers or names;
    `logsumexp`, `minimum` and `maximum` of two expressions or more. A name that is not a Python name is put in quotes.

    Raises:
        ExpressionError: what was expected and what came.
    """
    if len(text) > LONGEST_REWARD:
        raise ExpressionError(f"expected at most {LONGEST_REWARD} characters, got {len(text)}")
    try:
        tree = parsed(text)
    except SyntaxError as error:
        raise ExpressionError(f"expected a reward's name or an expression, got {error.msg}") from None
    except (ValueError, RecursionError, MemoryError):  # null bytes; brackets in brackets in brackets
        raise ExpressionError("expected a reward's name or an expression, got what cannot be read") from None
    expression = _read(tree, DEEPEST)
    _constant(expression)
    if len(found := terms(expression)) not in range(1, MOST_TERMS + 1):
        raise ExpressionError(f"expected 1..{MOST_TERMS} different rewards, got {len(found)}")
    return expression


def terms(expression: Expression) -> list[Term]:
    """The different terms of an expression, in order."""
    if isinstance(expression, Apply):
        return list(dict.fromkeys(term for part in expression.parts for term in terms(part)))
    return [expression] if isinstance(expression, Term) else []


def evaluate(expression: Expression, scores: Mapping[Term, Float[Tensor, " b"]]) -> Float[Tensor, " b"]:
    """The value of an expression from its terms' scores. Infinities follow IEEE arithmetic: -inf stays -inf under sums
    and positive factors; 0 * -inf and -inf - -inf are NaN."""
    if isinstance(expression, Term):
        return scores[expression]
    if isinstance(expression, Apply):
        return _APPLIED[expression.function](*(evaluate(part, scores) for part in expression.parts))
    return torch.full_like(next(iter(scores.values())), expression)


def _read(node: ast.expr, depth: int) -> Expression:
    if depth == 0:
        raise ExpressionError(f"expected an expression at most {DEEPEST} deep, got a deeper one")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _single(value)
        case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS:
            return Apply(_OPERATORS[type(operator)][0], (_read(left, depth - 1), _read(right, depth - 1)))
        case ast.UnaryOp(operator, operand) if type(operator) in _OPERATORS:
            return Apply(_OPERATORS[type(operator)][0], (_read(operand, depth - 1),))
        case ast.Call(ast.Name(function), arguments, []) if function in FUNCTIONS:
            if len(arguments) < 2:
                raise ExpressionError(f"{function}: expected two expressions or more, got {len(arguments)}")
            return Apply(function, tuple(_read(each, depth - 1) for each in arguments))
        case ast.Call(function, [], keywords):
            named = {each.arg: _value(each) for each in keywords if each.arg is not None}
            if len(named) < len(keywords):
                raise ExpressionError("expected arguments by name, once each")
            return Term(_name(function), tuple(sorted(named.items())))
        case ast.Call(function, _, _):
            raise ExpressionError(f"{_name(function)}: expected arguments by name, such as (label=7), got one without")
        case ast.Name() | ast.Attribute() | ast.Constant(value=str()):
            return Term(_name(node))
    raise _unexpected(node)


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(name) | ast.Constant(value=str(name)):
            return name
        case ast.Attribute(value, last):  # names of models may have dots
            return f"{_name(value)}.{last}"
    raise _unexpected(node)


def _value(keyword: ast.keyword) -> int | float | Name:
    node = keyword.value
    match node:
        case ast.Constant(value=int() | float() as value):
            _finite(value)
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(value=int() | float() as value)) if not isinstance(value, bool):
            _finite(value)
            return -value
        case ast.Name() | ast.Attribute() | ast.Constant(value=str()):
            return Name(_name(node))
    raise ExpressionError(f"{keyword.arg}: expected a number or a name, got {_shown(node)}")


def _constant(expression: Expression) -> Tensor | None:
    """The value [1] of an expression without terms, None for others; each part of it is finite as float32."""
    if isinstance(expression, float):
        return torch.full((1,), expression)
    parts = [_constant(part) for part in expression.parts] if isinstance(expression, Apply) else [None]
    values = [part for part in parts if part is not None]
    if len(values) < len(parts):
        return None
    assert isinstance(expression, Apply)
    value = _APPLIED[expression.function](*values)
    _single(float(value))
    return value


def _finite(value: int | float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ExpressionError("expected finite numbers, got one beyond the range of floats")
    return number


def _single(value: int | float) -> float:
    """A number of an expression, which is computed in float32."""
    number = _finite(value)
    if abs(number) > SINGLE:
        raise ExpressionError(f"expected numbers of at most {SINGLE:g}, got one beyond the range of float32")
    return number


def _unexpected(node: ast.expr) -> ExpressionError:
    return ExpressionError(f"expected names of rewards, numbers, + - *, {', '.join(FUNCTIONS)}, got {_shown(node)}")


def _shown(node: ast.expr) -> str:
    """A part of the text in quotes."""
    try:
        return repr(ast.unparse(node))
    except (RecursionError, ValueError):  # it is written deeper than it was read
        return "one that is too deep to show"
