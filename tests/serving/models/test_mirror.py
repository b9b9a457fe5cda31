"""Model stores: a real S3 server, and a real web server, mirrored on this machine and served while they change."""

import functools
import hashlib
import http.server
import shutil
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.models import object_store
from serving.models.artifacts import Artifacts
from serving.models.folders import scan
from serving.models.mirror import Mirror
from serving.models.object_store import ObjectShelf, StoreError
from tests import weed
from tests.serving.live import running, until
from tests.weed import Weed


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    with pytest.MonkeyPatch.context() as patch, weed.running(tmp_path_factory.mktemp("weed")) as found:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found


class Bucket:
    """A prefix of the store."""

    def __init__(self, prefix: str) -> None:
        from obstore.store import from_url

        self.url = f"s3://{weed.BUCKET}/{prefix}"
        self.store: Any = from_url(self.url)

    def put(self, path: str, content: bytes) -> None:
        import obstore

        obstore.put(self.store, path, content)

    def upload(self, folder: Path, to: str) -> None:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                self.put(f"{to}/{each.relative_to(folder)}", each.read_bytes())

    def remove(self, *paths: str) -> None:
        import obstore

        obstore.delete(self.store, [*paths])


@pytest.fixture
def bucket(s3: Weed, request: pytest.FixtureRequest) -> Bucket:
    return Bucket(request.node.name)


def held(mirror: Mirror) -> dict[str, bytes]:
    files = [each for each in mirror.folder.rglob("*") if each.is_file()]
    return {str(each.relative_to(mirror.folder)): each.read_bytes() for each in files}


def test_a_folder_is_kept_like_its_store(bucket: Bucket, tmp_path: Path):
    cache = tmp_path / "cache"
    mirror = Mirror(bucket.url, cache)
    with pytest.raises(StoreError, match="expected models"):
        mirror.first()
    bucket.put("a/1/model.onnx", b"graph")
    bucket.put("a/card.yaml", b"card")
    bucket.put("a/.hidden", b"no")
    bucket.put("a/2", b"")  # what some programs make in place of a folder
    bucket.put("readme", b"no")
    bucket.put("b/1/deep/weights", b"graph")
    mirror.first()
    whole = {"a/1/model.onnx": b"graph", "a/card.yaml": b"card", "b/1/deep/weights": b"graph"}
    assert held(mirror) == whole
    assert len([*(cache / "blobs").iterdir()]) == 2, "equal files are kept once"
    before = (mirror.folder / "a" / "1" / "model.onnx").stat()

    # what changes is taken once it rests, as a whole
    bucket.put("a/2/model.onnx", b"other")
    mirror.sync()
    assert held(mirror) == whole
    bucket.put("a/2/weights", b"heavy")
    mirror.sync()
    assert held(mirror) == whole
    mirror.sync()
    whole |= {"a/2/model.onnx": b"other", "a/2/weights": b"heavy"}
    assert held(mirror) == whole
    after = (mirror.folder / "a" / "1" / "model.onnx").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "what stays is the same file"

    # other content under the same name, and what is gone
    bucket.put("a/card.yaml", b"another card")
    bucket.remove("a/1/model.onnx", "b/1/deep/weights", "a/2/weights")
    mirror.sync()
    mirror.sync()
    assert held(mirror) == {"a/2/model.onnx": b"other", "a/card.yaml": b"another card"}
    assert not [*(cache / "partial").iterdir()]
    assert not [*mirror.folder.glob(".*")]

    # another process, and one that comes where the store has nothing any more
    assert held(Mirror(bucket.url, cache)) == held(mirror)
    bucket.remove("a/2/model.onnx", "a/card.yaml", "a/.hidden", "a/2", "readme")
    with pytest.raises(StoreError, match="expected models"):
        mirror.sync()
    other = Mirror(bucket.url, cache)
    other.first()
    assert held(other) == {"a/2/model.onnx": b"other", "a/card.yaml": b"another card"}


def test_a_file_becomes_a_folder_and_a_folder_a_file(bucket: Bucket, tmp_path: Path):
    mirror = Mirror(bucket.url, tmp_path / "cache")
    bucket.put("a/1/model.onnx", b"graph")
    bucket.put("a/1/weights", b"heavy")
    mirror.first()
    bucket.remove("a/1/weights")
    bucket.put("a/1/weights/0", b"heavy")
    mirror.sync()
    mirror.sync()
    assert held(mirror) == {"a/1/model.onnx": b"graph", "a/1/weights/0": b"heavy"}
    bucket.remove("a/1/weights/0")
    bucket.put("a/1/weights", b"other")
    mirror.sync()
    mirror.sync()
    assert held(mirror) == {"a/1/model.onnx": b"graph", "a/1/weights": b"other"}


def test_large_objects_come_in_pieces(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(object_store, "_PIECE", 1000)
    whole = {"a/1/model.onnx": bytes(range(256)) * 20, "a/1/empty": b"", "a/1/exact": b"x" * 2000}
    for path, content in whole.items():
        bucket.put(path, content)
    mirror = Mirror(bucket.url, tmp_path / "cache")
    mirror.first()
    assert held(mirror) == whole


def test_names_that_lead_elsewhere_are_passed_over(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from serving.models.object_store import Object, ObjectStore

    bucket.put("a/1/model.onnx", b"graph")
    names = ["../../out", "a/../../out", "/etc/x", "a//x", "a/1/" + "x" * 300, "a/" * 40 + "x", "a/\n"]
    real = ObjectStore.objects
    monkeypatch.setattr(ObjectStore, "objects", lambda self: [*real(self), *(Object(name, "tag", 1) for name in names)])
    mirror = Mirror(bucket.url, tmp_path / "cache")
    mirror.first()
    assert held(mirror) == {"a/1/model.onnx": b"graph"}


def test_wrong_credentials_and_addresses_are_one_line(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bucket.put("a/1/model.onnx", b"graph")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "an-untrue-secret")
        with pytest.raises(StoreError) as caught:
            Mirror(bucket.url, tmp_path / "cache").first()
        assert "SignatureDoesNotMatch" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "an-untrue-secret" not in str(caught.value)
    with pytest.raises(StoreError, match="NoSuchBucket"):
        Mirror("s3://no-such-bucket-here/x", tmp_path / "cache").first()


def test_a_store_can_hold_what_replicas_make(bucket: Bucket):
    from serving.models.lease import Leases

    shelf = ObjectShelf(bucket.url)
    assert shelf.get("a", 10) is None
    assert shelf.create("a", b"1")
    assert not shelf.create("a", b"2")
    assert shelf.get("a", 10) == b"1"
    shelf.put("a", b"long enough")
    assert shelf.get("a", 10) is None
    shelf.remove("a")
    shelf.remove("a")
    assert shelf.get("a", 10) is None
    mine = Leases(shelf).take("b")
    assert mine is not None
    assert Leases(shelf).take("b") is None
    mine.leave()
    theirs = Leases(shelf).take("b")
    assert theirs is not None
    theirs.leave()


def test_a_web_server_says_what_it_has(tmp_path: Path):
    pytest.importorskip("obstore", reason="expected the package obstore, got none")
    root = tmp_path / "web"
    (root / "a" / "1").mkdir(parents=True)
    (root / "a" / "1" / "model.onnx").write_bytes(b"graph" * 1000)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        mirror = Mirror(f"http://127.0.0.1:{server.server_port}", tmp_path / "cache")
        with pytest.raises(StoreError, match="SHA256SUMS"):
            mirror.first()
        line = f"{hashlib.sha256(b'graph' * 1000).hexdigest()}  ./a/1/model.onnx\n"
        (root / "SHA256SUMS").write_text(line + "0" * 64 + "  b/1/model.onnx\n")
        (root / "b" / "1").mkdir(parents=True)
        (root / "b" / "1" / "model.onnx").write_bytes(b"not what the list says")
        with pytest.raises(StoreError, match="expected the content that SHA256SUMS names"):
            mirror.sync()
        assert held(mirror) == {"a/1/model.onnx": b"graph" * 1000}, "the others are there all the same"
        (root / "SHA256SUMS").write_text("what is this\n")
        with pytest.raises(StoreError, match="expected at most"):
            mirror.sync()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc"], ids=["all", "the rest"])
def test_a_web_server_that_answers_nothing_holds_up_nobody(
    begun: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Else replicas of this machine, which take turns, would not start while one waits."""
    pytest.importorskip("obstore", reason="expected the package obstore, got none")
    monkeypatch.setattr(object_store, "_SILENT_S", 0.2)
    monkeypatch.setattr(object_store, "_PATIENCE", {**object_store._PATIENCE, "max_retries": 1})

    class Silent(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(begun)
            over.wait(60)

    over = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(StoreError, match="expected a list of files"):
                Mirror(f"http://127.0.0.1:{server.server_address[1]}", tmp_path / "cache").first()
        finally:
            over.set()
            server.shutdown()


def test_versions_come_while_it_serves_and_stay_while_the_store_is_away(
    s3: Weed, bucket: Bucket, small_models: Path, tmp_path: Path
):
    bucket.upload(small_models / "rings", "rings")
    mirror = Mirror(bucket.url, tmp_path / "cache")
    mirror.first()
    artifacts = Artifacts(ObjectShelf(f"{bucket.url}-artifacts"))
    with running(mirror.folder, look_s=0.1, fetch=mirror.sync, artifacts=artifacts) as live:
        models = live.replicas[0]._models
        asked: dict[str, Any] = {"samples": 2, "seed": 1, "steps": 2}
        first = live.infer(**asked)[0]["samples"]
        shutil.copytree(small_models / "rings" / "1", tmp_path / "2")
        (tmp_path / "2" / "notes.txt").write_text("another version")
        bucket.upload(tmp_path / "2", "rings/2")
        until(lambda: [each.version for each in models.states() if each.name == "rings"] == ["2"])
        assert (live.infer(**asked)[0]["samples"] == first).all()
        # a version that cannot be loaded leaves what serves, and one that is taken back does too
        bucket.put("rings/3/model.onnx", b"no graph")
        until(lambda: any(each.state == "UNAVAILABLE" for each in models.states()))
        assert (live.infer(**asked)[0]["samples"] == first).all()
        bucket.remove("rings/3/model.onnx")
        until(lambda: [each.version for each in models.states() if each.name == "rings"] == ["2"])
        s3.stop()
        try:
            polling = live.replicas[0]._polling
            assert polling is not None
            until(lambda: bool(polling._fault))
            assert (live.infer(**asked)[0]["samples"] == first).all()
            again = Mirror(bucket.url, tmp_path / "cache")
            again.first()
            assert [(each.name, each.version) for each in scan(again.folder)] == [("rings", "2")]
            with pytest.raises(StoreError):
                Mirror(bucket.url, tmp_path / "nothing").first()
        finally:
            s3.start()
        until(lambda: not polling._fault)
