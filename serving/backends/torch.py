"""Torch itself on the CPU: a module, or a program exported to a `.pt2` file. A reference for the other backends."""

import platform
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from serving.backends import Array, GraphTensor, InputError, LoadError, shared_input
from serving.backends.session import reason
from serving.backends.sizes import dense

OUTPUT = "output"
"""The name of a program's only output, which in a `.pt2` file has none; outputs in a dictionary keep their keys."""


class TorchNetwork:
    """A module called with its inputs in their order; it returns a tensor, or a dictionary of tensors.

    Args:
        most: rows it takes in one call at most; None for any number.
        bfloat16: inputs that the module wants in bfloat16, which numpy lacks; they come in float32.

    Attributes:
        random: what of it draws noise, as texts.
    """

    invariant = False  # matrix products choose their kernels by the number of rows

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[GraphTensor],
        outputs: Sequence[GraphTensor],
        *,
        most: int | None = None,
        bfloat16: Collection[str] = (),
        random: Sequence[str] = (),
    ) -> None:
        self.random = tuple(random)
        self._module, self.inputs, self.outputs, self._most = module, tuple(inputs), tuple(outputs), most
        self._bfloat16 = frozenset(bfloat16)
        capability = torch.backends.cpu.get_cpu_capability()
        self.kind = f"torch {torch.__version__} CPU {platform.machine()} {capability} threads {torch.get_num_threads()}"

    @classmethod
    def load(cls, file: Path) -> Self:
        """A program that `torch.export.save` wrote, with a batch axis that is free.

        A `.pt2` file may hold pickled objects, which run code when they are loaded.

        Raises:
            LoadError: the file, what was expected and what came.
        """
        try:
            program = torch.export.load(file)
        except Exception as error:  # from zipfile's to pickle's
            raise LoadError(f"{file}: expected a program of torch.export, got: {_line(error)}") from None
        if program.call_spec.in_spec.child(1).num_leaves:
            raise LoadError(f"{file}: expected a program exported with positional arguments, got some by keyword")
        nodes = {node.name: node for node in program.graph.nodes}
        taken = {name: nodes[name].meta["val"] for name in program.graph_signature.user_inputs}
        rowed = [value for value in taken.values() if isinstance(value, Tensor) and _rows_of(value) is not None]
        inputs = [_tensor(file, name, value, may_be_shared=bool(rowed)) for name, value in taken.items()]
        returned = torch.utils._pytree.tree_unflatten(
            [nodes[name].meta["val"] for name in program.graph_signature.user_outputs], program.call_spec.out_spec
        )
        outputs = [_tensor(file, name, value) for name, value in _named(returned).items()]
        upper = program.range_constraints[_rows_of(rowed[0]).node.expr].upper
        narrow = [name for name, value in taken.items() if value.dtype == torch.bfloat16]
        most = int(upper) if upper.is_Integer else None
        return cls(program.module(), inputs, outputs, most=most, bfloat16=narrow, random=_random(program.graph))

    def sizes(self, most: int) -> tuple[int, ...]:
        """Implements `Backend.sizes`."""
        return dense(most if self._most is None else min(most, self._most))

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Implements `Backend.run`."""
        tensors = [self._given(each.name, feeds[each.name]) for each in self.inputs]
        try:
            with torch.inference_mode():
                results = _named(self._module(*tensors))
        except IndexError as error:  # an embedding's
            raise InputError(_line(error)) from None
        except Exception as error:
            raise reason(error) from None
        return [_wide(results[name]).numpy() for name in outputs]

    def close(self) -> None:
        """Implements `Backend.close`."""
        del self._module

    def _given(self, name: str, value: Array) -> Tensor:
        tensor = torch.from_numpy(np.require(value, requirements="W"))
        return tensor.to(torch.bfloat16) if name in self._bfloat16 else tensor


def _random(graph: torch.fx.Graph) -> list[str]:
    """The operations that draw noise; those with nothing to drop, or not in training, do not."""
    found = []
    for node in graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            schema = node.target._schema.arguments
            given = {each.name: each.default_value for each in schema if each.has_default_value()}
            given |= dict(zip((each.name for each in schema), node.args, strict=False)) | node.kwargs
            idle = [given.get(name) is False for name in ("train", "training")]
            idle += [given.get(name) == 0 for name in ("p", "dropout_p", "dropout")]
            if node.users and not any(idle):
                found.append(f"node {node.target} {node.name!r}")
    return found


def _named(returned: Any) -> dict[str, Any]:
    return dict(returned) if isinstance(returned, Mapping) else {OUTPUT: returned}


def _rows_of(value: Tensor) -> Any:
    """The symbol of a free first axis, None if it has none."""
    first: Any = value.shape[0] if value.ndim else 0
    return None if isinstance(first, int) else first


def _wide(value: Tensor) -> Tensor:
    """In float32, if numpy lacks its type."""
    return value.float() if value.dtype == torch.bfloat16 else value


def _tensor(file: Path, name: str, value: Any, *, may_be_shared: bool = False) -> GraphTensor:
    if not isinstance(value, Tensor):
        raise LoadError(f"{file}: {name}: expected a tensor, got {type(value).__name__}")
    shape: list[Any] = list(value.shape)  # what is not an int is a symbol
    dtype = _wide(torch.empty(0, dtype=value.dtype)).numpy().dtype
    if may_be_shared and all(isinstance(axis, int) for axis in shape):
        return shared_input(name, dtype, tuple(shape), bfloat16=value.dtype == torch.bfloat16)
    if not shape or isinstance(shape[0], int):
        raise LoadError(f"{file}: {name}: expected a free first axis for the batch, got shape {shape}")
    row = tuple(axis if isinstance(axis, int) else None for axis in shape[1:])
    return GraphTensor(name, dtype, row, bfloat16=value.dtype == torch.bfloat16)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
