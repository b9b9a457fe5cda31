"""The options of every command that asks a running server, in one place, and the client that they make."""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console import fail

if TYPE_CHECKING:
    from tiltserve import Client

TOKEN, ADDRESS = "TILTSERVE_TOKEN", "TILTSERVE_ADDRESS"
"""Environment variables of the commands; no settings of a server."""
_PANEL = "Connection"


def connected(within_s: float | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a command of a function whose first argument is a `Client`: it gets the options of a connection besides its
    own, and what the server refuses ends it with one line.

    Args:
        within_s: the default of --timeout in seconds, None for no end.
    """

    def made(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            from tiltserve import InvalidArgument, NotFound, TiltserveError

            with _client(**{name: given.pop(name) for name in _options}) as client:
                try:
                    command(client, **given)
                except TiltserveError as error:
                    fail(str(error), code=2 if isinstance(error, InvalidArgument | NotFound) else 1)

        _, *own = inspect.signature(command).parameters.values()
        parameters = [*own, *({**_options, "timeout": _options["timeout"].replace(default=within_s)}.values())]
        del run.__dict__["__wrapped__"]  # typer would read the signature of what is wrapped
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return made


def _taken(
    address: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar=ADDRESS,
            help="The server: HOST:PORT, grpc://..., grpcs://... (TLS) or unix:/path.",
            rich_help_panel=_PANEL,
        ),
    ] = "127.0.0.1:8001",
    timeout: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.001, help="Give up after this many seconds.", rich_help_panel=_PANEL),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"Holds the bearer token; without it, {TOKEN} does.", rich_help_panel=_PANEL),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificates to trust, PEM; asks for TLS.", rich_help_panel=_PANEL),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The client's own certificate, PEM.", rich_help_panel=_PANEL)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The key of --tls-cert, PEM.", rich_help_panel=_PANEL)
    ] = None,
) -> None:
    """Its parameters are the options."""


_options = dict(inspect.signature(_taken).parameters)


def _client(
    address: str,
    timeout: float | None,
    token_file: Path | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> "Client":
    from tiltserve import TLS, Client, InvalidArgument

    try:
        tls = None if (tls_ca, tls_cert, tls_key) == (None,) * 3 else TLS(tls_ca, tls_cert, tls_key)
        token = token_of(token_file, "--token-file") or os.environ.get(TOKEN, "").strip() or None
        # somebody at a terminal tries again; what waits for a server asks more often
        return Client(address, token=token, tls=tls, timeout=timeout, retries=0)
    except InvalidArgument as error:
        name, _, rest = error.message.partition(": ")
        fail(f"{ {'url': '--address', 'tls': '--tls-ca, --tls-cert and --tls-key'}.get(name, name) }: {rest}")


def token_of(file: Path | None, option: str) -> str | None:
    """The token in a file, None without one; it is in no message."""
    if file is None:
        return None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        fail(f"{option}: expected a readable file, got {str(file)!r}: {reason}")
    if not token:
        fail(f"{option}: expected a token in {str(file)!r}, got nothing")
    return token
