"""The front as a Ray Serve deployment. Its process imports this module, and with it neither torch nor steering."""

from pathlib import Path

from deploy.fronts import made_front
from deploy.private_port import keep_to
from deploy.settings import Settings
from serving.watching import logs

STILL_S = 30.0
"""A front whose view of the fleet is older than this is replaced."""


class FrontDeployment:
    """The public endpoint."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, internal: str, private: Path, beside: Path | None = None, sink: Path | None = None
    ) -> None:
        """See `Front`; `internal` is the token that the processes of this server share, `sink` takes log lines."""
        logs.configure(settings.log_level, settings.log_format, sink)
        keep_to(settings.inner_host)
        self._front = made_front(settings, internal, private=private, beside=beside)
        await self._front.start()

    async def check_health(self) -> None:
        """Called by Serve: raises when the front no longer follows the fleet or no longer listens."""
        await self._front.check_health(STILL_S)

    async def __del__(self) -> None:
        await self._front.stop()
