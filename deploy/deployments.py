"""The two Ray Serve deployments. Serve places, health-checks and restarts them; requests never pass through it."""

import logging
from typing import Any

import ray
from ray import serve
from ray._common import tls_utils
from ray.serve import Application
from ray.serve._private import replica as serve_replica

from deploy.settings import Settings
from serving.backends.opening import Opener
from serving.fleet.actor import RayDirectory
from serving.front.server import Front
from serving.replica import Replica
from serving.wire.channels import address

FRONT, REPLICAS = "front", "replicas"
HEALTH_S = 1.0
HUNG_S = 300.0
"""A network call that takes longer than this is taken for hung, and its replica is replaced."""


def keep_to(host: str) -> None:
    """Let Serve's own server between deployments, which nothing here uses, listen on `host`.

    Serve starts one in each of its replicas once the deployment's constructor is through, on all interfaces, and has no
    setting for that.
    """
    listen = tls_utils.add_port_to_grpc_server
    vars(serve_replica)["add_port_to_grpc_server"] = lambda server, _: listen(server, address(host, 0))


class FrontDeployment:
    """The public endpoint."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        logging.basicConfig(level=settings.log_level.upper())
        keep_to(settings.host)
        self._front = Front(
            RayDirectory(),
            host=settings.host,
            grpc_port=settings.grpc_port,
            metrics_port=settings.metrics_port,
            drain_s=settings.drain_seconds,
        )
        await self._front.start()

    async def __del__(self) -> None:
        await self._front.stop()


class ReplicaDeployment:
    """One process that holds the models."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        logging.basicConfig(level=settings.log_level.upper())
        keep_to(settings.host)
        self._replica = Replica(
            settings.models,
            RayDirectory(),
            host=settings.host,
            ports=settings.replica_ports,
            threads=settings.threads,
            max_bucket=settings.max_bucket,
            max_queue_rows=settings.max_queue_rows,
            max_queue_bytes=settings.max_queue_memory,
            model_memory=settings.model_memory,
            drain_s=settings.drain_seconds,
            rewards=settings.rewards,
            reward_s=settings.reward_seconds,
            remembered_s=settings.reward_memory_seconds,
            answer_s=settings.answer_seconds,
            opener=opener(settings),
        )
        await self._replica.start()

    async def check_health(self) -> None:
        """Called by Serve: raises when a network call hangs, whatever the port says."""
        self._replica.check_health(HUNG_S)

    async def __del__(self) -> None:
        await self._replica.stop()


def opener(settings: Settings) -> Opener:
    """What chooses the backends of a replica's networks."""
    return Opener(
        threads=settings.threads,
        provider=settings.provider,
        most=settings.max_bucket,
        cache=settings.tensorrt_cache,
        half=settings.tensorrt_fp16,
        remote=settings.networks,
        remote_s=settings.network_seconds,
    )


def applications(settings: Settings) -> dict[str, Application]:
    """The applications by name, in the order to start them."""
    common: dict[str, Any] = {
        "health_check_period_s": HEALTH_S,
        "health_check_timeout_s": 10.0,
        # Serve must not cut a drain short: it sees no requests and would think the replica idle
        "graceful_shutdown_timeout_s": settings.drain_seconds + 10.0,
        # and must not wait before it tells us: until then new requests would be taken
        "graceful_shutdown_wait_loop_s": 0.05,
        "max_ongoing_requests": 1000,
    }
    resources: dict[str, Any] = {"num_cpus": settings.threads}
    if settings.provider != "cpu" and ray.cluster_resources().get("GPU"):
        resources["num_gpus"] = settings.gpus_per_replica  # where there is none, replicas start and say what is missing
    replicas = serve.deployment(name="replica", num_replicas=settings.replicas, ray_actor_options=resources, **common)(
        ReplicaDeployment
    )
    front = serve.deployment(name="front", num_replicas=1, ray_actor_options={"num_cpus": 0}, **common)(FrontDeployment)
    return {REPLICAS: replicas.bind(settings), FRONT: front.bind(settings)}
