"""`tiltserve front` and `tiltserve directory`: parts of a server on several hosts, without Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.commands.serve import ending_at_once
from deploy.console import fail

if TYPE_CHECKING:
    from deploy.settings import Settings

Config = Annotated[Path | None, typer.Option(metavar="FILE", help="YAML settings; also TILTSERVE_CONFIG.")]
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
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error. [info]")]
LogFormat = Annotated[str | None, typer.Option(help="Log lines as text or as json. [text]")]


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
    host: Annotated[
        str | None,
        typer.Option(help="Address of the public ports; others than loopback need TLS and tokens. [127.0.0.1]"),
    ] = None,
    announce: Annotated[
        str | None, typer.Option(metavar="HOST", help="Address by which others reach it. [this machine's]")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Public gRPC port, 0 for any free. [8001]")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Prometheus port, 0 for any free. [8002]")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option(help="Address of the metrics port. [that of --host]")] = None,
    health_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Plain HTTP for probes: /live and /ready. [not served]")
    ] = None,
    release: Release = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM certificate of the public ports; read again on change.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Authority that must have signed clients' certificates.")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of identities: tokens' hashes, rights, models, limits.")
    ] = None,
    metrics_token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the token for reading the metrics page.")
    ] = None,
    internal_tls: InternalTls = None,
    internal_token_file: InternalTokenFile = None,
    insecure: Insecure = None,
    drain_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long running requests may finish when stopping. [30]")
    ] = None,
    lame_duck_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long it serves on as NOT_SERVING when stopping. [5]")
    ] = None,
    allow_model_control: Annotated[
        bool | None,
        typer.Option("--allow-model-control/--no-model-control", help="Let clients load and unload models. [no]"),
    ] = None,
    max_message: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Most bytes of a message, decompressed. [256MiB]")
    ] = None,
    compression: Annotated[str | None, typer.Option(help="Of answers: none, gzip or deflate. [none]")] = None,
    keepalive_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How often a peer that has calls is pinged. [10]")
    ] = None,
    keepalive_timeout_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long its answer may take. [10]")
    ] = None,
    max_connection_age_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="When a client's connection is to be made anew. [never]")
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option(metavar="N", help="Most calls under way on one client's connection. [1000]")
    ] = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    access_log: Annotated[
        bool | None, typer.Option("--access-log/--no-access-log", help="Log a line for each call. [no]")
    ] = None,
    metrics_identities: Annotated[
        int | None, typer.Option(metavar="N", help="Callers that metrics count by name; others are one. [100]")
    ] = None,
    otlp: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Send traces to this OpenTelemetry collector, over gRPC.")
    ] = None,
    trace_ratio: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Requests traced, if callers have not decided it. [1]")
    ] = None,
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
