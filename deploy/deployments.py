"""The Ray Serve applications. Serve places, health-checks and restarts them; requests never pass through it.

Each deployment is a module of its own: Ray's workers import the one that they run, and the front's needs no torch.
"""

from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application

from deploy.front_deployment import FrontDeployment
from deploy.http_deployment import HttpDeployment
from deploy.replica_deployment import ReplicaDeployment
from deploy.settings import Settings

FRONT, REPLICAS, HTTP = "front", "replicas", "http"
HEALTH_S = 1.0


def applications(settings: Settings, internal: str, private: Path, sink: Path | None = None) -> dict[str, Application]:
    """The applications by name, in the order to start them.

    Args:
        internal: the token that the processes of this server share; Ray carries it, and no log.
        private: path of the front's Unix socket for these processes.
        sink: takes their log lines, see `log_lines`.
    """
    common: dict[str, Any] = {
        "health_check_period_s": HEALTH_S,
        "health_check_timeout_s": 10.0,
        # Serve sees no requests and would take the replica for idle: it must not cut a drain short
        "graceful_shutdown_timeout_s": settings.drain_seconds + 10.0,
        # and it must tell us at once: until then we would accept new requests
        "graceful_shutdown_wait_loop_s": 0.05,
        "max_ongoing_requests": 1000,
    }
    resources: dict[str, Any] = {"num_cpus": settings.threads}
    if settings.provider != "cpu" and ray.cluster_resources().get("GPU"):
        resources["num_gpus"] = settings.gpus_per_replica  # without one, replicas start and report what is missing
    replicas = serve.deployment(name="replica", num_replicas=settings.replicas, ray_actor_options=resources, **common)(
        ReplicaDeployment
    )
    light: dict[str, Any] = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}, **common}
    front = serve.deployment(name="front", **light)(FrontDeployment)
    beside = None if settings.http_port is None else private.with_name(f"{private.name}-http")
    made = {
        REPLICAS: replicas.bind(settings, internal, sink),
        FRONT: front.bind(settings, internal, private, beside, sink),
    }
    if beside is not None:
        made[HTTP] = serve.deployment(name="http", **light)(HttpDeployment).bind(settings, beside, sink)
    return made
