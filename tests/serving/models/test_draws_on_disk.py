"""Draws on disk: what fits is read back bit for bit, what does not is passed over, and the folder is bounded."""

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from serving.backends import Array
from serving.models import draws_on_disk
from serving.models.draws_on_disk import DrawsOnDisk, Form
from steering.posteriors.draws import Draws
from tests.serving.live import until

FORM = Form((-3.0, -1.0, 0.5, 2.0), 16, (2, 3))
KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def opened() -> Iterator[Callable[..., DrawsOnDisk]]:
    disks: list[DrawsOnDisk] = []

    def make(folder: Path, most_bytes: int = draws_on_disk.MOST_BYTES) -> DrawsOnDisk:
        disks.append(DrawsOnDisk(folder, most_bytes))
        return disks[-1]

    yield make
    for each in disks:
        each.close()


def drawn(seed: int = 0) -> Draws:
    random = torch.Generator().manual_seed(seed)
    return Draws(
        torch.tensor(FORM.log_snr, dtype=torch.float64),
        torch.rand(4, generator=random, dtype=torch.float64),
        torch.randn(3, 16, 6, generator=random).to(torch.float16),
        torch.randn(16, 2, 3, generator=random),
    )


def written(disk: DrawsOnDisk, key: str = KEY, draws: Draws | None = None) -> Path:
    """The file of draws that were written."""
    path = disk.folder / f"{key}.draws"
    disk.write(key, FORM, draws or drawn())
    until(lambda: not disk._waiting)
    return path


def found(disk: DrawsOnDisk, key: str = KEY, form: Form = FORM) -> list[Array]:
    return disk.read(key, form).result(30)


def test_what_is_written_is_read_by_others_bit_for_bit(tmp_path: Path, opened: Callable[..., DrawsOnDisk]):
    folder = tmp_path / "a" / "draws"
    disk, other = opened(folder), opened(folder)
    assert found(disk) == []
    draws = drawn()
    path = written(disk, draws=draws)
    came = found(other)
    for array, tensor in zip(came, (draws.log_snr, draws.rms, draws.residuals, draws.x0), strict=True):
        assert array.tobytes() == tensor.numpy().tobytes()
        assert (array.shape, array.dtype) == (tuple(tensor.shape), tensor.numpy().dtype)
    assert other.there(KEY)
    assert disk.there(KEY)
    assert path.stat().st_size == FORM.bytes
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with path.open("rb") as file:  # numpy reads it
        arrays = [np.load(file, allow_pickle=False) for _ in range(5)]
    assert arrays[4].tobytes() == draws.x0.numpy().tobytes()
    assert [each.name for each in folder.iterdir()] == [path.name]


def swapped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def forged(path: Path, key: str = KEY, **others: torch.Tensor) -> None:
    """A file with a good digest, and with other tensors in the place of some."""
    with path.open("wb") as file:
        arrays = [each.numpy() for each in {**vars(drawn()), **others}.values()]
        digest = np.frombuffer(draws_on_disk._digest(key, arrays), np.uint8)
        for each in (digest, *arrays):
            np.lib.format.write_array(file, each, version=(1, 0), allow_pickle=False)


def not_finite() -> torch.Tensor:
    x0 = drawn().x0
    x0[3, 1, 1] = float("nan")
    return x0


def pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.array([{"a": 1}], object), allow_pickle=True)
        file.truncate(FORM.bytes)


def linked(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def swollen(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2**40)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: os.truncate(path, FORM.bytes - 1), "bytes, got"),
    "empty": (lambda path: os.truncate(path, 0), "bytes, got 0"),
    "too large": (swollen, f"bytes, got {2**40}"),
    "a bit of an array": (lambda path: swapped(path, FORM.bytes - 9), "expected the digest"),
    "a bit of the digest": (lambda path: swapped(path, 130), "expected the digest"),
    "a bit of a header": (lambda path: swapped(path, 30), "expected an array torch.uint8"),
    "another key": (lambda path: forged(path, OTHER), "expected the digest"),
    "not finite": (lambda path: forged(path, x0=not_finite()), "expected finite numbers"),
    "other levels": (lambda path: forged(path, log_snr=torch.arange(4, dtype=torch.float64)), "expected the levels"),
    "below 0": (lambda path: forged(path, rms=-1 - drawn().rms), "expected root mean squares"),
    "another type": (lambda path: forged(path, residuals=drawn().residuals.view(torch.int16)), "expected an array"),
    "another shape": (lambda path: forged(path, residuals=drawn().residuals.mT.contiguous()), "expected an array"),
    "pickled": (pickled, "expected an array torch.uint8"),
    "a link": (linked, "is not used"),
    "a link to what never ends": (endless, "is not used"),
    "a pipe": (piped, "expected a file, got something else"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_does_not_fit_is_passed_over_with_one_line_and_written_anew(
    what: str, tmp_path: Path, opened: Callable[..., DrawsOnDisk], caplog: pytest.LogCaptureFixture
):
    disk = opened(tmp_path)
    path = written(disk)
    assert len(found(disk)) == 4
    spoil, said = HOSTILE[what]
    spoil(path)
    with caplog.at_level(logging.WARNING, draws_on_disk.__name__):
        assert found(disk) == []
    (line,) = caplog.messages
    assert said in line
    assert str(path) in line
    assert not disk.there(KEY)
    assert written(disk) == path
    assert len(found(disk)) == 4


def test_a_folder_in_the_place_of_a_file_is_passed_over(
    tmp_path: Path, opened: Callable[..., DrawsOnDisk], caplog: pytest.LogCaptureFixture
):
    disk = opened(tmp_path)
    (tmp_path / f"{KEY}.draws").mkdir()
    assert found(disk) == []
    written(disk)
    written(disk)
    assert [each for each in caplog.messages if "cannot be kept" in each] == [
        f"{tmp_path}: draws cannot be kept there: Is a directory"
    ]
    assert [each.name for each in tmp_path.iterdir()] == [f"{KEY}.draws"]


def test_draws_that_are_not_finite_are_not_kept(tmp_path: Path, opened: Callable[..., DrawsOnDisk]):
    assert not written(opened(tmp_path), draws=replace(drawn(), x0=not_finite())).exists()


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path, opened: Callable[..., DrawsOnDisk]):
    """What was read last stays; files of others and those that are being written are let be."""
    disk = opened(tmp_path, 3 * FORM.bytes + 10)
    beside = tmp_path / "notes.txt"
    beside.write_bytes(bytes(10 * FORM.bytes))
    dead, alive = (tmp_path / draws_on_disk._partial(OTHER) for _ in range(2))
    dead.write_bytes(b"")
    os.utime(dead, (0, 0))
    alive.write_bytes(b"")
    keys = [f"{k:064x}" for k in range(5)]
    for k, key in enumerate(keys[:3]):
        os.utime(written(disk, key), (k + 1, k + 1))
    assert found(disk, keys[0])
    for key in keys[3:]:
        written(disk, key)
    assert {each.stem for each in tmp_path.glob("*.draws")} == {keys[0], *keys[3:]}
    assert beside.exists()
    assert alive.exists()
    assert not dead.exists()
    assert not found(disk, keys[1])
    small = opened(tmp_path, FORM.bytes - 1)
    written(small, OTHER)
    assert len(list(tmp_path.glob("*.draws"))) == 3  # nothing was removed for what cannot fit


def test_processes_that_write_and_remove_at_once_do_not_disturb_each_other(
    tmp_path: Path, opened: Callable[..., DrawsOnDisk], caplog: pytest.LogCaptureFixture
):
    disks = [opened(tmp_path, 2 * FORM.bytes) for _ in range(3)]
    keys = [f"{k % 7:064x}" for k in range(60)]
    for k, key in enumerate(keys):
        disks[k % 3].write(key, FORM, drawn(k % 7))
        disks[(k + 1) % 3].read(key, FORM)
    for each in disks:
        until(lambda each=each: not each._waiting)  # type: ignore[misc]
    read = [found(disks[0], key) for key in keys[:7]]
    assert not caplog.messages
    assert any(read)
    for k, arrays in enumerate(read):
        if arrays:
            assert arrays[3].tobytes() == drawn(k).x0.numpy().tobytes()
    assert len(list(tmp_path.iterdir())) <= 2


def test_a_folder_that_cannot_be_written_to_is_said_once_and_read(
    tmp_path: Path, opened: Callable[..., DrawsOnDisk], caplog: pytest.LogCaptureFixture
):
    """Whoever runs the tests may write everywhere, but not make folders in a file."""
    (tmp_path / "file").write_text("")
    disk = opened(tmp_path / "file" / "draws")
    for _ in range(3):
        written(disk)
    assert found(disk) == []
    lines = [each for each in caplog.messages if "cannot be kept" in each]
    assert lines == [f"{disk.folder}: draws cannot be kept there: Not a directory"]


def test_a_folder_that_everybody_may_write_to_is_said(
    tmp_path: Path, opened: Callable[..., DrawsOnDisk], caplog: pytest.LogCaptureFixture
):
    tmp_path.chmod(0o777)
    disk = opened(tmp_path)
    written(disk)
    assert f"{tmp_path}: every user may write to it, and so decide how requests are steered" in caplog.messages
    assert found(disk)


def test_a_disk_that_does_not_answer_holds_nobody_up(
    tmp_path: Path,
    opened: Callable[..., DrawsOnDisk],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """Reads that wait for an event stand for those of a volume that hangs."""
    monkeypatch.setattr(draws_on_disk, "LATE_S", 0.2)
    disk = opened(tmp_path)
    path, answers, go = written(disk), draws_on_disk._loaded, threading.Event()

    def hung(*given: object) -> list[Array]:
        go.wait(30)
        return answers(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(draws_on_disk, "_loaded", hung)
    asked: list[Future[list[Array]]] = [disk.read(KEY, FORM) for _ in range(5)]
    assert [each.result(10) for each in asked] == [[]] * 5
    start = time.monotonic()
    assert found(disk) == []  # at once
    assert time.monotonic() - start < 0.2
    go.set()
    until(lambda: not disk._late)
    assert len(found(disk)) == 4
    assert path.exists()
    left = disk.read(KEY, FORM)
    left.cancel()
    assert len(found(disk)) == 4
    until(lambda: not disk._reading)
    assert any("no file was read within 0.2 s" in each for each in caplog.messages)


def test_nothing_waits_without_bound_to_be_written(
    tmp_path: Path, opened: Callable[..., DrawsOnDisk], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(draws_on_disk, "MOST_WAITING", FORM.bytes)
    disk, go = opened(tmp_path), threading.Event()
    disk._writer.submit(go.wait, 30)
    disk.write(KEY, FORM, drawn())
    disk.write(OTHER, FORM, drawn())
    go.set()
    until(lambda: not disk._waiting)
    assert {each.stem for each in tmp_path.iterdir()} == {KEY}


def test_after_the_end_nothing_is_read_or_written(tmp_path: Path):
    disk = DrawsOnDisk(tmp_path)
    disk.close()
    assert found(disk) == []
    disk.write(KEY, FORM, drawn())
    assert not disk.there(KEY)
