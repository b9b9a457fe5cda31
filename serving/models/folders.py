"""A model repository's folders: those that hold a model, and what else lies there, with why it is not served."""

import contextlib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from protos import weights
from protos.card import Card, CardError, load_card
from protos.digest import graph_sha256, sha256
from protos.weights import WeightsError
from serving.backends import LoadError
from serving.fleet.directory import Kind
from serving.models import policy
from serving.models.model import RAW

GRAPH, TORCH, CARD, BANK, PROGRAMS, CONFIG, VJP = (
    "model.onnx", "model.pt2", "card.yaml", "bank.npz", "searched.json", "config.pbtxt", "vjp.onnx",
)  # fmt: skip
_CARD_LIKE = re.compile(r"card\.(ya?ml|json)", re.IGNORECASE)
Stamp = tuple[tuple[str, int, int, int], ...]
_VERSION_LIKE = re.compile(r"v?\d.*", re.IGNORECASE)


def kind_of(card: Card) -> Kind:
    """What a model is called in listings."""
    if card.is_dynamics:
        return "dynamics"
    return "pipeline" if card.is_pipeline else "sampler" if card.is_sampler else "network"


def lends(kind: Kind) -> bool:
    """Whether models of this kind lend their network to a plain model NAME.network."""
    return kind in ("sampler", "dynamics")


@dataclass(frozen=True)
class Folder:
    """One version of one model: `<root>/<version>/model.onnx`, or `model.pt2` where there is no such.

    Attributes:
        file: the graph's name where config.pbtxt gives it another.
    """

    name: str
    version: str
    root: Path
    file: str = GRAPH

    @property
    def graph(self) -> Path:
        found, other = (self.root / self.version / name for name in (self.file, TORCH))
        return other if other.is_file() and not found.is_file() else found

    @property
    def bank(self) -> Path:
        return self.root / self.version / BANK

    @property
    def vjp(self) -> Path:
        return self.root / self.version / VJP

    def beside(self, name: str) -> Path:
        """A file beside the graph."""
        return self.root / self.version / name

    @property
    def programs(self) -> Path:
        return self.root / self.version / PROGRAMS

    @property
    def card(self) -> Path:
        return self.root / CARD

    @property
    def has_card(self) -> bool:
        """A link that leads nowhere is meant to be one, and is found out when it is read."""
        return os.path.lexists(self.card)

    @property
    def lends(self) -> bool:
        """Whether it has a raw network, NAME.network; not if its card cannot be read."""
        return lends(self.kind)

    @property
    def kind(self) -> Kind:
        """What it is; a network if the card cannot be read."""
        try:
            card = load_card(self.card) if self.has_card else None
        except CardError:
            card = None
        if card is None:
            return "network"
        return kind_of(card)

    @property
    def digest(self) -> str | None:
        """The sha256 of the graph and its weights; None where there is no graph, because it runs on another server.

        Raises:
            LoadError: a file cannot be read.
        """
        if not self.graph.is_file():
            return None
        try:
            return graph_sha256(self.graph)
        except WeightsError:  # its weights are not here: only a network on another server (--network) gets this far
            return sha256(self.graph)
        except OSError as error:
            raise LoadError(f"{error.filename}: expected a readable file, got: {error.strerror}") from None

    @property
    def stamp(self) -> Stamp:
        """Sizes and times of the files that make this version: another one where some were written since.

        Raises:
            OSError: they cannot be looked at, or went away meanwhile.
        """
        files = sorted(file for file in [self.card, *self.graph.parent.rglob("*")] if file.is_file())
        looks = [(file, file.stat()) for file in files]
        return tuple((str(file), look.st_size, look.st_mtime_ns, look.st_ino) for file, look in looks)

    @property
    def bank_digest(self) -> str:
        """The sha256 of the bank, empty where there is none."""
        return sha256(self.bank) if self.bank.is_file() else ""

    @property
    def files(self) -> tuple[Path, ...]:
        """The graph and its weights; without those that cannot be found."""
        try:
            return weights.files(self.graph)
        except (OSError, WeightsError):
            return (self.graph,) if self.graph.is_file() else ()

    @property
    def others(self) -> tuple[Path, ...]:
        """What else lies in the version's folder, but for the bank: whatever it is for, it counts."""
        known = {*self.files, self.bank}
        return tuple(file for file in sorted(self.graph.parent.glob("*")) if file.is_file() and file not in known)


@dataclass(frozen=True)
class Passed:
    """Something in a repository that is not served, or not read: `why` says what was expected and what came.

    Attributes:
        empty: it is an empty folder, which nobody will miss.
    """

    path: Path
    why: str
    empty: bool = False

    def __str__(self) -> str:
        return f"{readable(str(self.path))}: {readable(self.why)}"


def readable(text: str) -> str:
    """A text with file names in it, as one line of UTF-8: other bytes and control characters are written out."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(each if unicodedata.category(each) != "Cc" else repr(each)[1:-1] for each in text)


def scan(root: Path) -> list[Folder]:
    """Every version that is served of each folder of `root` that has a version folder (a number), or looks as if it
    should: by name, the oldest first."""
    return survey(root)[0]


def survey(root: Path) -> tuple[list[Folder], list[Passed]]:
    """The models of a repository, and what of it is passed over; hidden entries are not mentioned.

    Raises:
        OSError: the repository itself cannot be read.
    """
    folders, passed = dict[str, list[Folder]](), list[Passed]()
    for path in sorted(path for path in root.iterdir() if not path.name.startswith(".")):
        try:
            name = os.fsencode(path.name).decode()
            if any(unicodedata.category(each) == "Cc" for each in name):
                passed.append(Passed(path, "expected a name without control characters"))
                continue
            versions, found = _examine(name, path)
        except UnicodeDecodeError:
            passed.append(Passed(path, "expected a name in UTF-8"))
        except OSError as error:
            passed.append(Passed(path, f"expected a readable folder, got: {error.strerror}"))
        else:
            passed += found
            if versions:
                folders[name] = versions
    for name in [each for each in folders if each.endswith(RAW)]:
        owner = folders.get(name.removesuffix(RAW))
        if owner is not None and owner[0].lends:
            hidden = folders.pop(name)[0]
            passed.append(Passed(hidden.root, f"expected another name, {name!r} is {owner[0].name}'s raw network"))
    return [folder for name in sorted(folders) for folder in folders[name]], passed


def _examine(name: str, path: Path) -> tuple[list[Folder], list[Passed]]:
    """The versions of one entry of a repository; OSError where it cannot be read."""
    if fault := _no_folder(path, "a folder NAME/VERSION/model.onnx"):
        return [], [fault]
    passed, versions = list[Passed](), list[str]()
    entries = sorted(path.iterdir())
    for each in entries:
        if each.name.startswith("."):
            continue
        if each.name.isdecimal():
            if fault := _no_folder(each, "a folder of a version"):
                passed.append(fault)
            else:
                versions.append(each.name)
        elif _dangles(each):
            if each.name != CARD:  # loading says so
                passed.append(_dangling(each))
        elif each.is_dir():
            if _VERSION_LIKE.fullmatch(each.name) or any((each / file).exists() for file in (GRAPH, TORCH)):
                passed.append(Passed(each, "expected a number as the name of a version's folder"))
        elif _CARD_LIKE.fullmatch(each.name) and each.name != CARD:
            passed.append(Passed(each, f"expected the name {CARD}: this file is not read"))
    if not versions and not os.path.lexists(path / CARD) and not (path / GRAPH).exists():
        if not passed:
            passed.append(Passed(path, "expected a version's folder such as 1, got none", empty=not entries))
        return [], passed
    folders, faults = _configured(name, path, versions or ["1"])
    passed += faults
    for folder in folders:
        with contextlib.suppress(OSError):  # loading says why, and of the graph itself too
            inside = sorted((path / folder.version).iterdir())
            passed += [_dangling(each) for each in inside if _dangles(each) and each.name not in (folder.file, TORCH)]
    return folders, passed


def _no_folder(path: Path, wanted: str) -> Passed | None:
    """Why an entry is no folder that can be looked into."""
    if _dangles(path):
        return _dangling(path)
    return None if path.is_dir() else Passed(path, f"expected {wanted}, got a file")


def _dangles(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _dangling(path: Path) -> Passed:
    return Passed(path, f"expected a file or folder, got a link to {path.readlink()}, which leads nowhere")


def _configured(name: str, path: Path, versions: list[str]) -> tuple[list[Folder], list[Passed]]:
    """The versions to serve and the names of their graphs, as Triton's config.pbtxt has it: by default the newest, and
    model.onnx."""
    config, content = path / CONFIG, model_config_pb2.ModelConfig()
    if config.is_file():
        try:
            text_format.Parse(config.read_text(encoding="utf-8"), content, allow_unknown_field=True)
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            why = f"expected Triton's configuration: this file is not read: {' '.join(str(error).split())}"
            newest, _ = policy.served(policy.Policy(), versions)
            return [Folder(name, version, path) for version in newest], [Passed(config, why)]
    served, fault = policy.served(content.version_policy, versions)
    faults = [Passed(config, fault)] if fault else []
    file = content.default_model_filename or GRAPH
    if file == GRAPH:
        return [Folder(name, version, path) for version in served], faults
    there = {version for version in served if "/" not in file and (path / version / file).is_file()}
    if lacking := [version for version in served if version not in there]:
        where = ", ".join(lacking)
        why = f"default_model_filename: expected a file in {where}, got {file!r}: it is not read"
        faults.append(Passed(config, why))
    return [Folder(name, version, path, file if version in there else GRAPH) for version in served], faults
