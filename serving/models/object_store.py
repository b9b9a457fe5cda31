"""Objects of a store: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, or files of a web server, `https://HOST/PATH`.

Credentials come from the environment, as those of the stores' own programs do (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
AWS_REGION, GOOGLE_APPLICATION_CREDENTIALS, a pod's or machine's identity, ...). A web server lists no files that
programs could read, so it is told what there is by a file `SHA256SUMS` in that folder, as sha256sum writes it.
"""

import datetime
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_OBJECTS = 100_000
SUMS = "SHA256SUMS"
SCHEMES = ("s3", "gs", "http", "https")
_MOST_SUMS = 2**24
_PIECE = 2**25
"""Bytes of a request for some of an object: each has its own half minute and its own tries."""
_SILENT_S = 30.0
"""Seconds for which a web server may send nothing, before or within a file: how long one takes, nobody knows."""
_PATIENCE: Any = {"max_retries": 3, "retry_timeout": datetime.timedelta(seconds=20)}
_SUM = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(\S.*)")


class StoreError(Exception):
    """A store that cannot be read, or has other content than expected; one line."""


@dataclass(frozen=True)
class Object:
    """One file of a store.

    Attributes:
        tag: another one where the content is another, as far as the store says.
        sha256: of its content, "" where the store does not say it. size: in bytes, None where it does not.
    """

    path: str
    tag: str
    size: int | None = None
    sha256: str = ""


class ObjectStore:
    """Reads a store. Calls block, for threads.

    Raises:
        StoreError: obstore is not installed, or the address cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._store, self._web = opened(self.url), url.startswith("http")

    def objects(self) -> list[Object]:
        """What there is.

        Raises:
            StoreError: it cannot be listed.
        """
        import obstore

        if self._web:
            return self._summed()
        found: list[Object] = []
        try:
            for some in obstore.list(self._store):
                found += [Object(each["path"], _tag(each), each["size"]) for each in some]
                if len(found) > MOST_OBJECTS:
                    raise StoreError(f"{self.url}: expected at most {MOST_OBJECTS} objects, got more")
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise StoreError(f"{self.url}: expected to list it, got: {said(error)}") from None
        return found

    def download(self, wanted: Object, to: Path) -> str:
        """Write an object's content to a file; its sha256.

        Raises:
            StoreError: it cannot be read, or is another one by now.
            OSError: the file cannot be written.
        """

        whole, size = hashlib.sha256(), 0
        where = f"{self.url}/{wanted.path}"
        with to.open("xb") as file:
            for piece in self._pieces(wanted, where):
                whole.update(piece)
                size += len(piece)
                file.write(piece)
        if wanted.size is not None and size != wanted.size:
            raise StoreError(f"{where}: expected {wanted.size} bytes, got {size}")
        if wanted.sha256 and whole.hexdigest() != wanted.sha256:
            raise StoreError(f"{where}: expected the content that {SUMS} names, got another")
        return whole.hexdigest()

    def _pieces(self, wanted: Object, where: str) -> Iterator[bytes]:
        import obstore

        options: Any = {"if_match": wanted.tag} if wanted.tag.startswith('"') else {}
        try:
            if wanted.size is None:  # of a web server, which may know no ranges
                yield from map(bytes, obstore.get(self._store, wanted.path).stream(min_chunk_size=_PIECE))
                return
            for first in range(0, wanted.size, _PIECE):
                options["range"] = first, min(first + _PIECE, wanted.size)
                came = obstore.get(self._store, wanted.path, options=options)
                yield bytes(came.bytes())
        except (obstore.exceptions.BaseError, FileNotFoundError, ValueError) as error:
            raise StoreError(f"{where}: expected to read it, got: {said(error)}") from None

    def _summed(self) -> list[Object]:
        """What a web server's list of digests names."""
        import obstore

        where = f"{self.url}/{SUMS}"
        try:
            came = obstore.get(self._store, SUMS)
            text = bytearray()
            for piece in came.stream(min_chunk_size=_PIECE):
                text += piece
                if len(text) > _MOST_SUMS:
                    raise StoreError(f"{where}: expected at most {_MOST_SUMS} bytes, got more")
            lines = text.decode().splitlines()
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise StoreError(f"{where}: expected a list of files, as sha256sum writes it, got: {said(error)}") from None
        found = [_SUM.fullmatch(line) for line in lines if line.strip()]
        if None in found or len(found) > MOST_OBJECTS:
            raise StoreError(f"{where}: expected at most {MOST_OBJECTS} lines of a sha256 and a path, got others")
        return [Object(each[2], each[1], sha256=each[1]) for each in found if each is not None and each[2] != SUMS]


class ObjectShelf:
    """Small files of replicas in a store, see `serving.models.shelf.Shelf`. A web server is none that can be written
    to."""

    def __init__(self, url: str) -> None:
        self._url, self._store = url.rstrip("/"), opened(url.rstrip("/"))

    def __str__(self) -> str:
        return self._url

    def get(self, name: str, most: int) -> bytes | None:
        """Implements `Shelf.get`."""
        import obstore

        try:
            came = obstore.get(self._store, name)
            return bytes(came.bytes()) if came.meta["size"] <= most else None
        except FileNotFoundError:
            return None
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise OSError(said(error)) from None

    def put(self, name: str, content: bytes) -> None:
        """Implements `Shelf.put`."""
        self._put(name, content, "overwrite")

    def create(self, name: str, content: bytes) -> bool:
        """Implements `Shelf.create`."""
        return self._put(name, content, "create")

    def remove(self, name: str) -> None:
        """Implements `Shelf.remove`."""
        import obstore

        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            pass
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise OSError(said(error)) from None

    def _put(self, name: str, content: bytes, mode: Any) -> bool:
        import obstore

        try:
            obstore.put(self._store, name, content, mode=mode)
        except obstore.exceptions.AlreadyExistsError:
            return False
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise OSError(said(error)) from None
        return True


def opened(url: str) -> Any:
    """The store behind an address; nothing is asked of it yet."""
    try:
        from obstore.store import HTTPStore, from_url
    except ModuleNotFoundError:
        raise StoreError(f"{url}: expected the package obstore (pip install 'tiltserve[stores]'), got none") from None
    try:
        if url.startswith("http"):
            options: Any = {
                "allow_http": url.startswith("http:"),
                "timeout": datetime.timedelta(hours=6),
                "read_timeout": datetime.timedelta(seconds=_SILENT_S),
            }
            return HTTPStore.from_url(url, client_options=options, retry_config=_PATIENCE)
        return from_url(url, retry_config=_PATIENCE)
    except Exception as error:  # obstore raises what it likes for settings of the environment
        raise StoreError(f"{url}: expected an address of a store, got: {said(error)}") from None


def said(error: Exception) -> str:
    """What is wrong, in one line: without the client's own structures, which follow behind it."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())[:400] or type(error).__name__


def _tag(each: Any) -> str:
    return str(each["e_tag"] or f"{each['last_modified']} {each['size']}")
