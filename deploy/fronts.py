"""A front as the settings say, wherever it runs. Imports no torch, no steering, and Ray only for a front in Ray."""

from pathlib import Path

from deploy.access import front_guards
from deploy.directories import announced, directory
from deploy.settings import Settings
from deploy.wiring import connections, watching
from serving.front.server import Front


def made_front(
    settings: Settings,
    internal: str,
    *,
    private: Path | None = None,
    beside: Path | None = None,
    lame_duck_s: float = 0.0,
) -> Front:
    """A front that was not started.

    Args:
        internal: the token that the processes of this server share.
        private, beside: paths of Unix sockets, see `Front`.
        lame_duck_s: unless the settings say it.
    """
    return Front(
        directory(settings, internal),
        host=settings.host,
        announce=announced(settings, settings.host),
        grpc_port=settings.grpc_port,
        metrics_port=settings.metrics_port,
        metrics_host=settings.metrics_host,
        socket=settings.socket,
        private=private,
        beside=beside,
        guards=front_guards(settings, internal),
        drain_s=settings.drain_seconds,
        lame_duck_s=lame_duck_s if settings.lame_duck_seconds is None else settings.lame_duck_seconds,
        allow_model_control=settings.allow_model_control,
        allow_shared_memory=settings.allow_shared_memory,
        watching=watching(settings, "front"),
        connections=connections(settings),
        metrics_identities=settings.metrics_identities,
        ready_models=settings.ready_models,
    )
