"""The directory as a named Ray actor, and the client through which fronts and replicas reach it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serving.fleet.directory import LEASE_S, Directory, FrontState, Listing, ReplicaState, Wish

NAME = "directory"
NAMESPACE = "tiltserve"


class RayDirectory:
    """A `DirectoryClient` of the actor of that name. The first client starts it, and Ray restarts it without limit;
    with `here` on this node as long as it is there.

    A call that takes more than `timeout_s` seconds (the actor is restarting) raises TimeoutError.
    """

    def __init__(
        self, name: str = NAME, *, lease_s: float = LEASE_S, timeout_s: float = 2.0, here: bool = False
    ) -> None:
        self._timeout_s = timeout_s
        placed: dict[str, Any] = {}
        if here:
            node = ray.get_runtime_context().get_node_id()
            placed = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}
        self.actor: Any = (
            ray.remote(num_cpus=0, max_restarts=-1)(Directory)
            .options(name=name, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", **placed)
            .remote(lease_s)
        )

    def end(self) -> None:
        """End the actor; the caller's server needs it no longer."""
        ray.kill(self.actor)

    async def beat(self, replica: ReplicaState) -> Sequence[Wish]:
        return await self._call("beat", replica)

    async def leave(self, replica_id: str) -> None:
        await self._call("leave", replica_id)

    async def listing(self) -> Listing:
        return await self._call("listing")

    async def announce_front(self, grpc_address: str, metrics_address: str) -> None:
        await self._call("announce_front", grpc_address, metrics_address)

    async def fronts(self) -> list[FrontState]:
        return await self._call("fronts")

    async def _call(self, method: str, *arguments: object) -> Any:
        return await asyncio.wait_for(getattr(self.actor, method).remote(*arguments), self._timeout_s)
