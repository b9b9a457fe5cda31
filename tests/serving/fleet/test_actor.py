"""The directory as a real Ray actor."""

import asyncio
import contextlib

import pytest
import ray

from serving.fleet.actor import RayDirectory
from serving.fleet.directory import FrontState, ModelState, ReplicaState
from serving.front.roster import Roster
from serving.wire.tensors import TensorSpec

STATE = ReplicaState(
    "a", "127.0.0.1:1", 7, (ModelState("m", "1", "network", "READY", "", "f", (TensorSpec("x", "FP32", (-1, 2)),)),)
)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        num_cpus=1, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False, configure_logging=False
    )
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_the_list_survives_the_actor():
    async def body():
        directory = RayDirectory(lease_s=60)
        await directory.beat(STATE)
        assert (await directory.listing()).replicas == [STATE]
        await directory.announce_front("127.0.0.1:2", "127.0.0.1:3")
        assert await RayDirectory().fronts() == [FrontState("127.0.0.1:2", "127.0.0.1:3")]  # the same actor
        await directory.leave("a")
        assert (await directory.listing()).replicas == []
        assert (await directory.listing()).left == {"a"}

        await directory.beat(STATE)
        roster = Roster(directory)
        await roster.refresh()
        first = (await directory.listing()).epoch
        ray.kill(directory.actor, no_restart=False)
        async with asyncio.timeout(60):
            while True:  # until the new actor answers
                await roster.refresh()
                assert roster.index.replicas == (STATE,)
                with contextlib.suppress(Exception):
                    if (await directory.listing()).epoch != first:
                        break
                await asyncio.sleep(0.1)
        await roster.refresh()
        assert (await directory.listing()).replicas == []
        assert roster.index.replicas == (STATE,)
        await directory.beat(STATE)
        await roster.refresh()
        assert roster.index.replicas == (STATE,)

    asyncio.run(body())
