"""The Ray Serve applications. Serve places, health-checks and restarts them; requests never pass through it.

Each deployment is a module of its own: Ray's workers import the one that they run, and the front's needs no torch.
"""

from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from deploy.directories import named
from deploy.front_deployment import FrontDeployment
from deploy.http_deployment import HttpDeployment
from deploy.replica_deployment import ReplicaDeployment
from deploy.scaling import ByBacklog
from deploy.settings import Settings

FRONT, REPLICAS, HTTP = "front", "replicas", "http"
HEALTH_S = 1.0
TOLD_S = 1.0
"""Seconds between two reports of what waits, where the number of replicas follows it."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GRPC_VERBOSITY": "ERROR"}
"""Of processes in a cluster that somebody else started; see `deploy.cluster` for the reasons."""


def applications(
    settings: Settings, internal: str, private: Path, sink: Path | None = None, node: str | None = None
) -> dict[str, Application]:
    """The applications by name, in the order to start them.

    Args:
        internal: the token that the processes of this server share; Ray carries it, and no log.
        private: path of the front's Unix socket for these processes.
        sink: takes their log lines, see `log_lines`.
        node: in a cluster of several, the address of the node where all but the replicas run.
    """
    placed: dict[str, Any] = {"num_cpus": 0}
    if node is not None:
        placed |= {"resources": {f"node:{node}": 0.001}, "runtime_env": {"env_vars": ENVIRONMENT}}
    gpus = settings.provider != "cpu" and bool(ray.cluster_resources().get("GPU"))
    light: dict[str, Any] = {"num_replicas": 1, "ray_actor_options": placed, **_common(settings)}
    front = serve.deployment(name="front", **light)(FrontDeployment)
    beside = None if settings.http_port is None else private.with_name(f"{private.name}-http")
    made = {
        REPLICAS: replicas(settings, internal, sink, gpus=gpus, elsewhere=node is not None),
        FRONT: front.bind(settings, internal, private, beside, sink),
    }
    if beside is not None:
        made[HTTP] = serve.deployment(name="http", **light)(HttpDeployment).bind(settings, beside, sink)
    return {named(settings, name): each for name, each in made.items()}


def replicas(
    settings: Settings, internal: str = "", sink: Path | None = None, *, gpus: bool, elsewhere: bool
) -> Application:
    """The replicas.

    Args:
        internal: "" for the token of the settings' file, which each replica then reads where it runs.
        gpus: whether each needs one. Without, replicas start and report what is missing.
        elsewhere: whether they run in a cluster that somebody else started.
    """
    resources: dict[str, Any] = {"num_cpus": settings.threads}
    if gpus:
        resources["num_gpus"] = settings.gpus_per_replica
    if elsewhere:
        resources["runtime_env"] = {"env_vars": ENVIRONMENT}
    alone: dict[str, Any] = {"max_replicas_per_node": 1} if settings.replica_port is not None else {}
    made = serve.deployment(
        name="replica", ray_actor_options=resources, **_number(settings), **alone, **_common(settings)
    )(ReplicaDeployment)
    return made.bind(settings, internal, sink)


def _number(settings: Settings) -> dict[str, Any]:
    """How many replicas: fixed, or by what waits."""
    if settings.most_replicas == settings.replicas:
        return {"num_replicas": settings.replicas}
    policy = AutoscalingPolicy(
        policy_function=f"{ByBacklog.__module__}:{ByBacklog.__name__}",
        policy_kwargs={"target_s": settings.target_backlog_seconds},
    )
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=settings.replicas,
            max_replicas=settings.most_replicas,
            metrics_interval_s=TOLD_S,
            look_back_period_s=2 * TOLD_S,
            upscale_delay_s=settings.scale_out_seconds,
            downscale_delay_s=settings.scale_in_seconds,
            policy=policy,
        )
    }


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "health_check_period_s": HEALTH_S,
        "health_check_timeout_s": 10.0,
        # Serve sees no requests and would take the replica for idle: it must not cut a drain short
        "graceful_shutdown_timeout_s": settings.drain_seconds + (settings.lame_duck_seconds or 0.0) + 10.0,
        # and it must tell us at once: until then we would accept new requests
        "graceful_shutdown_wait_loop_s": 0.05,
        "max_ongoing_requests": 1000,
    }
