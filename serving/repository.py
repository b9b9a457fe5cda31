"""A model repository on disk: Triton's layout plus a card. Finds the models, and loads one into memory."""

import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache

import steering
from protos.card import Card, CardError, Range, dump_text, load_card
from protos.programs import ProgramsError, load_programs
from serving.backends import Array, Backend, GraphTensor, LoadError
from serving.costs import Costs
from serving.task import Network
from steering.posteriors import Chosen, Cloud, Gaussian, Local, Neighbours, Union, Variance
from steering.program import Choice

GRAPH, TORCH, CARD, BANK, PROGRAMS = "model.onnx", "model.pt2", "card.yaml", "bank.npz", "searched.json"
RAW = ".network"  # digits.network is the raw network of the sampler digits

REMEMBERED = 256
"""Rewards whose scores on a bank are kept."""
GROWN = 8
"""Targets whose grown banks are kept: some 12,000 samples each."""

Open = Callable[[Path], Backend]
Measure = Callable[[Backend, str], Costs]
"""What calls of a backend cost; the text is equal for equal graphs on equal backends."""


@dataclass(frozen=True)
class Folder:
    """The newest version of one model: `<root>/<name>/<version>/model.onnx`, or `model.pt2` where there is no such."""

    name: str
    version: str
    root: Path

    @property
    def graph(self) -> Path:
        found, other = (self.root / self.version / name for name in (GRAPH, TORCH))
        return other if other.is_file() and not found.is_file() else found

    @property
    def bank(self) -> Path:
        return self.root / self.version / BANK

    @property
    def programs(self) -> Path:
        return self.root / self.version / PROGRAMS

    @property
    def card(self) -> Path:
        return self.root / CARD


@dataclass(frozen=True, eq=False)
class PlainModel:
    """A network without a path: a classifier, a critic, or a sampler's raw network.

    Attributes:
        ranges: what some of its inputs may be, by name.
    """

    name: str
    version: str
    network: Network
    fingerprint: str
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def out_of_range(self, name: str, value: Array) -> str:
        """Why an input's values are refused; empty where they are not."""
        return self.ranges[name].fault(value) if name in self.ranges else ""


class Knowledge:
    """What is known of a sampler's law: replaced as a whole, so that a request sees one state of it from end to end.

    Attributes:
        cloud: the bank's samples, None while there are none.
        calibration: V(t), None before it was measured.
        choice: the local posterior that fits the bank, None before it was sought.
        scored: rewards of the bank by reward; clients choose them, so their number is bounded.
        refreshed: banks grown toward rare targets; bounded likewise.
        underway: for targets that a request prepares right now, what ends when it has; only the engine's second
            thread looks into it.
        fingerprint: graph, card and backend with bank, calibration and choice; replicas with equal ones give equal
            bytes.
    """

    def __init__(
        self,
        card: Card,
        digest: str,
        samples: torch.Tensor | None,
        calibration: steering.Calibration | None,
        choice: Chosen | None = None,
    ) -> None:
        self._card = card
        self.cloud = None if samples is None else Cloud(samples)
        self.calibration, self.choice = calibration, choice
        self.scored: MutableMapping[Hashable, torch.Tensor] = LRUCache(REMEMBERED)
        self.refreshed: MutableMapping[Hashable, Union] = LRUCache(GROWN)
        self.underway: dict[Hashable, Future[None]] = {}
        whole = hashlib.sha256(digest.encode())
        whole.update(b"" if samples is None else samples.numpy().tobytes())
        whole.update(repr(calibration).encode())
        if choice is not None:
            whole.update(choice.why.encode())
            parts = () if choice.mixture is None else dataclasses.astuple(choice.mixture.components)
            for part in parts:
                whole.update(part.numpy().tobytes())
        self.fingerprint = whole.hexdigest()[:16]

    def local(self, kind: str | None) -> Local:
        """The local posterior of the given kind, or of the card's, or the one that fits the bank; where there is not
        yet what it needs, neighbours for images and a Gaussian for vectors, as far as there is a bank."""
        calibration: Variance | None = self.calibration
        if calibration is None:
            calibration = steering.Uncalibrated(self.cloud.variance if self.cloud is not None else 1.0)
        kind = kind or self._card.posterior
        if self.choice is not None and kind is None:
            return self.choice.local
        if self.choice is not None and self.choice.mixture is not None and kind == "mixture":
            return self.choice.mixture
        image = len(self._card.event_shape) > 1
        if self.cloud is not None and (kind == "neighbours" or (kind != "gaussian" and image)):
            return Neighbours(self.cloud, calibration)
        return Gaussian(calibration)


class Sampler:
    """A network with a card: what is needed to draw from it, and in `known` what is needed to steer it.

    Attributes:
        programs: searched solver programs by number of steps.
    """

    def __init__(
        self,
        name: str,
        version: str,
        card: Card,
        path: steering.Path,
        network: Network,
        digest: str,
        programs: Mapping[int, steering.Program] | None = None,
    ) -> None:
        self.name, self.version, self.card, self.path, self.network = name, version, card, path, network
        self.digest, self.programs = digest, programs or {}
        self.learn(None, None)

    def plan(self, solver: str, steps: int, path: steering.Path | None = None, **other: Any) -> steering.Plan:
        """A plan for this network, on its own path or rescheduled onto another; raises `PlanError`."""
        assert self.card.prediction is not None
        return steering.plan(
            solver, path=path or self.path, trained=self.path, steps=steps, prediction=self.card.prediction,
            preconditioning=self.card.preconditioning, sigma_data=self.card.sigma_data, **other,
        )  # fmt: skip

    def learn(
        self, samples: torch.Tensor | None, calibration: steering.Calibration | None, *, choose: bool = False
    ) -> None:
        """Take on a bank's samples [K, *event] and a calibration, as far as there are any.

        Args:
            choose: also find the local posterior that fits them, where both are there: takes up to some seconds.
        """
        choice = None
        if choose and samples is not None and calibration is not None and not self.card.conditions:
            choice = Chosen.of(Cloud(samples), self.path, calibration)
        self.known = Knowledge(self.card, self.digest, samples, calibration, choice)


Model = PlainModel | Sampler


def scan(root: Path) -> list[Folder]:
    """Every folder of `root` that has a version folder (a number), or looks as if it should, by name."""
    found = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        versions = [path.name for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
        if versions or (folder / CARD).exists() or (folder / GRAPH).exists():
            found.append(Folder(folder.name, max(versions or ["1"], key=int), folder))
    return found


def guess(backend: Backend, graph: str) -> Costs:
    """For those who only run a backend themselves: nothing is measured."""
    return Costs.guessed(backend.sizes(64))


def load(folder: Folder, opener: Open, measure: Measure = guess) -> Model:
    """Open a model's graph, measure what its calls cost, and check its card against it.

    Raises:
        LoadError: one line that names the file, what was expected and what came.
    """
    backend = opener(folder.graph)
    graph_sha256 = _sha256(folder.graph) if folder.graph.is_file() else None  # none here: it runs on another server
    network = Network(folder.name, backend, measure(backend, f"{graph_sha256} {backend.kind}"))
    digest = hashlib.sha256(f"{graph_sha256} {backend.kind}".encode())
    for file in sorted(folder.graph.parent.glob("*")):  # weights may lie in files beside the graph
        if file.is_file() and file not in (folder.graph, folder.bank):
            digest.update(_sha256(file).encode())
    if not folder.card.exists():
        return PlainModel(folder.name, folder.version, network, digest.hexdigest()[:16])
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
        return PlainModel(folder.name, folder.version, network, digest.hexdigest()[:16], card.arguments)
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
    programs = _load_programs(folder.programs, graph_sha256) if folder.programs.exists() else {}
    sampler = Sampler(folder.name, folder.version, card, path, network, digest.hexdigest(), programs)
    curve = card.calibration
    calibration = None
    if curve is not None and len(curve.t) > 1:
        calibration = steering.Calibration(tuple(curve.t), tuple(curve.mse))
    samples = _load_bank(folder.bank, card.event_shape, graph_sha256) if folder.bank.exists() else None
    sampler.learn(samples, calibration)
    return sampler


def check_graph(file: Path, card: Card, backend: Backend) -> None:
    """The card's names, types and shapes against the graph's; LoadError with both."""
    inputs = {each.name: each for each in backend.inputs}
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        card.inputs.x: ("float32", card.event_shape),
        card.inputs.t: ("float32", ()),
        **{name: (condition.dtype, condition.shape) for name, condition in card.conditions.items()},
    }
    for name, (dtype, row) in wanted.items():
        if name not in inputs:
            raise LoadError(f"{file}: the card names input {name!r}, the graph has {', '.join(inputs)}")
        here = inputs[name]
        squeezed = here.row if name != card.inputs.t or here.row != (1,) else ()
        whole = card.inputs.time in ("1000*t", "N*t-1")  # the time inputs that integers can hold
        loose = name == card.inputs.t and here.dtype.kind in ("fi" if whole else "f")
        if not _fits(row, squeezed) or not (here.dtype == dtype or loose):
            raise LoadError(f"{file}: input {name!r}: the card says {dtype} {_show(row)}, the graph {_describe(here)}")
    if extra := [name for name in inputs if name not in wanted]:
        raise LoadError(f"{file}: the graph has input {extra[0]!r}, the card names {', '.join(wanted)}")
    outputs = {each.name: each for each in backend.outputs}
    if card.output not in outputs:
        raise LoadError(f"{file}: the card names output {card.output!r}, the graph has {', '.join(outputs)}")
    out = outputs[card.output]
    if not _fits(card.event_shape, out.row) or out.dtype.kind != "f":
        raise LoadError(
            f"{file}: output {card.output!r}: "
            f"the card says float32 {_show(card.event_shape)}, the graph {_describe(out)}"
        )


def _load_bank(file: Path, event: tuple[int, ...], graph_sha256: str | None) -> torch.Tensor:
    try:
        with np.load(file, allow_pickle=False) as archive:
            samples = torch.from_numpy(archive["x"].astype(np.float32))
            owner = str(archive["model_sha256"]) if "model_sha256" in archive else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise LoadError(f"{file}: expected a bank (x, model_sha256), got: {' '.join(str(error).split())}") from None
    if samples.shape[1:] != event or len(samples) < 2:
        raise LoadError(f"{file}: x: expected [K, {_show(event)[1:]} with K >= 2, got {_show(tuple(samples.shape))}")
    if not bool(samples.isfinite().all()):
        raise LoadError(f"{file}: x: expected finite samples, got NaN or infinity")
    if None not in (owner, graph_sha256) and owner != graph_sha256:
        here, there = str(graph_sha256)[:12], str(owner)[:12]
        raise LoadError(f"{file}: drawn from a graph with sha256 {there}, the graph beside it has {here}")
    return samples


def _load_programs(file: Path, graph_sha256: str | None) -> dict[int, steering.Program]:
    try:
        content = load_programs(file)
        programs = {
            each.rows: steering.Program(each.fractions, tuple(Choice(**dict(step)) for step in each.steps))
            for each in content.programs
        }
    except ProgramsError as error:
        raise LoadError(str(error)) from None
    if graph_sha256 is not None and content.model_sha256 != graph_sha256:
        raise LoadError(
            f"{file}: searched for a graph with sha256 {content.model_sha256[:12]}, the graph beside it has "
            f"{graph_sha256[:12]}: delete it, or search again with tiltserve search-plan"
        )
    return programs


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fits(expected: tuple[int, ...], row: tuple[int | None, ...]) -> bool:
    return len(expected) == len(row) and all(b in (None, a) for a, b in zip(expected, row, strict=True))


def _show(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if axis is None else str(axis) for axis in shape) + "]"


def _describe(tensor: GraphTensor) -> str:
    return f"{tensor.dtype} {_show(tensor.row)}"
