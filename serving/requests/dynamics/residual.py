"""How far from fixed the states of an answer are."""

from collections.abc import Mapping

from serving.backends import Array
from serving.models.dynamics_described import RESIDUAL
from serving.requests.dynamics.asked import Asked
from serving.requests.dynamics.piece import Piece
from steering.dynamics import Problem, Solution


def _outputs(asked: Asked, problem: Problem, solution: Solution) -> Mapping[str, Array]:
    assert solution.residual is not None  # all solvers of fixed points measure it
    return {RESIDUAL: solution.residual.numpy()}


PIECE = Piece(name="residual", kinds=("fixed_point",), outputs=_outputs)
