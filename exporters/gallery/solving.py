"""Dynamics of the gallery: written as folders with graphs and card, and solved from there as a server solves them."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from onnx import numpy_helper
from torch import Tensor, nn

from exporters.export import export_model
from exporters.network import TYPES, open_session
from protos.card import Card, Condition, load_card
from steering import dynamics


@dataclass(frozen=True)
class Beside:
    """A graph beside the field's: what encodes into states, or decodes them."""

    network: nn.Module
    examples: Mapping[str, Tensor]
    output: str


def parameters(*names: str) -> dict[str, Condition]:
    """Numbers that each row brings, float64."""
    return {name: Condition(dtype="float64") for name in names}


def export_dynamics(
    network: nn.Module,
    folder: Path,
    card: Card,
    *,
    examples: Mapping[str, Tensor],
    outputs: Sequence[str],
    beside: Mapping[str, Beside] | None = None,
    tolerance: float | None = None,
) -> None:
    """Write a model of dynamics: its graph, compared with the module, and its card last.

    Args:
        beside: by the file's name; they lie in the version's folder.
        tolerance: of the comparison; 1e-12 of float64 graphs where it is left out.
    """
    double = all(each.dtype != torch.float32 for each in examples.values())
    export_model(
        network, folder, None, examples=examples, outputs=outputs,
        tolerance=tolerance if tolerance is not None or not double else 1e-12,
    )  # fmt: skip
    for file, each in (beside or {}).items():
        with tempfile.TemporaryDirectory() as temporary:
            made = Path(temporary) / "made"
            export_model(each.network, made, None, examples=each.examples, outputs=[each.output])
            (folder / "1" / file).write_bytes((made / "1" / "model.onnx").read_bytes())
    write_card(card, folder)


def write_card(card: Card, folder: Path) -> None:
    """The card with what is not a default."""
    content = {"format": card.format, **card.model_dump(mode="json", exclude_defaults=True)}
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    (folder / "card.yaml").write_text(text, encoding="utf-8")


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
