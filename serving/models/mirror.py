"""A model store as a folder of this machine: what replicas read is a repository that is kept like the store.

In the cache are blobs, named by the sha256 of their content, and for each store a repository whose files are links to
them. A blob is downloaded under another name and checked first, and a model's files are linked once all are here; so
nothing partial is served, equal files of several versions or stores are kept once, and a file that has not changed is
the same file. Processes of one machine take turns.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from serving.models.object_store import Object, ObjectStore, StoreError

KEPT_S = 7 * 86400.0
"""Seconds for which a file that no repository has is kept: the way back to a version is then short."""
_PART = re.compile(r"[^/\0-\x1f\x7f]{1,255}")
_DEEPEST = 16

_log = logging.getLogger(__name__)


class Mirror:
    """Keeps `folder` like the store; several processes may, in one `cache`.

    Args:
        url: of the store.
        cache: made if it does not exist, for this user alone.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self.url, self._cache = url, cache
        self.folder = folder(url, cache)
        self._store: ObjectStore | None = None
        self._before: Mapping[str, frozenset[Object]] | None = None

    def first(self) -> None:
        """Fetch what there is. Where the store is away, what was fetched before is served.

        Raises:
            StoreError: and nothing was.
        """
        try:
            self.sync()
        except StoreError as error:
            if not self.folder.is_dir() or not any(self.folder.glob("[!.]*")):
                raise
            _log.warning("%s; what was fetched before is served", error)

    def sync(self) -> None:
        """Make the folder like the store. A model whose objects have changed since the last look is left alone until
        they rest, but for the first look: it may be just being written.

        Raises:
            StoreError: the store, or one of its models, could not be fetched; what is here stays, and other models
                were.
        """
        try:
            with self._turn():
                self._sync()
        except OSError as error:
            raise StoreError(f"{self._cache}: expected to keep models there, got: {error.strerror or error}") from None

    def _sync(self) -> None:
        if self._store is None:
            self._store = ObjectStore(self.url)
        models: dict[str, set[Object]] = {}
        objects_there = self._store.objects()
        folders = {str(parent) for each in objects_there for parent in PurePosixPath(each.path).parents}
        for each in objects_there:
            # some programs make an empty object in place of a folder
            if each.path not in folders and (name := _model(each.path)) is not None:
                models.setdefault(name, set()).add(each)
        if not models:
            raise StoreError(f"{self.url}: expected models (NAME/VERSION/model.onnx), got none")
        now = {name: frozenset(objects) for name, objects in models.items()}
        before, self._before, faults = self._before, now, list[str]()
        for name, objects in now.items():
            if before is not None and before.get(name) != objects:
                continue
            try:
                self._keep(name, {each.path: self._blob(each) for each in objects})
            except StoreError as error:
                faults.append(str(error))
            except OSError as error:
                faults.append(f"{self.folder / name}: expected to write it, got: {error.strerror or error}")
        for path in self.folder.iterdir():
            if path.name not in now and not path.name.startswith("."):
                shutil.rmtree(self._aside(path))
        self._tidy()
        if faults:
            raise StoreError("; ".join(faults))

    def _blob(self, wanted: Object) -> Path:
        """The file with an object's content, downloaded if it is not here."""
        said = f"{self.url}\n{wanted.path}\n{wanted.tag}\n{wanted.size}"
        seen = self._cache / "seen" / hashlib.sha256(said.encode()).hexdigest()
        digest = wanted.sha256
        if not digest:
            with contextlib.suppress(FileNotFoundError):
                digest = seen.read_text()
        blob = self._cache / "blobs" / digest
        if re.fullmatch("[0-9a-f]{64}", digest) and blob.is_file() and wanted.size in (None, blob.stat().st_size):
            return blob
        assert self._store is not None
        there = self._cache / "partial" / uuid.uuid4().hex
        try:
            digest = self._store.download(wanted, there)
            there.chmod(0o400)
            blob = self._cache / "blobs" / digest
            if not blob.is_file():  # else repositories have it already, as the file that it is
                there.replace(blob)
        finally:
            there.unlink(missing_ok=True)
        seen.write_text(digest)
        return blob

    def _keep(self, name: str, blobs: Mapping[str, Path]) -> None:
        """A model's files are these."""
        model = self.folder / name
        if not model.is_dir():
            self._new(model, {PurePosixPath(path).relative_to(name): blob for path, blob in blobs.items()})
            return
        found = dict(blobs)
        versions = {PurePosixPath(path).parts[1] for path in found if len(PurePosixPath(path).parts) > 2}
        for version in versions:
            if not (model / version).exists():  # as a whole: it is there from one moment to the next
                start = f"{name}/{version}/"
                inside = [path for path in found if path.startswith(start)]
                self._new(model / version, {PurePosixPath(path.removeprefix(start)): found[path] for path in inside})
        for path, blob in found.items():
            file = self.folder / path
            if not (file.exists() and file.samefile(blob)):
                self._clear(file)
                file.parent.mkdir(parents=True, exist_ok=True)
                link = self.folder / f".{uuid.uuid4().hex}"
                os.link(blob, link)
                link.replace(file)
        wanted = {self.folder / path for path in found}
        for gone in [each for each in model.iterdir() if each.is_dir() and each.name not in versions]:
            shutil.rmtree(self._aside(gone))
        for file in model.rglob("*"):
            if file.is_file() and file not in wanted:
                file.unlink()

    def _new(self, place: Path, blobs: Mapping[PurePosixPath, Path]) -> None:
        """A folder with these files, which is there as a whole or not at all."""
        made = self.folder / f".{uuid.uuid4().hex}"
        try:
            for path, blob in blobs.items():
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(blob, made / path)
            made.rename(place)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _clear(self, file: Path) -> None:
        """A folder that is a file by now makes way, and a file that is a folder by now."""
        if file.is_dir():
            shutil.rmtree(self._aside(file))
        for parent in file.relative_to(self.folder).parents:
            if (self.folder / parent).is_file():
                (self.folder / parent).unlink()

    def _aside(self, place: Path) -> Path:
        return place.rename(self.folder / f".{uuid.uuid4().hex}")

    def _tidy(self) -> None:
        """Remove downloads and folders of processes that died, and files that no repository had for long."""
        for left in (*(self._cache / "partial").iterdir(), *self.folder.glob(".*")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        old, gone = time.time() - KEPT_S, set[str]()
        for blob in (self._cache / "blobs").iterdir():
            about = blob.stat()
            if about.st_nlink == 1 and about.st_ctime < old:  # its links were removed then
                blob.unlink()
                gone.add(blob.name)
        for seen in (self._cache / "seen").iterdir() if gone else ():
            if seen.read_text() in gone:
                seen.unlink()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Within, no other process changes the cache; one that dies lets go of it."""
        for each in ("blobs", "partial", "seen"):
            (self._cache / each).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._cache / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def folder(url: str, cache: Path) -> Path:
    """Where a store's models are found."""
    return cache / "stores" / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


def _model(path: str) -> str | None:
    """The model that an object belongs to; None for what is hidden, lies in no model's folder, or leads out of it."""
    parts = path.split("/")
    fine = 2 <= len(parts) <= _DEEPEST and all(_PART.fullmatch(each) and each[0] != "." for each in parts)
    return parts[0] if fine and not (len(parts) == 2 and parts[1].isdecimal()) else None
