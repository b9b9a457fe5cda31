"""The files of a graph: its own, and those beside it in which an ONNX graph may keep weights."""

import functools
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError, Message

from protos.complaint import shorten


class WeightsError(ValueError):
    """A graph whose weights cannot be found; the text is one line: file, what was expected, what came."""


@dataclass(frozen=True)
class Stored:
    """A tensor that lies in another file than the graph.

    Attributes:
        location: the file, relative to the graph's folder.
        length: its bytes, None where the graph does not say.
        dtype: ONNX's number of its type.
        initializer: whether it is a weight of the graph itself, rather than of a branch, or a node's constant.
    """

    name: str
    location: str
    offset: int
    length: int | None
    dtype: int
    shape: tuple[int, ...]
    initializer: bool


def files(graph: Path) -> tuple[Path, ...]:
    """The graph's file and every file that holds weights of it, each once: the graph's first, then by name.

    Raises:
        OSError: the graph's file cannot be read.
        WeightsError: it is no ONNX graph, or names weights that are missing or outside of its folder.
    """
    return (graph, *(place(graph, each) for each in sorted({each.location for each in stored(graph)})))


def stored(graph: Path) -> tuple[Stored, ...]:
    """The tensors that lie in other files; none but ONNX graphs have any.

    Raises:
        OSError, WeightsError: the graph's file cannot be read.
    """
    if graph.suffix != ".onnx":
        return ()
    state = graph.stat()
    return _read(graph, state.st_mtime_ns, state.st_size, state.st_ino)


def place(graph: Path, location: str) -> Path:
    """The file of that name beside a graph, or in a folder beside it.

    Raises:
        WeightsError: there is none, or the name leads out of the graph's folder.
    """
    where, path = f"{graph}: weights {shorten(location)}", PurePosixPath(posixpath.normpath(location))
    if not path.name or path.is_absolute() or path.parts[0] == ".." or "\0" in location:
        raise WeightsError(f"{where}: expected a path inside the graph's folder, got one that is not")
    file = graph.parent / path
    try:
        found, other = file.is_file(), file.exists()
    except OSError as error:  # such as a name that is too long
        raise WeightsError(f"{where}: expected a file in the graph's folder, got: {error.strerror}") from None
    if not found:
        came = "something that is no file" if other else "no such file"
        raise WeightsError(f"{where}: expected a file in the graph's folder, got {came}")
    return file


@functools.lru_cache(64)
def _read(graph: Path, *_state: int) -> tuple[Stored, ...]:
    try:
        model = onnx.load(graph, load_external_data=False)
    except DecodeError as error:
        raise WeightsError(f"{graph}: expected a complete ONNX graph, got: {' '.join(str(error).split())}") from None
    initializers = list(model.graph.initializer)  # kept: their identities count
    weights = {id(tensor) for tensor in initializers}
    found = []
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            said = {entry.key: entry.value for entry in tensor.external_data}
            try:
                offset, length = int(said.get("offset", 0)), int(said["length"]) if "length" in said else None
            except ValueError:
                raise WeightsError(
                    f"{graph}: weights of {shorten(tensor.name)}: expected numbers as offset and length, "
                    f"got {shorten(said)}"
                ) from None
            found.append(
                Stored(
                    tensor.name, said.get("location", ""), offset, length, tensor.data_type, tuple(tensor.dims),
                    id(tensor) in weights,
                )
            )  # fmt: skip
    return tuple(found)


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor, wherever it hangs: weights, constants, sparse ones, in branches and in functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            continue
        value = getattr(message, field.name)
        if isinstance(value, Message):
            if message.HasField(field.name):
                yield from _tensors(value)
        else:
            for each in value:
                yield from _tensors(each)
