"""What a map's card says is to be conserved."""

from collections.abc import Mapping
from typing import Any

from serving.requests.dynamics.asked import Asked
from serving.requests.dynamics.piece import Piece


def _pose(asked: Asked) -> Mapping[str, Any]:
    return {} if asked.model.weights is None else {"conserve": asked.model.weights}


PIECE = Piece(name="conserve", kinds=("map",), pose=_pose)
