"""What ties a bank or searched programs to the graph that they were made from: the digest of the graph's file."""

import hashlib
from pathlib import Path


def sha256(file: Path) -> str:
    """The sha256 of a file's content, hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
