"""`tiltserve front` and `tiltserve directory`: parts of a server on several hosts, without Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.commands.options import (
    AccessLog,
    AllowModelControl,
    Compression,
    Config,
    DrainSeconds,
    GrpcPort,
    Host,
    KeepaliveSeconds,
    KeepaliveTimeoutSeconds,
    LogFormat,
    LogLevel,
    MaxConnectionAgeSeconds,
    MaxMessage,
    MaxStreams,
    MetricsHost,
    MetricsIdentities,
    MetricsPort,
    MetricsTokenFile,
    Otlp,
    ReadyModels,
    TlsCert,
    TlsClientCa,
    TlsKey,
    Tokens,
    TraceRatio,
)
from deploy.commands.serve import ending_at_once
from deploy.console import fail

if TYPE_CHECKING:
    from deploy.settings import Settings

Release = Annotated[str | None, typer.Option(metavar="NAME", help="The server's name among others. [tiltserve]")]
InternalTls = Annotated[
    Path | None, typer.Option(metavar="DIR", help="tls.crt, tls.key, ca.crt for mutual TLS inside the server.")
]
InternalTokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Holds the token that fronts, directories and replicas share.")
]
Insecure = Annotated[
    bool | None, typer.Option("--insecure/--no-insecure", help="Serve others than this machine without TLS. [no]")
]


def directory(
    directory_host: Annotated[str | None, typer.Option(help="Address that it binds to. [127.0.0.1]")] = None,
    directory_port: Annotated[int | None, typer.Option(metavar="PORT", help="Its port, 0 for any free. [8004]")] = None,
    release: Release = None,
    internal_tls: InternalTls = None,
    internal_token_file: InternalTokenFile = None,
    insecure: Insecure = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    config: Config = None,
) -> None:
    """Run a directory: it tells fronts on several hosts where the replicas are.

    It holds nothing that is not told again within a second. Run two, and name both to fronts and replicas: either may
    end. Prints `ready directory=HOST:PORT`.
    """
    from deploy.parts import run_directory

    _run(run_directory, config, {name: value for name, value in locals().items() if name in DIRECTORY})


def front(
    directory: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="A `tiltserve directory`; may be repeated.")
    ] = None,
    host: Host = None,
    announce: Annotated[
        str | None, typer.Option(metavar="HOST", help="Address by which others reach it. [this machine's]")
    ] = None,
    grpc_port: GrpcPort = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    health_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Plain HTTP for probes: /live and /ready. [not served]")
    ] = None,
    release: Release = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    tokens: Tokens = None,
    metrics_token_file: MetricsTokenFile = None,
    internal_tls: InternalTls = None,
    internal_token_file: InternalTokenFile = None,
    insecure: Insecure = None,
    drain_seconds: DrainSeconds = None,
    lame_duck_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long it serves on as NOT_SERVING when stopping. [5]")
    ] = None,
    ready_models: ReadyModels = None,
    allow_model_control: AllowModelControl = None,
    max_message: MaxMessage = None,
    compression: Compression = None,
    keepalive_seconds: KeepaliveSeconds = None,
    keepalive_timeout_seconds: KeepaliveTimeoutSeconds = None,
    max_connection_age_seconds: MaxConnectionAgeSeconds = None,
    max_streams: MaxStreams = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    access_log: AccessLog = None,
    metrics_identities: MetricsIdentities = None,
    otlp: Otlp = None,
    trace_ratio: TraceRatio = None,
    config: Config = None,
) -> None:
    """Run a front of a server on several hosts: the public endpoint, without models and without Ray.

    It listens at once, and is SERVING once a replica takes requests. Prints `ready grpc=HOST:PORT metrics=HOST:PORT
    models=a,b` then. On SIGTERM it is NOT_SERVING, serves on for --lame-duck-seconds, and drains.
    """
    from deploy.parts import run_front

    _run(run_front, config, {name: value for name, value in locals().items() if name in FRONT and value != []})


def _run(run: "Callable[[Settings], None]", config: Path | None, flags: dict[str, Any]) -> None:
    from deploy.settings import SettingsError, load_settings

    with ending_at_once():
        try:
            run(load_settings(config, only=flags.keys() | ALSO, **flags))
        except SettingsError as error:
            fail(str(error))


ALSO = frozenset({"socket"})
DIRECTORY = frozenset(directory.__annotations__) - {"config", "return"}
FRONT = frozenset(front.__annotations__) - {"config", "return"}
