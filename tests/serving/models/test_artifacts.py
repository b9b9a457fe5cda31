"""Banks, calibrations and costs are made once for all replicas that share a place, and models can wait for banks."""

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.backends.profiling import measured
from serving.engine.engine import Engine
from serving.engine.metrics import ReplicaMetrics
from serving.models import preparing
from serving.models.artifacts import Artifacts, bank_key
from serving.models.lease import Leases
from serving.models.loaded import LoadedModels
from serving.models.model import Sampler
from serving.models.shelf import FolderShelf, PatientShelf
from tests import networks
from tests.serving.live import running, until


@pytest.fixture
def root(tmp_path: Path, small_models: Path) -> Path:
    """A repository of rings alone, without bank and calibration."""
    root = tmp_path / "models"
    root.mkdir()
    shutil.copytree(small_models / "rings", root / "rings")
    (root / "rings" / "1" / "bank.npz").unlink()
    networks.edit_card(root / "rings", calibration=None)
    return root


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(ReplicaMetrics())
    yield engine
    engine.stop()


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(FolderShelf(tmp_path / "artifacts"))


def rings(models: LoadedModels) -> Sampler:
    model = models.models["rings"]
    assert isinstance(model, Sampler)
    return model


def test_a_bank_is_made_once_and_found_by_the_next(
    root: Path, artifacts: Artifacts, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = LoadedModels(root, 1, artifacts=artifacts)
    asyncio.run(first.load_all())
    assert {each.name: each.cold for each in first.states()}["rings"]
    asyncio.run(first.prepare(engine))
    kept = {each.suffix for each in (tmp_path / "artifacts").iterdir()}
    assert kept == {".bank", ".costs"}, "no lease is left behind"

    def never(*_: object) -> object:
        raise AssertionError("it is there already")

    monkeypatch.setattr(preparing, "prepared", never)
    monkeypatch.setattr("serving.models.loader.measured", never)
    second = LoadedModels(root, 1, artifacts=artifacts)
    asyncio.run(second.load_all())
    assert not {each.name: each.cold for each in second.states()}["rings"]
    assert rings(second).known.fingerprint == rings(first).known.fingerprint
    assert rings(second).network.costs.sizes == rings(first).network.costs.sizes


@pytest.mark.parametrize("damage", [b"", b"\0" * 32, b"x" * 2**22], ids=["empty", "short", "long"])
def test_what_is_damaged_is_made_anew(damage: bytes, root: Path, artifacts: Artifacts, tmp_path: Path):
    models = LoadedModels(root, 1, artifacts=artifacts)
    asyncio.run(models.load_all())
    model = rings(models)
    key = bank_key(model)
    whole = artifacts.prepared(model, key)
    assert whole is None
    (file,) = [each for each in (tmp_path / "artifacts").iterdir() if each.suffix == ".costs"]
    file.write_bytes(damage)
    (tmp_path / "artifacts" / f"{key}.bank").write_bytes(damage)
    assert artifacts.prepared(model, key) is None
    again = LoadedModels(root, 1, artifacts=artifacts)
    asyncio.run(again.load_all())
    assert json.loads(file.read_bytes()[32:]), "measured and written again"


def test_a_graph_is_measured_by_one_of_many(root: Path, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch):
    calls, whole = [], measured

    def counted(*args: object) -> object:
        calls.append(args)
        return whole(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("serving.models.loader.measured", counted)
    all_models = [LoadedModels(root, 1, artifacts=artifacts) for _ in range(3)]
    threads = [threading.Thread(target=lambda each=each: asyncio.run(each.load_all())) for each in all_models]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(calls) == 1
    assert len({rings(each).network.costs.sizes for each in all_models}) == 1


def test_nobody_makes_what_another_makes_and_a_dead_maker_does_not_block(tmp_path: Path):
    shelf, now = FolderShelf(tmp_path), [0.0]
    here, there = (Leases(shelf, 1e9, lambda: now[0]) for _ in range(2))
    mine = here.take("a")
    assert mine is not None
    assert there.take("a") is None
    now[0] = 0.9e9
    assert there.take("a") is None, "it may still live"
    shelf.put("a", b"renewed")
    now[0] = 1.5e9
    assert there.take("a") is None, "it was renewed meanwhile"
    now[0] = 2.6e9
    theirs = there.take("a")
    assert theirs is not None, "a holder that renews nothing is dead"
    mine.leave()
    assert shelf.get("a", 100) is not None, "whoever was taken for dead does not take the lease from its heir"
    theirs.leave()
    assert shelf.get("a", 100) is None
    quick = Leases(shelf, 0.2).take("b")
    assert quick is not None
    first = shelf.get("b", 100)
    until(lambda: shelf.get("b", 100) != first)
    quick.leave()


def test_a_maker_that_is_stopped_again_and_again_leaves_its_lease(root: Path, engine: Engine, tmp_path: Path):
    """Else it would renew it for ever, and no replica could make the bank, not even this one."""
    taking, go_on = threading.Event(), threading.Event()

    class Slow(FolderShelf):
        def create(self, name: str, content: bytes) -> bool:
            if not name.endswith(".costs.lease"):
                taking.set()
                go_on.wait(60)
            return super().create(name, content)

    models = LoadedModels(root, 1, artifacts=Artifacts(Slow(tmp_path / "artifacts")))

    async def body() -> None:
        await models.load_all()
        making = asyncio.create_task(models.prepare(engine))
        await asyncio.to_thread(taking.wait, 60)
        for _ in range(3):  # as requests that are short of memory do
            models._preparing.give_way()
            await asyncio.sleep(0.01)
        go_on.set()
        async with asyncio.timeout(60):
            await making

    asyncio.run(body())
    assert rings(models).known.cloud is not None
    assert not [*(tmp_path / "artifacts").glob("*.lease")]


@pytest.mark.parametrize("place", ["file", "/proc/artifacts"], ids=["no folder", "to be read only"])
def test_a_place_that_cannot_be_written_to_costs_a_line(
    place: str, root: Path, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("no folder")
    models = LoadedModels(root, 1, artifacts=Artifacts(FolderShelf(tmp_path / place)))
    asyncio.run(models.load_all())
    asyncio.run(models.prepare(engine))
    assert rings(models).known.cloud is not None
    assert caplog.text.count("what is made of models is not shared") == 1


def test_a_model_is_ready_only_with_its_bank(root: Path, artifacts: Artifacts, engine: Engine):
    """At a start, and while a new version, or new files of the same one, are brought out."""
    models = LoadedModels(root, 1, artifacts=artifacts, with_bank=True)

    async def body() -> None:
        def shown() -> list[tuple[str, str, bool]]:
            found = [each for each in models.states() if each.name == "rings"]
            return [(each.version, each.state, each.cold) for each in found]

        await models.load_all()
        assert shown() == [("1", "LOADING", False)]
        assert "rings" not in models.models
        keeping = asyncio.create_task(models.keep_prepared(engine))
        async with asyncio.timeout(60):
            while shown() != [("1", "READY", False)]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            shutil.copytree(root / "rings" / "1", root / "rings" / "2")
            (root / "rings" / "2" / "notes.txt").write_text("another version")
            loading = asyncio.create_task(models.load("rings", await models.find("rings")))
            while ("2", "LOADING", False) not in shown():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert models.model("rings").version == "1", "the old one serves until the bank of the new one is there"
            await loading
            assert shown() == [("2", "READY", False)]
            assert rings(models).known.cloud is not None
            (root / "rings" / "2" / "notes.txt").write_text("the same version, another file")
            before = models.model("rings")
            loading = asyncio.create_task(models.load("rings", await models.find("rings")))
            while not models._awaiting:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert models.model("rings") is before
            await loading
            assert models.model("rings") is not before
            assert shown() == [("2", "READY", False)]
            assert len(models._keyed) == 1
            # one that is unloaded, or replaced, while it waits
            (root / "rings" / "2" / "notes.txt").write_text("once more")
            loading = asyncio.create_task(models.load("rings", await models.find("rings")))
            while not models._awaiting:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await models.unload("rings")
            with pytest.raises(Exception, match="unloaded"):
                await loading
            assert not models._awaiting
            assert shown() == [("2", "UNAVAILABLE", False)]
        keeping.cancel()

    asyncio.run(body())


def test_a_bank_that_cannot_be_made_leaves_what_serves(
    root: Path, artifacts: Artifacts, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    models = LoadedModels(root, 1, artifacts=artifacts, with_bank=True)

    async def body() -> None:
        await models.load_all()
        await models.prepare(engine)
        (root / "rings" / "1" / "notes.txt").write_text("other files")
        before = models.model("rings")

        def broken(model: Sampler) -> object:
            yield from ()
            raise RuntimeError("no bank today")

        monkeypatch.setattr(preparing, "prepared", broken)
        loading = asyncio.create_task(models.load("rings", await models.find("rings")))
        while not models._awaiting:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await models.prepare(engine)
        with pytest.raises(Exception, match="no bank today"):
            await loading
        assert models.model("rings") is before
        assert "no bank today" in next(each.reason for each in models.states())
        assert len(models._keyed) == 1

    asyncio.run(body())


def test_replicas_that_share_a_place_answer_alike_with_one_bank(root: Path, tmp_path: Path):
    """One of two makes it; a front is not ready before the model is."""
    settings = {"artifacts": Artifacts(FolderShelf(tmp_path / "artifacts")), "ready_with_bank": True}
    with running(root, count=2, front={"ready_models": ["rings"]}, **settings) as live:
        until(lambda: live.front.serving)
        until(lambda: {live.replicas[k]._models.states()[0].state for k in (0, 1)} == {"READY"})
        assert len({each._models.states()[0].fingerprint for each in live.replicas}) == 1
        _, parameters = live.infer(samples=2, seed=1, steps=2)
        assert "no bank" not in parameters.get("warnings", "")
    assert {each.suffix for each in (tmp_path / "artifacts").iterdir()} == {".bank", ".costs"}


def test_a_place_that_hangs_holds_up_nobody_for_long(tmp_path: Path):
    inside, over = FolderShelf(tmp_path), threading.Event()

    class Hanging(FolderShelf):
        def get(self, name: str, most: int) -> bytes | None:
            if name == "hangs":
                over.wait(60)
            return super().get(name, most)

    shelf = PatientShelf(Hanging(tmp_path), 0.2)
    assert shelf.create("a", b"1")
    assert shelf.get("a", 10) == b"1"
    with pytest.raises(OSError, match=r"expected an answer within 0\.2 s"):
        shelf.get("hangs", 10)
    with pytest.raises(OSError, match="an earlier call still waits"):
        shelf.put("a", b"2")
    over.set()

    def answers() -> bool:
        try:
            shelf.put("a", b"3")
        except OSError:
            return False
        return True

    until(answers)
    assert inside.get("a", 10) == b"3"


def test_what_is_no_file_is_refused_and_closed(tmp_path: Path):
    """It may be a folder, or a pipe that somebody has open and writes nothing to."""
    shelf = FolderShelf(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    before = len([*Path("/proc/self/fd").iterdir()])
    for name in ("folder", "pipe"):
        with pytest.raises(OSError, match="expected a file"):
            shelf.get(name, 10)
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    os.close(writer)
