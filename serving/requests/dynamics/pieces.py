"""The table of pieces: a new kind of dynamics, or a new thing to ask of some, is a `Piece` in a file of its own."""

from collections.abc import Mapping, Sequence

from protos.dynamics import KINDS, Dynamics
from serving.requests.dynamics import conserve, control, events, linear, noise, residual, sensitivity, steered
from serving.requests.dynamics.piece import Piece

PIECES: Sequence[Piece] = (
    events.PIECE,
    linear.PIECE,
    sensitivity.PIECE,
    noise.PIECE,
    control.PIECE,
    conserve.PIECE,
    residual.PIECE,
    steered.PIECE,
)
DEFAULT_SOLVERS: Mapping[str, str] = {
    "ode": "tsit5", "sde": "euler_maruyama", "cde": "tsit5", "map": "map", "fixed_point": "anderson",
}  # fmt: skip
"""The solver of a kind of dynamics, where neither the request nor the card says another."""
STRATONOVICH = "stochastic_heun"
"""That of an SDE in Stratonovich's calculus: Euler-Maruyama solves Itô's."""


def default_solver(spec: Dynamics) -> str:
    """Where neither the request nor the card's `solver` says one."""
    stratonovich = spec.calculus == "stratonovich" and spec.form not in ("linear", "geometric")
    return STRATONOVICH if stratonovich else DEFAULT_SOLVERS[spec.kind]


def pieces_of(kind: str) -> list[Piece]:
    """Those of one kind of dynamics."""
    assert kind in KINDS
    return [piece for piece in PIECES if kind in piece.kinds]
