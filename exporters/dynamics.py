"""A torch field, map or cell of dynamics -> a model folder: its graph, the graphs beside it, and the card."""

import inspect
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from exporters import parity
from exporters.export import ExportError, export_model, install
from protos.card import Card
from protos.dynamics import Dynamics, Side, Step
from steering.dynamics.tableaus import BOSH3, DOPRI5, TSIT5, Pair

ROWS = 3
_FLOAT32_NUMBERS = "numbers of Python's become float32 in a float64 graph: register them as buffers of float64"
LENGTH = 4
"""Of examples where a length is free."""
TOLERANCES = {torch.float64: 1e-10}
"""Largest errors against torch by type; `parity.TOLERANCE` for others."""
PAIRS: Mapping[str, Pair] = {"tsit5": TSIT5, "dopri5": DOPRI5, "bosh3": BOSH3}
"""Solvers of whose steps a graph can be made."""
ENCODER, DECODER, STEP = "encoder.onnx", "decoder.onnx", "step.onnx"


@dataclass(frozen=True)
class Beside:
    """A module beside the field with its examples: one tensor [n, ...], n >= 2, by the name of each argument."""

    network: nn.Module
    examples: Mapping[str, Tensor]


class StepOf(nn.Module):
    """A whole step of an embedded explicit Runge-Kutta pair, in the field's own precision.

    From a state z, a time t, a step h and the slope k1 there: the change of the state, the error's estimate, and the
    slopes of all further stages [s, *state].
    """

    def __init__(self, field: nn.Module, pair: Pair, order: list[str], y: str, t: str | None) -> None:
        super().__init__()
        self.field, self.order, self.y, self.t = field, order, y, t
        self.rows = (*pair.a, pair.error)
        # as buffers: the exporter makes float32 of numbers in Python, in graphs of float64 too
        self.times = _numbered(pair.c)
        self.weights = nn.ModuleList(map(_numbered, self.rows))

    def forward(self, z: Tensor, t: Tensor, h: Tensor, k1: Tensor, *conditions: Tensor) -> tuple[Tensor, ...]:
        """Conditions come in the order of the field's arguments."""
        step = h.reshape(-1, *([1] * (z.ndim - 1)))
        slopes, change = [k1], z * 0
        for i in range(len(self.rows) - 1):
            change = step * self._sum(slopes, i)
            slopes.append(self._slope(z + change, t + self.times.number(i) * h, conditions))
        return change, step * self._sum(slopes, len(self.rows) - 1), torch.stack(slopes[1:], dim=1)

    def _slope(self, z: Tensor, t: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
        given, rest = {self.y: z, self.t: t}, iter(conditions)
        slope: Tensor = self.field(*(given[name] if name in given else next(rest) for name in self.order))
        return slope

    def _sum(self, slopes: list[Tensor], row: int) -> Tensor:
        """The weighted sum, term after term: a matrix product would round by its place in the batch."""
        weights = self.weights[row]
        assert isinstance(weights, _Numbers)
        terms = [slope * weights.number(i) for i, slope in enumerate(slopes) if self.rows[row][i]]
        whole = terms[0]
        for each in terms[1:]:
            whole = whole + each
        return whole


class _Numbers(nn.Module):
    """Numbers in the module's own precision."""

    def number(self, i: int) -> Tensor:
        found: Tensor = getattr(self, f"number{i}")
        return found


def _numbered(values: tuple[float, ...]) -> _Numbers:
    numbers = _Numbers()
    for i, each in enumerate(values):
        numbers.register_buffer(f"number{i}", torch.tensor(each, dtype=torch.float64))
    return numbers


def export_dynamics(
    network: nn.Module,
    folder: Path,
    card: Card,
    *,
    dtype: torch.dtype = torch.float32,
    examples: Mapping[str, Tensor] | None = None,
    encoder: Beside | None = None,
    decoder: Beside | None = None,
    step: bool = False,
    tolerance: float | None = None,
) -> parity.Parity:
    """Export a field and what is beside it, compare each graph with its module, and only then put the folder in place.

    Args:
        network: its arguments have the names of the card's inputs and conditions; it returns the card's outputs, in the
            order drift, diffusion. It is exported in `dtype`, and left in the type that it had.
        examples: of its inputs, by name; by default random ones of the card's shapes.
        encoder, decoder: modules beside it; the card says so afterwards.
        step: also a graph of whole steps of the card's solver, or tsit5: a row a step instead of one a stage. Of odes.
        tolerance: largest error against torch; None for 1e-4, and 1e-10 in float64.

    Raises:
        ExportError: a module cannot be exported, or does not fit the card. Nothing is written.
        ParityError: a graph is not its module, or mixes rows: a recurrent cell with spans [B, T] does, whose cell alone
            with dt [B, 1] does not. Nothing is written.
    """
    if card.dynamics is None:
        raise ExportError(f"{card.name}: expected dynamics in the card, got none")
    spec, before = card.dynamics, next((each.dtype for each in network.parameters()), None)
    if tolerance is None:
        tolerance = TOLERANCES.get(dtype, parity.TOLERANCE)
    order = arguments_of(network, card)
    given = examples or examples_of(card, dtype)
    if missing := [name for name in order if name not in given]:
        raise ExportError(f"examples: expected one for {missing[0]!r}, got {', '.join(given)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        staged = Path(temporary) / folder.name
        try:
            network.to(dtype)
            parts: list[tuple[str, Beside, list[str]]] = []
            if encoder is not None:
                spec = spec.model_copy(update={"encode": Side(graph=ENCODER)})
                parts.append((ENCODER, encoder, ["state"]))
            if decoder is not None:
                spec = spec.model_copy(update={"decode": Side(graph=DECODER)})
                parts.append((DECODER, decoder, ["decoded"]))
            if step:
                spec, made = _step(network, spec, order, given)
                parts.append((STEP, made, [spec.step.dz, spec.step.error, spec.step.slopes] if spec.step else []))
            card = Card.model_validate({**card.model_dump(exclude_unset=True), "dynamics": spec})
            report = _exported(
                network, staged, card, {name: given[name] for name in order}, [*spec.given.values()], tolerance
            )
            for file, beside, outputs in parts:
                each = {name: _typed(value, dtype) for name, value in beside.examples.items()}
                alone = Path(temporary) / f"of-{file}" / folder.name
                found = _exported(beside.network.to(dtype), alone, None, each, outputs, tolerance)
                report = replace(report, error=report.error | {f"{file}: {k}": v for k, v in found.error.items()})
                for written in (alone / "1").iterdir():
                    written.rename(staged / "1" / written.name.replace("model.onnx", file))
        finally:
            if before is not None:
                network.to(before)
        install(staged, folder, 1)
    return report


def arguments_of(network: nn.Module, card: Card) -> list[str]:
    """Names of a module's arguments, which must be the card's inputs and conditions; ExportError where they are not."""
    assert card.dynamics is not None
    wanted = [*card.dynamics.fed.values(), *card.conditions]
    parameters = inspect.signature(network.forward).parameters.values()
    names = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if sorted(names) != sorted(wanted):
        raise ExportError(
            f"{type(network).__name__}: expected arguments called as the card's inputs ({', '.join(wanted)}), "
            f"got {', '.join(names)}"
        )
    return names


def examples_of(card: Card, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random inputs of the shapes that a card says, by name."""
    spec = card.dynamics
    assert spec is not None
    generator = torch.Generator().manual_seed(0)
    made = {spec.inputs.y: torch.randn(ROWS, *spec.state, generator=generator, dtype=torch.float64)}
    for name in (spec.inputs.t, spec.inputs.dt):
        if name is not None:
            made[name] = torch.rand(ROWS, generator=generator, dtype=torch.float64)
    if spec.control is not None:
        made[spec.control.input] = torch.randn(ROWS, spec.control.channels, generator=generator, dtype=torch.float64)
    for name, condition in card.conditions.items():
        shape = (ROWS, *(min(condition.most, LENGTH) if axis == -1 else axis for axis in condition.shape))
        low = 0.0 if condition.min is None else condition.min
        high = low + 1 if condition.max is None else condition.max
        if condition.dtype.startswith("float"):
            made[name] = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
        else:
            whole = torch.randint(int(low), int(high) + 1, shape, generator=generator)
            made[name] = whole.bool() if condition.dtype == "bool" else whole
    return {name: _typed(each, dtype) for name, each in made.items()}


def _typed(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _exported(
    network: nn.Module,
    folder: Path,
    card: Card | None,
    examples: Mapping[str, Tensor],
    outputs: list[str],
    tolerance: float,
) -> parity.Parity:
    """As `export_model`; refuses modules with gradients inside."""
    watch = _Watch()
    with watch, torch.no_grad():
        network(*examples.values())
    if watch.seen:
        raise ExportError(
            f"{type(network).__name__}: expected a module without gradients inside (torch.func.jacrev, jacfwd, grad, "
            "vmap), got one: write the derivative out in tensors, or let a solver ask for rows of it"
        )
    try:
        return export_model(network, folder, card, examples=examples, outputs=outputs, tolerance=tolerance)
    except parity.ParityError as error:
        if any(each.dtype == torch.float64 for each in examples.values()) and "module's" in str(error):
            raise parity.ParityError(f"{error}; {_FLOAT32_NUMBERS}") from None
        raise


class _Watch(TorchFunctionMode):
    """Notes whether operations are inside a transform of torch.func: such a module leaves the exporter's process in a
    state in which no other module can be exported, so that it must be found out before."""

    seen = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor
        self.seen = self.seen or any(isinstance(each, Tensor) and wrapped(each) for each in args)
        return func(*args, **(kwargs or {}))


def _step(network: nn.Module, spec: Dynamics, order: list[str], given: Mapping[str, Tensor]) -> tuple[Dynamics, Beside]:
    """The module of a whole step, and the card's part that says so."""
    name = spec.solver.name or "tsit5"
    if spec.kind != "ode" or name not in PAIRS:
        raise ExportError(f"step: expected an ode solved by {', '.join(PAIRS)}, got kind {spec.kind} by {name!r}")
    said, y, t = Step(graph=STEP, solver=name), spec.inputs.y, spec.inputs.t
    others = {each: given[each] for each in order if each not in (y, t)}
    if clash := {said.h, said.k1, "t" if t is None else t} & {*others, *([y] if t is None else [])}:
        raise ExportError(f"step: expected inputs not called {min(clash)!r}, which a step has")
    rows = len(given[y])
    examples = {
        y: given[y],
        "t" if t is None else t: given[t] if t is not None else torch.rand(rows).to(given[y].dtype),
        said.h: torch.linspace(0.01, 0.1, rows).to(given[y].dtype),
        said.k1: torch.randn(given[y].shape, generator=torch.Generator().manual_seed(1)).to(given[y].dtype),
        **others,
    }
    return spec.model_copy(update={"step": said}), Beside(StepOf(network, PAIRS[name], order, y, t), examples)
