"""A replica as a Ray Serve deployment."""

import asyncio
from pathlib import Path

from deploy.access import internal_token, replica_guards, services
from deploy.directories import announced, directory
from deploy.private_port import keep_to
from deploy.scaling import BACKLOG
from deploy.settings import Settings
from deploy.stores import artifacts, fetched, mirror
from deploy.wiring import connections, watching
from serving.backends.opening import Opener
from serving.replica import Replica
from serving.watching import logs

HUNG_S = 300.0
"""A network call that takes longer than this is taken for hung, and its replica is replaced."""
STILL_S = 30.0
"""A replica that has not tried to tell the directory how it is for so long is replaced."""

PORT_S = 10.0
"""Seconds that a replica waits for a fixed port beyond the time in which the one before it drains."""


class ReplicaDeployment:
    """One process that holds the models."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, internal: str, sink: Path | None = None
    ) -> None:
        """See `Replica`; `internal` is the token that the processes of this server share, "" for that of the settings'
        file here; `sink` takes log lines."""
        logs.configure(settings.log_level, settings.log_format, sink)
        keep_to(settings.inner_host)
        internal = internal or internal_token(settings)
        store = mirror(settings)
        self._replica = Replica(
            await asyncio.to_thread(fetched, settings, store),
            directory(settings, internal),
            host=settings.inner_host,
            announce=announced(settings, settings.inner_host),
            ports=settings.inner_ports,
            port_s=PORT_S + settings.drain_seconds,
            threads=settings.threads,
            max_bucket=settings.max_bucket,
            max_queue_rows=settings.max_queue_rows,
            max_queue_bytes=settings.max_queue_memory,
            model_memory=settings.model_memory,
            draws_memory=settings.draws_memory,
            draws_dir=settings.draws_dir,
            draws_dir_bytes=settings.draws_dir_bytes,
            artifacts=artifacts(settings),
            ready_with_bank=settings.ready_with_bank,
            look_s=settings.poll_seconds,
            fetch=None if store is None else store.sync,
            drain_s=settings.drain_seconds,
            rewards=services(settings.rewards),
            reward_s=settings.reward_seconds,
            remembered_s=settings.reward_memory_seconds,
            answer_s=settings.answer_seconds,
            opener=opener(settings),
            trust=settings.trust,
            allow_model_control=settings.allow_model_control,
            guards=replica_guards(settings, internal),
            watching=watching(settings, "replica"),
            connections=connections(settings),
            metrics_ports=settings.replica_metrics_ports,
            identities=settings.metrics_identities,
        )
        await self._replica.start()

    async def check_health(self) -> None:
        """Called by Serve: raises when a network call or the heartbeat hangs, whatever the port says."""
        self._replica.check_health(HUNG_S, STILL_S)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve where the number of replicas follows what waits."""
        return {BACKLOG: self._replica.backlog_seconds}

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
        remote=services(settings.networks),
        remote_s=settings.network_seconds,
    )
