"""Dynamics of the gallery, solved from their folders by the solvers that a server has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from exporters.network import TYPES, open_session
from protos.card import Condition, load_card
from steering import dynamics


def parameters(*names: str) -> dict[str, Condition]:
    """Numbers that each row brings, float64."""
    return {name: Condition(dtype="float64") for name in names}


class Model:
    """A model of dynamics from its folder, solved in this process by the solvers that a server has."""

    def __init__(self, repository: Path, name: str) -> None:
        self.folder = repository / name / "1"
        self.card = load_card(repository / name / "card.yaml")
        spec = self.card.dynamics
        if spec is None:
            raise ValueError(f"model {name!r}: expected dynamics, got none")
        self.spec = spec
        self.session = open_session(self.folder / "model.onnx", threads=1)
        self._types = {each.name: TYPES[each.type] for each in self.session.get_inputs()}
        self._shapes = {each.name: each.shape for each in self.session.get_inputs()}

    def field(self, y: Tensor, t: Tensor, **more: Tensor) -> dict[str, Tensor]:
        """The graph's outputs by role, float64; roles and conditions by name."""
        roles = {"y": y, "t": t, **{role: value for role, value in more.items() if role in self.spec.fed}}
        feeds = {name: self._fed(name, roles[role]) for role, name in self.spec.fed.items()}
        feeds |= {name: self._fed(name, value) for name, value in more.items() if name in self.card.conditions}
        found = self.session.run(list(self.spec.given.values()), feeds)
        return {
            role: torch.from_numpy(each.astype(np.float64)) for role, each in zip(self.spec.given, found, strict=True)
        }

    def _fed(self, name: str, value: Tensor) -> "np.ndarray[Any, Any]":
        array = value.numpy().astype(self._types[name])
        return array[:, None] if array.ndim + 1 == len(self._shapes[name]) else array

    def solve(self, y0: Tensor, t_eval: Tensor | Sequence[float], **asked: Any) -> dynamics.Solution:
        """Trajectories, by the card's solver unless another is named; conditions by name [n, ...] or [1, ...]."""
        condition = {name: asked.pop(name) for name in [*asked] if name in self.card.conditions}
        single = "float32" in {str(each) for each in self._types.values()}
        noise = {key: value for key in ("noise", "form", "calculus") if (value := getattr(self.spec, key)) is not None}
        said = self.spec.solver.said | noise | asked
        return dynamics.solve(
            self.field, y0, t_eval, kind=self.spec.kind, condition=condition,
            dtype=torch.float32 if single else torch.float64, **said,
        )  # fmt: skip

    def weights(self) -> dict[str, Tensor]:
        """The graph's stored numbers by name: its module's parameters and buffers."""
        graph = onnx.load(self.folder / "model.onnx").graph
        return {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}

    def beside(self, file: str, **inputs: Tensor) -> Tensor:
        """What a graph of the version's folder makes of its inputs."""
        session = open_session(self.folder / file, threads=1)
        types = {each.name: TYPES[each.type] for each in session.get_inputs()}
        feeds = {name: value.numpy().astype(types[name]) for name, value in inputs.items()}
        return torch.from_numpy(session.run(None, feeds)[0])
