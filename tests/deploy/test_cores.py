"""Cores: those that the process is bound to, within the quota of its control groups."""

import os
from pathlib import Path

import pytest

from deploy.cores import cores
from deploy.settings import Settings

BOUND = len(os.sched_getaffinity(0))


def machine(folder: Path, groups: str, mounts: list[str], **files: str) -> Path:
    """A folder like /proc/self beside a folder `fs` with control groups; `files` are named with __ for /."""
    for name, content in files.items():
        file = folder / "fs" / name.replace("__", "/").replace("cpu_", "cpu.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    process = folder / "self"
    process.mkdir()
    (process / "cgroup").write_text(groups)
    (process / "mountinfo").write_text("".join(f"31 23 0:28 {line}\n" for line in mounts).replace("FS", f"{folder}/fs"))
    return process


def unified(folder: Path, group: str, root: str = "/", **files: str) -> Path:
    return machine(folder, f"0::{group}\n", [f"{root} FS rw,relatime shared:9 - cgroup2 cgroup2 rw"], **files)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("100000 100000", 1),
        ("150000 100000", 1),  # half a core is left over
        ("20000 100000", 1),
        ("1000000 1000000", 1),
        ("max 100000", BOUND),
        ("6400000 100000", BOUND),
        ("no numbers", BOUND),
    ],
)
def test_a_containers_quota(tmp_path: Path, quota: str, expected: int) -> None:
    assert cores(unified(tmp_path, "/", cpu_max=quota)) == expected


def test_the_smallest_quota_above_counts(tmp_path: Path) -> None:
    process = unified(tmp_path, "/pods/mine", pods__cpu_max="100000 100000", pods__mine__cpu_max="max 100000")
    assert cores(process) == 1


def test_a_container_sees_its_group_as_the_root_of_the_mount(tmp_path: Path) -> None:
    assert cores(unified(tmp_path, "/docker/1234", root="/docker/1234", cpu_max="100000 100000")) == 1


def test_the_older_control_groups(tmp_path: Path) -> None:
    mounts = [
        "/ FS/cpuset rw - cgroup cgroup rw,cpuset",
        "/ FS/cpu rw shared:1 master:2 - cgroup cgroup rw,cpu,cpuacct",
        "/ FS/unified rw - cgroup2 cgroup2 rw",
    ]
    groups = "3:cpuset:/\n2:cpu,cpuacct:/box\n1:name=systemd:/box\n0::/\n"
    files = {"cpu__box__cpu_cfs_quota_us": "100000", "cpu__box__cpu_cfs_period_us": "100000"}
    files |= {"cpu__cpu_cfs_quota_us": "-1", "cpu__cpu_cfs_period_us": "100000"}
    assert cores(machine(tmp_path, groups, mounts, **files)) == 1


def test_no_control_groups(tmp_path: Path) -> None:
    assert cores(tmp_path / "none") == BOUND


def test_replicas_share_what_the_quota_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.settings.cores", lambda: 5)
    assert Settings(models=tmp_path, replicas=2).threads == 2
    assert Settings(models=tmp_path, replicas=8).threads == 1
