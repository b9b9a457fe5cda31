"""What ties a bank or searched programs to the graph that they were made from: its digest, weights included."""

import hashlib
from pathlib import Path

from protos import weights


def sha256(file: Path) -> str:
    """The sha256 of a file's content, hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def graph_sha256(graph: Path) -> str:
    """The sha256 of a graph with all of its weights, hexadecimal.

    Of a graph in one file it is the sha256 of the file. Of others it is that of the sha256s (in bytes) of the graph's
    file and of the files with its weights, in the order of their names, which the graph's file holds.

    Raises:
        OSError, WeightsError: a file cannot be read, or cannot be found.
    """
    whole, *others = (sha256(file) for file in weights.files(graph))
    if not others:
        return whole
    return hashlib.sha256(bytes.fromhex("".join((whole, *others)))).hexdigest()
