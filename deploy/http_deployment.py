"""The HTTP endpoint as a Ray Serve deployment: a process of its own, without models and without rights."""

from pathlib import Path

from deploy.access import front_guards
from deploy.http.server import Endpoint
from deploy.private_port import keep_to
from deploy.settings import Settings
from serving.front import unix
from serving.watching import logs


class HttpDeployment:
    """OpenAI's images API."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, upstream: Path, sink: Path | None = None
    ) -> None:
        """See `Endpoint`; `upstream` is the front's socket for it, `sink` takes log lines."""
        logs.configure(settings.log_level, settings.log_format, sink)
        keep_to(settings.inner_host)
        assert settings.http_port is not None
        guards = front_guards(settings, "")
        self._endpoint = Endpoint(
            unix.address(upstream),
            host=settings.host,
            port=settings.http_port,
            certificates=guards.certificates,
            tokens=guards.tokens,
            origins=settings.http_allow_origin,
            hosts=settings.http_allow_host,
            drain_s=settings.drain_seconds,
        )
        await self._endpoint.start()

    async def check_health(self) -> None:
        """Called by Serve: raises when the endpoint does not listen."""
        self._endpoint.check_health()

    async def __del__(self) -> None:
        await self._endpoint.stop()
