"""A model repository on disk: Triton's layout plus a card. Finds the models, and loads one into memory."""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import steering
from protos.card import Card, CardError, dump_text, load_card
from serving.backends import Backend, GraphTensor, LoadError
from serving.engine import Network
from steering.posteriors import Bank, Local

GRAPH, CARD, BANK = "model.onnx", "card.yaml", "bank.npz"
RAW = ".network"  # digits.network is the raw network of the sampler digits

Open = Callable[[Path], Backend]


@dataclass(frozen=True)
class Folder:
    """The newest version of one model: `<root>/<name>/<version>/model.onnx`."""

    name: str
    version: str
    root: Path

    @property
    def graph(self) -> Path:
        return self.root / self.version / GRAPH

    @property
    def bank(self) -> Path:
        return self.root / self.version / BANK

    @property
    def card(self) -> Path:
        return self.root / CARD


@dataclass(frozen=True, eq=False)
class PlainModel:
    """A network without a path: a classifier, a critic, or a sampler's raw network."""

    name: str
    version: str
    network: Network
    fingerprint: str


@dataclass(eq=False)
class Sampler:
    """A network with a card: what is needed to draw from it and to steer it.

    `bank` and `local` are replaced, together with the fingerprint, when they have been made at load.
    """

    name: str
    version: str
    card: Card
    path: steering.Path
    network: Network
    digest: str
    bank: Bank | None = None
    calibration: steering.Calibration | None = None
    scored: dict[Any, torch.Tensor] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Replicas with equal fingerprints give equal bytes."""
        whole = hashlib.sha256(self.digest.encode())
        if self.bank is not None:
            whole.update(self.bank.samples.numpy().tobytes())
        whole.update(repr(self.calibration).encode())
        return whole.hexdigest()[:16]

    def local(self, kind: str | None) -> Local:
        """The local posterior of the given kind, or of the card's, or of the event's shape."""
        calibration = self.calibration or steering.Uncalibrated(1.0 if self.bank is None else self.bank.variance)
        kind = kind or self.card.posterior or ("neighbours" if len(self.card.event_shape) > 1 else "gaussian")
        if kind == "neighbours" and self.bank is not None:
            return steering.posteriors.Neighbours(self.bank.samples, calibration)
        return steering.posteriors.Gaussian(calibration)


Model = PlainModel | Sampler


def scan(root: Path) -> list[Folder]:
    """Every folder of `root` that has a version folder (a number), by name."""
    found = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        versions = [path.name for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
        if versions:
            found.append(Folder(folder.name, max(versions, key=int), folder))
    return found


def load(folder: Folder, opener: Open) -> Model:
    """Open a model's graph and check its card against it.

    Raises:
        LoadError: one line that names the file, what was expected and what came.
    """
    if not folder.graph.is_file():
        raise LoadError(f"{folder.graph}: expected an ONNX graph, got no such file")
    backend = opener(folder.graph)
    network = Network(folder.name, backend)
    graph_sha256 = _sha256(folder.graph)
    digest = hashlib.sha256(f"{graph_sha256} {backend.kind}".encode())
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
        return PlainModel(folder.name, folder.version, network, digest.hexdigest()[:16])
    assert card.path is not None
    assert card.prediction is not None
    try:
        path = steering.paths.build(card.path, card.t_range)
        steering.plan("ddim", path=path, steps=1, prediction=card.prediction, preconditioning=card.preconditioning)
    except (ValueError, TypeError) as error:
        raise LoadError(f"{folder.card}: {error}") from None
    check_graph(folder.card, card, backend)
    sampler = Sampler(folder.name, folder.version, card, path, network, digest.hexdigest())
    if card.calibration is not None and len(card.calibration.t) > 1:
        sampler.calibration = steering.Calibration(tuple(card.calibration.t), tuple(card.calibration.mse))
    if folder.bank.exists():
        sampler.bank = _load_bank(folder.bank, sampler, graph_sha256)
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
        loose = name == card.inputs.t and here.dtype.kind in "fi"
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


def _load_bank(file: Path, sampler: Sampler, graph_sha256: str) -> Bank:
    try:
        with np.load(file, allow_pickle=False) as archive:
            samples = torch.from_numpy(archive["x"].astype(np.float32))
            owner = str(archive["model_sha256"]) if "model_sha256" in archive else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise LoadError(f"{file}: expected a bank (x, model_sha256), got: {' '.join(str(error).split())}") from None
    event = sampler.card.event_shape
    if samples.shape[1:] != event or len(samples) < 2 or not bool(samples.isfinite().all()):
        raise LoadError(f"{file}: x: expected finite [K, {_show(event)[1:]}, got {_show(tuple(samples.shape))}")
    if owner not in (None, graph_sha256):
        raise LoadError(
            f"{file}: drawn from a graph with sha256 {str(owner)[:12]}, the graph beside it has {graph_sha256[:12]}"
        )
    return Bank(samples, sampler.local(None), sampler.scored)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fits(expected: tuple[int, ...], row: tuple[int | None, ...]) -> bool:
    return len(expected) == len(row) and all(b in (None, a) for a, b in zip(expected, row, strict=True))


def _show(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if axis is None else str(axis) for axis in shape) + "]"


def _describe(tensor: GraphTensor) -> str:
    return f"{tensor.dtype} {_show(tensor.row)}"
