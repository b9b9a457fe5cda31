"""Opens a model from its folder: the graph, what its calls cost, and the card, bank and programs beside it."""

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

import steering
from protos.card import Card, CardError, Range, dump_text, load_card, ranged
from protos.digest import sha256
from protos.programs import ProgramsError, load_programs
from protos.ranges import index_ranges
from serving.backends import Backend, GraphTensor, LoadError, shown
from serving.backends.costs import Costs
from serving.engine.task import Network
from serving.models.folders import Folder
from serving.models.folders import scan as scan
from serving.models.model import Model, PlainModel, Sampler
from steering.plans.program import Choice

_log = logging.getLogger(__name__)

Open = Callable[[Path], Backend]
Measure = Callable[[Backend, str], Costs]
"""Measures what calls of a backend cost; the text is equal for equal graphs on equal backends."""


def guess(backend: Backend, graph: str) -> Costs:
    """Costs without a measurement, for use without an engine."""
    return Costs.guessed(backend.sizes(64))


def load(folder: Folder, opener: Open, measure: Measure = guess) -> Model:
    """Open a model's graph, measure what its calls cost, and check its card against it.

    Raises:
        LoadError: one line that names the file, what was expected and what came.
    """
    backend = opener(folder.graph)
    owner = folder.digest
    network = Network(folder.name, backend, measure(backend, f"{owner} {backend.kind}"))
    digest = hashlib.sha256(f"{owner} {backend.kind}".encode())
    for file in folder.others:
        digest.update(sha256(file).encode())
    found = _index_ranges(folder.graph, backend)
    ranges = {name: Range(min=low, max=high) for name, (low, high) in found.items()}
    if not folder.has_card:
        return PlainModel(folder.name, folder.version, network, digest.hexdigest()[:16], ranges)
    try:
        card = load_card(folder.card)
    except CardError as error:
        raise LoadError(str(error)) from None
    if card.name != folder.name:
        raise LoadError(f"{folder.card}: name: expected {folder.name!r}, its folder's name, got {card.name!r}")
    digest.update(dump_text(card).encode())
    if not card.is_sampler:
        if unknown := {*card.arguments} - (names := {each.name for each in backend.inputs}):
            raise LoadError(
                f"{folder.card}: arguments: expected inputs of the graph ({', '.join(sorted(names))}), "
                f"got {min(unknown)!r}"
            )
        return PlainModel(folder.name, folder.version, network, digest.hexdigest()[:16], ranged(card, found).arguments)
    assert card.path is not None
    assert card.prediction is not None
    try:
        path = steering.paths.build(card.path, card.t_range)
        steering.plan("ddim", path=path, steps=1, prediction=card.prediction, preconditioning=card.preconditioning)
        if card.preconditioning == "edm" and isinstance(path, steering.paths.MeanReverting):
            raise ValueError("preconditioning 'edm': expected a path that reverts to no mean, got mean_reverting")
        steering.paths.TIME_INPUTS[card.inputs.time](path, torch.ones(1))  # not every path counts steps
    except (ValueError, TypeError) as error:
        raise LoadError(f"{folder.card}: {error}") from None
    check_graph(folder.card, card, backend)
    programs = _load_programs(folder.programs, owner) if folder.programs.exists() else {}
    card = ranged(card, found)
    sampler = Sampler(folder.name, folder.version, card, path, network, digest.hexdigest(), programs, ranges)
    curve = card.calibration
    calibration = None
    if curve is not None and len(curve.t) > 1:
        calibration = steering.Calibration(tuple(curve.t), tuple(curve.mse))
    samples = _load_bank(folder.bank, card.event_shape, owner) if folder.bank.exists() else None
    sampler.learn(samples, calibration)
    return sampler


def _index_ranges(graph: Path, backend: Backend) -> Mapping[str, tuple[int, int]]:
    """Ranges of the graph's integer inputs as its own tables have them; none where the graph is not here as ONNX."""
    whole = {each.name for each in backend.inputs if each.dtype.kind in "iu"}
    if not whole or graph.suffix != ".onnx" or not graph.is_file():
        return {}
    import onnx  # slow to import, and most models have no such input

    try:
        model = onnx.load(str(graph), load_external_data=False)
    except Exception as error:  # ONNX Runtime has opened it; ranges are a help
        _log.warning("%s: no ranges of its inputs were looked for: %s", graph, error)
        return {}
    return {name: each for name, each in index_ranges(model.graph).items() if name in whole}


def check_graph(file: Path, card: Card, backend: Backend) -> None:
    """Compare the card's names, types and shapes with the graph's; LoadError names both."""
    inputs = {each.name: each for each in backend.inputs}
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        card.inputs.x: ("float32", card.event_shape),
        card.inputs.t: ("float32", ()),
        **{name: (condition.dtype, condition.fed) for name, condition in card.conditions.items()},
    }
    masks = {each.mask: ("bool", (each.most,)) for each in card.conditions.values() if each.mask is not None}
    if taken := sorted(wanted.keys() & masks.keys()):
        raise LoadError(f"{file}: mask: expected an input of its own, got {taken[0]!r}, which is another's")
    wanted |= masks
    for name, (dtype, row) in wanted.items():
        if name not in inputs:
            raise LoadError(f"{file}: the card names input {name!r}, the graph has {', '.join(inputs)}")
        here = inputs[name]
        column = name == card.inputs.t and (row, here.row) == ((), (1,))  # times [n, 1] are served too
        whole = card.inputs.time in ("1000*t", "N*t-1")  # the time inputs that integers can hold
        loose = name in masks or (name == card.inputs.t and here.dtype.kind in ("fi" if whole else "f"))
        if not (here.fits(row) or column) or not (here.dtype == dtype or loose):
            raise LoadError(f"{file}: input {name!r}: the card says {dtype} {shown(row)}, the graph {_describe(here)}")
    if extra := [name for name in inputs if name not in wanted]:
        raise LoadError(f"{file}: the graph has input {extra[0]!r}, the card names {', '.join(wanted)}")
    outputs = {each.name: each for each in backend.outputs}
    if card.output not in outputs:
        raise LoadError(f"{file}: the card names output {card.output!r}, the graph has {', '.join(outputs)}")
    out = outputs[card.output]
    if not out.fits(card.event_shape) or out.dtype.kind != "f":
        raise LoadError(
            f"{file}: output {card.output!r}: "
            f"the card says float32 {shown(card.event_shape)}, the graph {_describe(out)}"
        )


def _load_bank(file: Path, event: tuple[int, ...], graph: str | None) -> torch.Tensor:
    try:
        with np.load(file, allow_pickle=False) as archive:
            samples = torch.from_numpy(archive["x"].astype(np.float32))
            owner = str(archive["model_sha256"]) if "model_sha256" in archive else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise LoadError(f"{file}: expected a bank (x, model_sha256), got: {' '.join(str(error).split())}") from None
    if samples.shape[1:] != event or len(samples) < 2:
        raise LoadError(f"{file}: x: expected {shown(('K', *event))} with K >= 2, got {shown(samples.shape)}")
    if not bool(samples.isfinite().all()):
        raise LoadError(f"{file}: x: expected finite samples, got NaN or infinity")
    if None not in (owner, graph) and owner != graph:
        here, there = str(graph)[:12], str(owner)[:12]
        raise LoadError(f"{file}: drawn from a graph with sha256 {there}, the graph beside it has {here}")
    return samples


def _load_programs(file: Path, graph: str | None) -> dict[int, steering.Program]:
    try:
        content = load_programs(file)
        programs = {
            each.rows: steering.Program(each.fractions, tuple(Choice(**dict(step)) for step in each.steps))
            for each in content.programs
        }
    except ProgramsError as error:
        raise LoadError(str(error)) from None
    if graph is not None and content.model_sha256 != graph:
        raise LoadError(
            f"{file}: searched for a graph with sha256 {content.model_sha256[:12]}, the graph beside it has "
            f"{graph[:12]}: delete it, or search again with tiltserve search-plan"
        )
    return programs


def _describe(tensor: GraphTensor) -> str:
    return f"{tensor.dtype} {shown(tensor.row)}"
