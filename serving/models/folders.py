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
from protos.card import CardError, load_card
from protos.digest import graph_sha256, sha256
from protos.weights import WeightsError
from serving.backends import LoadError
from serving.models.model import RAW

GRAPH, TORCH, CARD, BANK, PROGRAMS, CONFIG = (
    "model.onnx", "model.pt2", "card.yaml", "bank.npz", "searched.json", "config.pbtxt",
)  # fmt: skip
_CARD_LIKE = re.compile(r"card\.(ya?ml|json)", re.IGNORECASE)
_VERSION_LIKE = re.compile(r"v?\d.*", re.IGNORECASE)


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
    """Every folder of `root` that has a version folder (a number), or looks as if it should, by name."""
    return survey(root)[0]


def survey(root: Path) -> tuple[list[Folder], list[Passed]]:
    """The models of a repository, and what of it is passed over; hidden entries are not mentioned.

    Raises:
        OSError: the repository itself cannot be read.
    """
    folders, passed = dict[str, Folder](), list[Passed]()
    for path in sorted(path for path in root.iterdir() if not path.name.startswith(".")):
        try:
            name = os.fsencode(path.name).decode()
            if any(unicodedata.category(each) == "Cc" for each in name):
                passed.append(Passed(path, "expected a name without control characters"))
                continue
            folder, found = _examine(name, path)
        except UnicodeDecodeError:
            passed.append(Passed(path, "expected a name in UTF-8"))
        except OSError as error:
            passed.append(Passed(path, f"expected a readable folder, got: {error.strerror}"))
        else:
            passed += found
            if folder is not None:
                folders[name] = folder
    for name in [each for each in folders if each.endswith(RAW)]:
        owner = folders.get(name.removesuffix(RAW))
        if owner is not None and _is_sampler(owner):
            passed.append(
                Passed(folders.pop(name).root, f"expected another name, {name!r} is {owner.name}'s raw network")
            )
    return [folders[name] for name in sorted(folders)], passed


def _is_sampler(folder: Folder) -> bool:
    try:
        return folder.has_card and load_card(folder.card).is_sampler
    except CardError:
        return False


def _examine(name: str, path: Path) -> tuple[Folder | None, list[Passed]]:
    """One entry of a repository; OSError where it cannot be read."""
    if fault := _no_folder(path, "a folder NAME/VERSION/model.onnx"):
        return None, [fault]
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
        return None, passed
    version, file, faults = _configured(path, versions or ["1"])
    passed += faults
    if version is None:
        return None, passed
    with contextlib.suppress(OSError):  # loading says why, and of the graph itself too
        inside = (each for each in sorted((path / version).iterdir()) if each.name not in (file, TORCH))
        passed += [_dangling(each) for each in inside if _dangles(each)]
    return Folder(name, version, path, file), passed


def _no_folder(path: Path, wanted: str) -> Passed | None:
    """Why an entry is no folder that can be looked into."""
    if _dangles(path):
        return _dangling(path)
    return None if path.is_dir() else Passed(path, f"expected {wanted}, got a file")


def _dangles(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _dangling(path: Path) -> Passed:
    return Passed(path, f"expected a file or folder, got a link to {path.readlink()}, which leads nowhere")


def _configured(path: Path, versions: list[str]) -> tuple[str | None, str, list[Passed]]:
    """The version to serve and the name of its graph, as Triton's config.pbtxt has it: by default the newest, and
    model.onnx."""
    newest, config, faults = max(versions, key=int), path / CONFIG, list[Passed]()
    if not config.is_file():
        return newest, GRAPH, faults
    try:
        content = text_format.Parse(
            config.read_text(encoding="utf-8"), model_config_pb2.ModelConfig(), allow_unknown_field=True
        )
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        why = f"expected Triton's configuration: this file is not read: {' '.join(str(error).split())}"
        return newest, GRAPH, [Passed(config, why)]
    version: str | None = newest
    policy = content.version_policy
    if policy.HasField("specific"):
        wanted = {*policy.specific.versions}
        version = max((each for each in versions if int(each) in wanted), key=int, default=None)
        if version is None:
            said = ", ".join(map(str, sorted(wanted))) or "none"
            faults.append(
                Passed(config, f"version_policy: expected a folder of version {said}, got {', '.join(versions)}")
            )
        more = len(wanted) > 1
    else:
        more = policy.HasField("all") or policy.latest.num_versions > 1
    if more and version is not None and len(versions) > 1:
        faults.append(Passed(config, f"version_policy: expected one version, of several only {version} is served"))
    file = content.default_model_filename or GRAPH
    if file != GRAPH and version is not None and ("/" in file or not (path / version / file).is_file()):
        faults.append(
            Passed(config, f"default_model_filename: expected a file in {version}, got {file!r}: it is not read")
        )
        file = GRAPH
    return version, file, faults
