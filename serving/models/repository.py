"""Opens a model from its folder: the graph, what its calls cost, and the card, bank and programs beside it."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

import steering
from protos.card import Card, CardError, Range, dump_text, load_card, ranged
from protos.digest import graph_sha256, sha256
from protos.dynamics import Side as Coder
from protos.programs import ProgramsError, load_programs
from serving.backends import Backend, LoadError, shown
from serving.backends.costs import Costs
from serving.backends.limited import Limited
from serving.backends.made_up import MadeUp
from serving.backends.shared import SharedInputs, per_row
from serving.backends.triton import TritonNetwork
from serving.backends.usual import Usual, varies
from serving.engine.task import Network
from serving.models import defaults, ranges
from serving.models.adapter import check_graph, check_names, check_time, check_times
from serving.models.backward import Backward, check_backward
from serving.models.dynamics import Dynamics, Side, check_decoder, load_weights, side_of, step_of
from serving.models.dynamics import check_graph as check_dynamics
from serving.models.folders import Folder
from serving.models.model import Model, PlainModel, Sampler
from serving.models.pipeline import Opened, Recipe
from serving.models.trial import Trials, Tried
from steering.plans.program import Choice

Open = Callable[[Path], Backend]
Measure = Callable[[Backend, str, MadeUp | None], Costs]
"""Measures what calls of a backend cost, by inputs that its graph accepts. The text is equal for equal graphs on equal
backends."""


def guess(backend: Backend, graph: str, made_up: MadeUp | None) -> Costs:
    """Costs without a measurement, for use without an engine."""
    return Costs.guessed(backend.sizes(64))


def opened(folder: Folder, opener: Open, measure: Measure = guess, trials: Trials | None = None) -> Opened:
    """As `load`; also what a pipeline's folder says, which has no graph."""
    card = _card(folder)
    if card is not None and card.is_pipeline:
        return Recipe.of(folder, card)
    return load(folder, opener, measure, trials)


def load(folder: Folder, opener: Open, measure: Measure = guess, trials: Trials | None = None) -> Model:
    """Open a model's graph, check its card against it, try whether its rows are independent, and measure its calls.

    Args:
        trials: how it is tried; None for a model that is not trusted.

    Raises:
        LoadError: one line that names the file, what was expected and what came.
    """
    card = _card(folder)
    if card is not None and card.is_pipeline:
        raise LoadError(f"{folder.card}: expected a model with a graph, got a pipeline")
    backend = opener(folder.graph)
    try:
        return _loaded(folder, card, backend, opener, measure, trials or Trials())
    except BaseException:
        backend.close()
        raise


def _loaded(
    folder: Folder, card: Card | None, backend: Backend, opener: Open, measure: Measure, trials: Trials
) -> Model:
    owner = folder.digest
    if card is not None and card.is_dynamics:
        return _dynamics(folder, card, backend, opener, measure, trials)
    backend, sizable = _usual(card, backend)
    path = _path(folder, card, backend) if card is not None and card.is_sampler else None
    if card is not None and path is None:
        check_names(folder.card, card, backend.inputs, backend.outputs)
    found, without = ranges.found(folder.graph, backend)
    limits = {name: Range(min=low, max=high) for name, (low, high) in found.items()}
    key = f"{owner} {backend.kind}"
    digest = _digest(folder, card, key)
    if card is None or path is None:
        arguments = limits if card is None else ranged(card, found).arguments
        tried = trials.run(folder, backend, digest, arguments, None)
        network = _network(folder, key, backend, measure, tried, sizable)
        sample, score = (None, None) if card is None else (card.sample, card.score_output)
        backward = _backward(folder, card, key, network, opener, measure, trials, arguments)
        return PlainModel(
            folder.name,
            folder.version,
            network,
            digest[:16],
            arguments,
            sample,
            score,
            without,
            backward,
            {} if card is None else card.prompt or {},
        )
    card = ranged(card, found)
    asked = {**limits, **ranges.asked(card, path)}
    tried = trials.run(folder, backend, digest, asked, card.output)
    network = _network(folder, key, backend, measure, tried, sizable)
    programs = _load_programs(folder.programs, owner) if folder.programs.exists() else {}
    samples = _load_bank(folder.bank, card.event_shape, owner) if folder.bank.exists() else None
    sampler = Sampler(folder.name, folder.version, card, path, network, digest, programs, limits)
    if why := defaults.fault(sampler, card.defaults):
        raise LoadError(f"{folder.card}: {why}")
    sampler.learn(samples, _calibration(card))
    sampler.backward = _backward(folder, card, key, network, opener, measure, trials, asked)
    return sampler


def _dynamics(folder: Folder, card: Card, backend: Backend, opener: Open, measure: Measure, trials: Trials) -> Dynamics:
    """A model of dynamics with the graphs beside its field's; every graph is tried and measured."""
    assert card.dynamics is not None
    spec, key = card.dynamics, f"{folder.digest} {backend.kind}"
    check_dynamics(folder.card, card, backend)
    found, without = ranges.found(folder.graph, backend)
    card = ranged(card, found)
    limits = {name: Range(min=low, max=high) for name, (low, high) in found.items()}
    bounded = {**limits, **{name: each for name, each in card.conditions.items() if not _endless(each)}}
    digest = _digest(folder, card, key)
    if any(without.values()):
        raise LoadError(f"{folder.graph}: expected no division of an input by -1 in whole numbers, got one")
    tried = trials.run(folder, backend, digest, bounded, None)
    network, sides = _network(folder, key, backend, measure, tried), dict[str, Side]()
    try:
        beside = _Beside(folder, network, opener, measure, trials)
        if (coder := spec.encode) is not None:
            sides["encode"] = beside.coder("encode", coder, coder.inputs, spec.state)
        if (coder := spec.decode) is not None:
            sides["decode"] = beside.coder("decode", coder, None, None)
        if spec.step is not None:
            sides["step"] = beside.step(card, spec.step.graph)
        if spec.decode is not None:
            check_decoder(folder.card, card, sides["decode"])
        weights = None if spec.conserve is None else load_weights(folder.beside(spec.conserve.weights), spec.state)
    except BaseException:
        for each in sides.values():
            each.network.backend.close()
        raise
    return Dynamics(
        folder.name, folder.version, card, spec, network, digest, sides.get("encode"), sides.get("decode"),
        sides.get("step"), weights, {**limits, **card.conditions},
    )  # fmt: skip


def _endless(each: Range) -> bool:
    return each.min is None and each.max is None


@dataclass(frozen=True)
class _Beside:
    """Opens graphs beside a field's, which are tried and measured as that was."""

    folder: Folder
    field: Network
    opener: Open
    measure: Measure
    trials: Trials

    def coder(self, key: str, coder: Coder, inputs: Sequence[str] | None, row: tuple[int, ...] | None) -> Side:
        """An encoder or a decoder; `row` is the shape of what it gives, None for any."""
        where = f"dynamics.{key}"

        def made(backend: Backend, network: Network, units: float) -> Side:
            return side_of(self.folder.card, where, backend, network, units, inputs, coder.output, row)

        return self._opened(where, coder.graph, made)

    def step(self, card: Card, graph: str) -> Side:
        """A whole step."""
        return self._opened("dynamics.step", graph, partial(step_of, self.folder.card, card))

    def _opened(self, key: str, name: str, made: Callable[[Backend, Network, float], Side]) -> Side:
        folder, file = self.folder, self.folder.beside(name)
        if not file.is_file():
            raise LoadError(f"{folder.card}: {key}.graph: expected a file beside the graph, got no {name!r}")
        backend = self.opener(file)
        try:
            graph = f"{graph_sha256(file)} {backend.kind}"
            tried = self.trials.run(folder, backend, f"{folder.digest} {key} {graph}", {}, None, file)
            rowwise = per_row(backend)
            costs = self.measure(rowwise, graph, tried.made_up)
            if isinstance(rowwise, SharedInputs):
                rowwise.use(costs.sizes)
            network = Network(folder.name, rowwise, costs, tried.caution, folder.version)
            return made(rowwise, network, costs.row_s / self.field.costs.row_s)
        except BaseException:
            backend.close()
            raise


def _backward(
    folder: Folder,
    card: Card | None,
    key: str,
    network: Network,
    opener: Open,
    measure: Measure,
    trials: Trials,
    limits: Mapping[str, Range],
) -> Backward | None:
    """The network's vector-Jacobian graph, tried and measured as the network was; None where the card says of none, and
    where the network runs on another server, which has no such graph.

    Args:
        key: of the network, equal for equal graphs on equal backends.
        limits: what may be asked of the graph's inputs, by name.
    """
    if card is None or card.vjp is None or isinstance(network.backend, TritonNetwork):
        return None
    backend = opener(folder.vjp)
    try:
        check_backward(folder.vjp, card.vjp, network.backend, rowwise := per_row(backend))
        key = f"{key} vjp {graph_sha256(folder.vjp)}"
        tried = trials.run(folder, backend, key, limits, None, folder.vjp)
        costs = measure(rowwise, key, tried.made_up)
        if isinstance(rowwise, SharedInputs):
            rowwise.use(costs.sizes)
        made = Network(folder.name, rowwise, costs, tried.caution, folder.version)
        return Backward(made, card.vjp, costs.row_s / network.costs.row_s)
    except BaseException:
        backend.close()
        raise


def _usual(card: Card | None, backend: Backend) -> tuple[Backend, bool]:
    """The graph as one of rows of the card's shapes, and whether it leaves some of them free. What runs on another
    server stays as it says itself."""
    if card is None or isinstance(backend, TritonNetwork):
        return backend, False
    rows = dict(card.rows or {})
    if card.is_sampler:
        states = {card.inputs.x: card.event_shape}
        if not card.learned_variance:
            states[card.output] = card.event_shape
        rows = {**{name: each.fed for name, each in card.conditions.items()}, **states}
    free = varies(backend.inputs, rows)
    return (Usual(backend, rows), True) if free else (backend, False)


def _network(
    folder: Folder, key: str, graph: Backend, measure: Measure, tried: Tried, sizable: bool = False
) -> Network:
    """The graph with its inputs row by row, without outputs that must not be served, and what its calls cost.

    Args:
        key: equal for equal graphs on equal backends.
    """
    backend = rowwise = per_row(graph)
    if tried.left_out:
        backend = Limited(rowwise, {each.name for each in graph.outputs} - tried.left_out)
    costs = measure(backend, key, tried.made_up)
    if isinstance(rowwise, SharedInputs):
        rowwise.use(costs.sizes)
    return Network(folder.name, backend, costs, tried.caution, folder.version, sizable)


def _digest(folder: Folder, card: Card | None, graph: str) -> str:
    """Equal for equal graphs on equal backends with equal cards and programs; banks are no part of it."""
    digest = hashlib.sha256(graph.encode())
    for file in folder.others:
        digest.update(sha256(file).encode())
    if card is not None:
        digest.update(dump_text(card).encode())
    return digest.hexdigest()


def _card(folder: Folder) -> Card | None:
    """The card, which must name its folder; None where there is none."""
    if not folder.has_card:
        return None
    try:
        card = load_card(folder.card)
    except CardError as error:
        raise LoadError(str(error)) from None
    if card.name != folder.name:
        raise LoadError(f"{folder.card}: name: expected {folder.name!r}, its folder's name, got {card.name!r}")
    return card


def _path(folder: Folder, card: Card, backend: Backend) -> steering.Path:
    """The path of a sampler's card, which must fit the graph."""
    assert card.path is not None
    assert card.prediction is not None
    try:
        path = steering.paths.build(card.path, card.t_range)
        steering.plan(
            "ddim", path=path.finite, steps=1, prediction=card.prediction, preconditioning=card.preconditioning
        )
        if card.preconditioning == "edm" and isinstance(path, steering.paths.MeanReverting):
            raise ValueError("preconditioning 'edm': expected a path that reverts to no mean, got mean_reverting")
        if steering.limits.build(**card.limit) is not None and isinstance(path, steering.paths.MeanReverting):
            raise ValueError("clip, dynamic_threshold: expected a path that reverts to no mean, got mean_reverting")
        check_time(card.inputs.time, path)
    except (ValueError, TypeError) as error:
        raise LoadError(f"{folder.card}: {error}") from None
    check_graph(folder.card, card, backend.inputs, backend.outputs)
    check_times(folder.card, card, path, backend.inputs)
    if next(each for each in backend.inputs if each.name == card.inputs.t).dtype.kind in "iu":
        path = path.asked_at(steering.paths.unrounded(card.inputs.time))
    return path


def _calibration(card: Card) -> steering.Calibration | None:
    """The card's curve; one point is none."""
    curve = card.calibration
    return None if curve is None or len(curve.t) < 2 else steering.Calibration(tuple(curve.t), tuple(curve.mse))


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
