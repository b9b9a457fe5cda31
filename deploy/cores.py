"""How many cores this process may keep busy."""

import os
from collections.abc import Iterator
from pathlib import Path


def cores(process: Path = Path("/proc/self")) -> int:
    """The cores that this process is bound to, or fewer where the CPU quota of a container is smaller; at least 1.

    A part of a core is left to the event loops: threads above the quota would all be halted together for a part of
    each tenth of a second.
    """
    quotas = [int(quota) for group in _groups(process) if (quota := _quota(group)) is not None]
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


def _groups(process: Path) -> Iterator[Path]:
    """The folders of the control groups that this process is in, and of those that hold them."""
    try:
        own = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
        mounts = [line.split(" ") for line in (process / "mountinfo").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in own:
        for mount in mounts:
            root, point, kind, options = mount[3], mount[4], mount[mount.index("-") + 1], mount[-1]
            unified = kind == "cgroup2" and not controllers
            if not unified and not (
                kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options.split(",")
            ):
                continue
            # a container may see its group as the root of what is mounted
            inside = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
            yield from (Path(point) / part for part in (inside, *inside.parents))


def _quota(group: Path) -> float | None:
    """The cores' worth of time that a group may use, None for any."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
