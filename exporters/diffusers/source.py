"""What a diffusers folder holds: a pipeline's parts by role, or one model; the classes' names, and their files."""

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protos.complaint import shorten

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
_WEIGHTS = ("diffusion_pytorch_model", "model")
"""How files of weights begin, of diffusers and of transformers."""
_HALVES = {"F16": "float16", "BF16": "bfloat16"}


class FolderError(ValueError):
    """What cannot be imported; the text is one line: what was expected, what came."""


@dataclass(frozen=True)
class Part:
    """One part of a pipeline.

    Attributes:
        role: its name in `model_index.json`, such as `unet` or `text_encoder_2`.
        kind: the name of its class.
        folder: where its configuration and weights lie.
        config: the content of its `config.json`; empty for tokenizers.
    """

    role: str
    kind: str
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def said(self, name: str, default: Any = None) -> Any:
        """A value of the configuration; the default also where it is null."""
        value = self.config.get(name)
        return default if value is None else value

    def load(self, allow_pickle: bool = False) -> Any:
        """The module in float32, in evaluation mode; from local files alone, without code of the folder.

        Raises:
            FolderError: one line that names the folder, what was expected and what came.
        """
        import torch

        library, found = _class(self)
        variant = self._variant()
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": None if allow_pickle else True}
        if variant:
            options["variant"] = variant
        if library == "transformers":  # its other kernels of attention have no graph that any runtime shares
            options |= {"dtype": torch.float32, "attn_implementation": "eager"}
        else:
            options |= {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
        self.require(allow_pickle)
        try:
            return found.from_pretrained(str(self.folder), **options).eval()
        except Exception as error:  # of two libraries, on files of strangers
            raise FolderError(
                f"{self.folder}: {self.kind} cannot be read: {' '.join(str(error).split())[:300]}"
            ) from error

    def require(self, allow_pickle: bool = False) -> None:
        """Raises FolderError where it has no weights that may be read; reads none."""
        pickled = self._pickles()
        if self._weights() or (allow_pickle and pickled):
            return
        came = "weights in pickle files (--allow-pickle reads them)" if pickled else "none"
        raise FolderError(f"{self.folder}: expected weights in .safetensors, got {came}")

    @property
    def halved(self) -> str:
        """The type of its weights where it is shorter than float32, in words; empty elsewhere."""
        kinds = {kind for kind, _ in self._tensors()}
        return next((_HALVES[kind] for kind in sorted(kinds) if kind in _HALVES), "")

    @property
    def parameters(self) -> int:
        """Numbers in its weights; 0 where they are in pickle files."""
        return sum(math.prod(shape) for _, shape in self._tensors())

    def _tensors(self) -> list[tuple[str, list[int]]]:
        """Type and shape of every tensor, as the files' heads have them.

        Raises:
            FolderError: a file that is not whole.
        """
        from safetensors import SafetensorError, safe_open

        found = []
        for file in self._weights():
            try:
                with safe_open(str(file), "pt") as content:
                    slices = [content.get_slice(name) for name in content.keys()]  # noqa: SIM118 - no mapping
                    found += [(each.get_dtype(), each.get_shape()) for each in slices]
            except (SafetensorError, OSError) as error:
                raise FolderError(f"{file}: expected whole weights, got: {' '.join(str(error).split())}") from None
        return found

    def _weights(self) -> list[Path]:
        return [each for each in sorted(self.folder.glob("*.safetensors")) if each.name.startswith(_WEIGHTS)]

    def _pickles(self) -> bool:
        return any(self.folder.glob("*.bin"))

    def _variant(self) -> str | None:
        """The middle of names such as `model.fp16.safetensors` where there are no others."""
        names = [each.name for each in self._weights()]
        plain = [name for name in names if name.count(".") == 1]
        if plain or not names:
            return None
        return names[0].split(".")[1].partition("-")[0]


@dataclass(frozen=True)
class Source:
    """A folder as it was read.

    Attributes:
        pipeline: the class of the pipeline, None for a folder of one model.
        parts: by role, in the order of the file; without those that are not there.
        scheduler: its configuration with its `_class_name`; None where there is none.
        options: what else `model_index.json` says, by name.
    """

    folder: Path
    pipeline: str | None
    parts: Mapping[str, Part]
    scheduler: Mapping[str, Any] | None
    options: Mapping[str, Any] = field(default_factory=dict)


def read(folder: Path, scheduler: Path | None = None) -> Source:
    """What a folder holds.

    Args:
        scheduler: a folder or file with another scheduler's configuration.

    Raises:
        FolderError: no folder of diffusers, or one that lacks something; one line.
    """
    if not folder.is_dir():
        came = "a file" if folder.exists() else "nothing there (it is not downloaded)"
        raise FolderError(f"{folder}: expected a folder of diffusers, got {came}")
    given = None if scheduler is None else _scheduler(scheduler)
    if (folder / INDEX).is_file():
        index = _json(folder / INDEX)
        parts = dict(_parts(folder, index))
        found = parts.pop("scheduler", None)
        config = given or (None if found is None else _scheduler(found.folder))
        options = {name: value for name, value in index.items() if not isinstance(value, list)}
        return Source(folder, _name(index, folder / INDEX), parts, config, options)
    if not (folder / CONFIG).is_file():
        raise FolderError(f"{folder}: expected {INDEX} of a pipeline or {CONFIG} of a model in it, got neither")
    config = _json(folder / CONFIG)
    part = Part("model", _model_class(config, folder / CONFIG), folder, config)
    beside = [place for place in (folder, folder.parent / "scheduler") if (place / SCHEDULER).is_file()]
    return Source(folder, None, {"model": part}, given or (_scheduler(beside[0]) if beside else None))


@contextlib.contextmanager
def unpacked(file: Path, config: Path | None) -> Iterator[Path]:
    """One file with all weights of a pipeline or a model, as a folder for as long as it is needed.

    Args:
        config: a folder of diffusers with the configurations of its kind. diffusers would look for them online.

    Raises:
        FolderError: no such file, or not one of that kind; one line.
    """
    if file.suffix != ".safetensors":
        raise FolderError(f"{file}: expected a folder of diffusers or a .safetensors file, got another file")
    if config is None:
        raise FolderError(
            f"{file}: expected --config FOLDER beside a single file, a diffusers folder with the configurations of its "
            f"kind (nothing is downloaded), got none"
        )
    source = read(config)
    kind = source.pipeline or next(iter(source.parts.values())).kind
    import diffusers

    found: Any = getattr(diffusers, kind, None)
    if not hasattr(found, "from_single_file"):
        raise FolderError(f"{config}: expected a class that reads single files, got {shorten(kind)}")
    with tempfile.TemporaryDirectory(prefix="tiltserve-import-") as temporary:
        try:
            whole = found.from_single_file(str(file), config=str(config), local_files_only=True)
            whole.save_pretrained(temporary)
        except Exception as error:  # of files of strangers
            text = " ".join(str(error).split())[:300]
            raise FolderError(f"{file}: {kind} cannot be read from it: {text}") from error
        yield Path(temporary)


def read_model(folder: Path, role: str) -> Part:
    """One model's folder as a part."""
    if not (folder / CONFIG).is_file():
        raise FolderError(f"{folder}: expected {CONFIG} of a model in it, got none")
    config = _json(folder / CONFIG)
    return Part(role, _model_class(config, folder / CONFIG), folder, config)


def _parts(folder: Path, index: Mapping[str, Any]) -> Iterator[tuple[str, Part]]:
    for role, entry in index.items():
        if role.startswith("_") or not isinstance(entry, list) or len(entry) != 2 or entry[1] is None:
            continue  # options of the pipeline, and parts that it does without
        kind = str(entry[1])
        place = folder / role
        if not place.is_dir():
            raise FolderError(f"{folder}: {role}: expected a folder of that name with a {kind}, got none")
        file = place / CONFIG
        yield role, Part(role, kind, place, _json(file) if file.is_file() else {})


def _class(part: Part) -> tuple[str, Any]:
    """The library and the class; only of the two libraries, whatever a folder says."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        found = getattr(library, part.kind, None)
        if isinstance(found, type):
            return library.__name__, found
    raise FolderError(f"{part.folder}: expected a class of diffusers or transformers, got {shorten(part.kind)}")


def _scheduler(place: Path) -> Mapping[str, Any]:
    file = place / SCHEDULER if place.is_dir() else place
    if not file.is_file():
        raise FolderError(f"{file}: expected a scheduler's configuration, got no such file")
    config = _json(file)
    _name(config, file)
    return config


def _name(content: Mapping[str, Any], file: Path) -> str:
    name = content.get("_class_name")
    if not isinstance(name, str):
        raise FolderError(f"{file}: expected _class_name with the name of a class, got {shorten(name)}")
    return name


def _model_class(content: Mapping[str, Any], file: Path) -> str:
    """diffusers' `_class_name`, or the first of transformers' `architectures`."""
    architectures = content.get("architectures")
    if "_class_name" not in content and isinstance(architectures, list) and architectures:
        return str(architectures[0])
    return _name(content, file)


def _json(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(f"{file}: expected JSON, got: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise FolderError(f"{file}: expected names and values, got {shorten(content)}")
    return content
