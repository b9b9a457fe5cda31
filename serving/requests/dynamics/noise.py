"""What an SDE's card says of its noise."""

from collections.abc import Mapping
from typing import Any

from serving.requests.dynamics.asked import Asked
from serving.requests.dynamics.piece import Piece


def _pose(asked: Asked) -> Mapping[str, Any]:
    spec = asked.model.spec
    said = {"noise": spec.noise, "form": spec.form, "calculus": spec.calculus}
    return {name: each for name, each in said.items() if each is not None}


PIECE = Piece(name="noise", kinds=("sde",), pose=_pose)
