"""Paths by name, as model cards give them."""

import inspect
from collections.abc import Callable, Mapping, Sequence

from steering.paths.base import Path
from steering.paths.discrete import vp_betas, vp_discrete
from steering.paths.exploding import edm, ve
from steering.paths.flows import rectified_flow, trig_flow
from steering.paths.kinetic import kinetic_optimal
from steering.paths.mean_reverting import mean_reverting
from steering.paths.one_sided import one_sided
from steering.paths.sub_vp import sub_vp
from steering.paths.variance_preserving import vp_cosine, vp_linear

KINDS: Mapping[str, Callable[..., Path]] = {
    "vp_cosine": vp_cosine,
    "vp_linear": vp_linear,
    "vp_discrete": vp_discrete,
    "vp_betas": vp_betas,
    "sub_vp": sub_vp,
    "ve": ve,
    "edm": edm,
    "rectified_flow": rectified_flow,
    "trig_flow": trig_flow,
    "one_sided": one_sided,
    "mean_reverting": mean_reverting,
    "kinetic_optimal": kinetic_optimal,
}


def build(description: Mapping[str, object], t_range: tuple[float, float] | None = None) -> Path:
    """The path of a model card: `kind` names it, the other keys are its arguments; `t_range` narrows its times.

    Raises:
        ValueError: an unknown kind or argument, one missing, or a value out of range; one line.
    """
    kind, arguments = description.get("kind"), {k: v for k, v in description.items() if k != "kind"}
    if kind not in KINDS:
        raise ValueError(f"unknown path {kind!r}: expected one of {', '.join(sorted(KINDS))}")
    known = inspect.signature(KINDS[str(kind)]).parameters
    if extra := sorted(set(arguments) - set(known)):
        raise ValueError(f"path {kind!r}: unknown argument {extra[0]!r}, expected some of {', '.join(known)}")
    if missing := [name for name, p in known.items() if p.default is p.empty and name not in arguments]:
        raise ValueError(f"path {kind!r}: expected the argument {missing[0]!r}, got none")
    for name, value in arguments.items():
        _check(f"path {kind!r}: {name}", known[name].annotation, value)
    path = KINDS[str(kind)](**arguments)
    return path.between(*t_range) if t_range else path


def _check(what: str, wanted: object, value: object) -> None:
    """An argument as a number, a name or a list of numbers, by the constructor's annotation."""
    if wanted is str:
        if not isinstance(value, str):
            raise ValueError(f"{what}: expected a name, got {value!r:.60}")
    elif wanted is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{what}: expected true or false, got {value!r:.60}")
    elif wanted == Sequence[float]:
        if not isinstance(value, list | tuple) or not all(map(_number, value)):
            raise ValueError(f"{what}: expected a list of numbers, got {value!r:.60}")
    elif not _number(value):
        raise ValueError(f"{what}: expected a number, got {value!r:.60}")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
