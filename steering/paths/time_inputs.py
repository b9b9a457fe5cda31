"""What a network's time input is fed at path times: a formula such as `1000*t`, `1-t` or `log(rho)/4`."""

import ast
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from steering.formulas import parsed
from steering.paths.base import Path
from steering.paths.discrete import VPDiscrete

TimeInput = Callable[[Path, Tensor], Tensor]
"""Of a path and its times, float64 in and out."""

LONGEST = 100
ROUNDING = 1e-6
"""What `floor` forgives: a time that was computed to be a whole number may lie a little below it."""


def _steps(path: Path, t: Tensor) -> Tensor:
    if not isinstance(path, VPDiscrete):
        raise ValueError(f"expected a path of N steps (vp_discrete, vp_betas), got {type(path).__name__}")
    return torch.as_tensor(float(path.steps), dtype=torch.float64)


NAMES: Mapping[str, TimeInput] = {
    "t": lambda path, t: t,
    "alpha": lambda path, t: path.alpha(t),
    "sigma": lambda path, t: path.sigma(t),
    "rho": lambda path, t: path.sigma(t) / path.alpha(t),
    "log_snr": lambda path, t: path.log_snr(t),
    "N": _steps,
}
"""The path's time, its scales of data and noise, rho = sigma / alpha, log_snr = log(alpha / sigma), and the number of
steps of a discrete path."""
FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "log": torch.log,
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "atan": torch.atan,
    "round": torch.round,
    "floor": lambda x: torch.floor(x + ROUNDING),
}
_OPERATORS: Mapping[type[ast.AST], Callable[..., Tensor]] = {
    ast.Add: torch.add,
    ast.Sub: torch.subtract,
    ast.Mult: torch.multiply,
    ast.Div: torch.divide,
    ast.USub: torch.negative,
    ast.UAdd: torch.positive,
}
_EXPECTED = (
    f"expected a formula of {', '.join(NAMES)}, numbers, + - * / and {', '.join(FUNCTIONS)}, "
    "such as t, 1000*t, 1-t, N*t-1, sigma or log(rho)/4"
)


def time_input(formula: str) -> TimeInput:
    """What a formula says.

        time_input("log(rho)/4")(path, t)  # EDM's c_noise, on any path

    Raises:
        ValueError: no such formula, or (when it is called) a path that has no number of steps; one line.
    """
    try:
        if len(formula) > LONGEST:
            raise ValueError
        tree = parsed(formula)
        read = _read(tree)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"time input {formula!r:.120}: {_EXPECTED}") from None
    if not any(isinstance(node, ast.Name) and node.id in NAMES and node.id != "N" for node in ast.walk(tree)):
        raise ValueError(f"time input {formula!r}: expected a formula that depends on the time, got a constant")

    def fed(path: Path, t: Tensor) -> Tensor:
        try:
            return read(path, t)
        except ValueError as error:
            raise ValueError(f"time input {formula!r}: {error}") from None

    return fed


def counts_steps(formula: str) -> bool:
    """Whether whole numbers can hold what a formula gives: it counts steps (`N*t-1`, `1000*t`), many of them."""
    tree = parsed(formula)
    return any(
        (isinstance(node, ast.Name) and node.id == "N")
        or (isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value >= LARGE)
        for node in ast.walk(tree)
    )


def unrounded(formula: str) -> str:
    """What a formula rounds, where that is all that it does last: `N*t-1` of `round(N*t-1)`; else the formula."""
    match parsed(formula):
        case ast.Call(ast.Name("round" | "floor"), [inner], []):
            return ast.unparse(inner)
    return formula


LARGE = 10
"""A factor from which on a formula counts steps."""


def _read(node: ast.expr) -> TimeInput:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            number = torch.as_tensor(float(value), dtype=torch.float64)
            return lambda path, t: number
        case ast.Name(name) if name in NAMES:
            return NAMES[name]
        case ast.Call(ast.Name(function), [argument], []) if function in FUNCTIONS:
            inside, apply = _read(argument), FUNCTIONS[function]
            return lambda path, t: apply(inside(path, t))
        case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS:
            first, second, join = _read(left), _read(right), _OPERATORS[type(operator)]
            return lambda path, t: join(first(path, t), second(path, t))
        case ast.UnaryOp(sign, operand) if type(sign) in _OPERATORS:
            inside, apply = _read(operand), _OPERATORS[type(sign)]
            return lambda path, t: apply(inside(path, t))
    raise ValueError


TIME_INPUTS: Mapping[str, TimeInput] = {
    formula: time_input(formula) for formula in ("t", "1000*t", "sigma", "log(sigma)/4", "N*t-1")
}
"""The most common ones; "log(sigma)/4" is EDM's c_noise, "N*t-1" the step a discrete path counts from 0."""
