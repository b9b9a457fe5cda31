"""Where Ray keeps its files: its own folder if it can be used, else another one, else one line."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import scratch
from deploy.settings import SettingsError

STORE = 128 * 2**20


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR short enough for Ray's sockets, which pytest's own folders are not."""
    folder = Path("/tmp/tiltserve-scratch")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    yield folder
    shutil.rmtree(folder)


def test_rays_own_folder_is_kept(short: Path) -> None:
    with scratch.scratch(STORE) as place:
        assert place.sessions == short / "ray"
        assert place.memory in (scratch.SHARED, place.sessions)
    assert (short / "ray").is_dir()
    assert not list((short / "ray").iterdir())  # what was tried is gone


@pytest.mark.parametrize("spoil", ["long", "file", "missing"])
def test_another_folder_where_it_cannot_be_used(short: Path, spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if spoil == "long":
        monkeypatch.setenv("TMPDIR", str(short / ("x" * 100)))
    elif spoil == "file":
        (short / "ray").write_text("")
    else:
        (short / "file").write_text("")
        monkeypatch.setenv("RAY_TMPDIR", str(short / "file" / "inside"))
    with scratch.scratch(STORE) as place:
        assert place.sessions.name.startswith("ray-")
        assert place.sessions.is_dir()
    assert not place.sessions.exists()


def test_it_is_kept_for_its_logs_when_the_start_fails(short: Path) -> None:
    (short / "ray").write_text("")
    with pytest.raises(RuntimeError, match="no start"), scratch.scratch(STORE) as place:
        raise RuntimeError("no start")
    assert place.sessions.is_dir()
    assert place.sessions.parent == short


def test_too_little_room(short: Path) -> None:
    assert scratch.unusable(short, 2**60).startswith(f"{short}: ")
    assert "are free" in scratch.unusable(short, 2**60)


def test_no_room_for_the_store_in_shared_memory(short: Path) -> None:
    with scratch.scratch(2**60) as place:
        assert place.memory == place.sessions


def test_nothing_can_be_used(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.scratch.FREE_BYTES", 2**60)
    monkeypatch.setattr("deploy.scratch.unusable", lambda folder, room=0: f"{folder}: No space left on device")
    with pytest.raises(SettingsError) as caught, scratch.scratch(STORE):
        pass
    assert str(caught.value).startswith("TMPDIR: expected a folder for Ray's sockets and logs, ")
    assert f"{short}/ray: No space left on device" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(short.iterdir())
