"""A user's torch module, found by the name of a file or package, with example inputs for the exporter."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from protos.card import Card
from protos.complaint import shorten

FACTORY = "network"


class SourceError(ValueError):
    """A source that names no usable torch module; the text is one line."""


def load_network(source: str) -> tuple[nn.Module, Mapping[str, Tensor] | None]:
    """The module that `FILE.py[:FACTORY]` or `package.module[:FACTORY]` names, and its examples if it brings any.

    FACTORY is a module, or a function without arguments that returns a module or (module, {input name: tensor}).
    """
    where, colon, factory = source.rpartition(":")
    if not colon:
        where, factory = source, FACTORY
    try:
        found = _import(where)
    except Exception as error:  # whatever the user's own file raises
        raise SourceError(
            f"{where}: expected a module that can be imported, got {type(error).__name__}: {error}"
        ) from error
    if not hasattr(found, factory):
        raise SourceError(f"{where}: expected {factory!r} in it, got a module without")
    made = getattr(found, factory)
    if callable(made) and not isinstance(made, nn.Module):
        try:
            made = made()
        except Exception as error:
            raise SourceError(f"{source}: expected a network, got {type(error).__name__}: {error}") from error
    network, examples = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(network, nn.Module):
        raise SourceError(f"{source}: expected a torch module or (module, examples), got {shorten(made)}")
    if examples is not None and not (
        isinstance(examples, Mapping) and all(isinstance(each, Tensor) for each in examples.values())
    ):
        raise SourceError(f"{source}: expected examples as {{input name: tensor}}, got {shorten(examples)}")
    return network, examples


LENGTH = 8
"""Of examples where a length is free."""


def examples_of(card: Card, rows: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Example inputs of a sampler's network: x [rows, *event], t [rows], then its conditions [rows, *shape].

    Args:
        dtype: of floats.
    """
    if not card.is_sampler:
        raise SourceError(f"{card.name}: expected a path in the card, or examples beside the module, got neither")
    generator = torch.Generator().manual_seed(0)
    examples = {
        card.inputs.x: torch.randn(rows, *card.event_shape, generator=generator).to(dtype),
        card.inputs.t: torch.linspace(0.25, 0.75, rows).to(dtype),
    }
    for name, condition in card.conditions.items():
        shape = (rows, *(min(condition.most, LENGTH) if axis == -1 else axis for axis in condition.fed))
        if condition.dtype == "float32":
            examples[name] = torch.randn(shape, generator=generator).to(dtype)
        else:
            whole = torch.randint(2, shape, generator=generator)
            examples[name] = whole.bool() if condition.dtype == "bool" else whole
        if condition.mask is not None:
            examples[condition.mask] = torch.ones(rows, condition.most, dtype=torch.bool)
    return examples


def float_type(network: nn.Module) -> torch.dtype:
    """The type of a module's floats: that of its first weights, float32 without any."""
    floats = (each.dtype for each in (*network.parameters(), *network.buffers()) if each.is_floating_point())
    return next(floats, torch.float32)


def _import(where: str) -> ModuleType:
    if not where.endswith(".py"):
        sys.path.insert(0, "")  # as `python -m` does: modules of the working directory
        return importlib.import_module(where)
    file = Path(where)
    if not file.is_file():
        raise FileNotFoundError("no such file")
    sys.path.insert(0, str(file.parent))  # as `python FILE` does: modules of the file's folder
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module
