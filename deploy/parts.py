"""Parts of a server that run without Ray, each in a process of its own: a front, and a directory."""

import asyncio
import contextlib
import os
import signal
import sys

# before gRPC is imported: else every handshake that fails is a line, and a port that is taken is two
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from deploy.access import check_guards, inside, internal_token
from deploy.fronts import made_front
from deploy.settings import Settings, SettingsError
from deploy.wiring import connections
from serving.fleet.server import DirectoryServer
from serving.front.probes import Probes
from serving.front.server import Front
from serving.front.unix import PortError
from serving.watching import logs

LAME_DUCK_S = 5.0
STILL_S = 60.0
"""A front that has not tried to read a directory for so long is not alive."""


def run_front(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then drain. Prints `ready grpc=HOST:PORT metrics=HOST:PORT models=a,b` once a
    model answers; until then it listens and reports NOT_SERVING.

    Raises:
        SettingsError: a file cannot be used, a port is taken, or no directory is named.
    """
    if not settings.directory:
        raise SettingsError("directory: expected HOST:PORT (--directory) of a `tiltserve directory`, got none")
    check_guards(settings)
    logs.configure(settings.log_level, settings.log_format)
    asyncio.run(_front(settings))


def run_directory(settings: Settings) -> None:
    """Serve a directory until SIGINT or SIGTERM. Prints `ready directory=HOST:PORT`.

    Raises:
        SettingsError: a file cannot be used, the port is taken, or nobody would need a token.
    """
    if settings.internal_token_file is None and not settings.insecure:
        raise SettingsError(
            "internal_token_file: expected a file (--internal-token-file), or --insecure, got none: whoever reaches "
            "the directory could have requests sent to replicas of his own"
        )
    guards = inside(settings, internal_token(settings))
    logs.configure(settings.log_level, settings.log_format)
    asyncio.run(
        _directory(
            settings,
            DirectoryServer(
                release=settings.release,
                host=settings.directory_host,
                port=settings.directory_port,
                inside=guards,
                connections=connections(settings),
            ),
        )
    )


async def _front(settings: Settings) -> None:
    stop, again = _signalled()
    front = made_front(settings, internal_token(settings), lame_duck_s=LAME_DUCK_S)
    try:
        await front.start()
    except PortError as error:
        raise SettingsError(str(error)) from None
    try:
        probes = _probes(settings, front)
    except OSError as error:
        await front.stop()
        wanted = f"a free port, got {settings.health_port}"
        raise SettingsError(f"health_port: expected {wanted}: {error.strerror or error}") from None
    telling = asyncio.create_task(_tell(front))
    await stop.wait()
    telling.cancel()
    hurrying = asyncio.create_task(_hurry(front, again))
    await front.stop()  # probes are answered until it has drained
    hurrying.cancel()
    if probes is not None:
        await asyncio.to_thread(probes.close)


def _probes(settings: Settings, front: Front) -> Probes | None:
    if settings.health_port is None:
        return None
    host = settings.metrics_host or settings.host
    return Probes(host, settings.health_port, live=lambda: front.check_health(STILL_S), ready=lambda: front.fault)


async def _hurry(front: Front, again: asyncio.Event) -> None:
    await again.wait()
    front.hurry()


async def _tell(front: Front) -> None:
    names = await front.ready()
    _print(f"ready grpc={front.grpc_address} metrics={front.metrics_address} models={','.join(names)}")


async def _directory(settings: Settings, server: DirectoryServer) -> None:
    stop, _ = _signalled()
    try:
        await server.start()
    except RuntimeError as error:
        raise SettingsError(str(error)) from None
    _print(f"ready directory={server.address}")
    await stop.wait()
    await server.stop()


def _signalled() -> tuple[asyncio.Event, asyncio.Event]:
    """Set by the first SIGINT or SIGTERM, and by the next one."""
    first, again = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, lambda: (again if first.is_set() else first).set())
    return first, again


def _print(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        print(line, file=sys.stdout, flush=True)
