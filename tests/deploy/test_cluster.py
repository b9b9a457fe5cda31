"""Which processes belong to a server."""

import os
import subprocess
import time

from deploy import cluster


def test_children_that_lost_the_mark_are_found() -> None:
    """Ray's agents show no variables, a title took their place: they outlived a start that was broken off."""
    mark = os.urandom(8).hex()
    environment = {**os.environ, cluster._MARK: mark}
    with subprocess.Popen(["sh", "-c", "env -i sleep 60 & wait"], env=environment) as shell:
        end = time.monotonic() + 20
        while len(found := cluster.marked(mark)) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        assert {each.ppid() for each in found} == {os.getpid(), shell.pid}
        cluster.kill(found)
        assert cluster.marked(mark) == []
