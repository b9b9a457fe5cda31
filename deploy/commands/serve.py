"""`tiltserve serve`: start the server and keep it up until it is told to stop."""

import contextlib
import os
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

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
from deploy.console import fail


def serve(
    models: Annotated[
        str | None,
        typer.Option(metavar="DIR|URL", help="The model repository: a folder, s3://, gs://, http:// or https://."),
    ] = None,
    models_cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keeps a store's models here. [~/.cache/tiltserve/models]")
    ] = None,
    models_poll_seconds: Annotated[
        float | None,
        typer.Option(metavar="S", help="How often it is looked at for what is new, 0: never. [30; DIR: 0]"),
    ] = None,
    host: Host = None,
    socket: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Unix socket in place of the gRPC port, for this user alone.")
    ] = None,
    metrics_host: MetricsHost = None,
    replica_host: Annotated[str | None, typer.Option(help="Address of replicas and Ray. [127.0.0.1]")] = None,
    release: Annotated[
        str | None, typer.Option(metavar="NAME", help="The server's name among others of a cluster. [tiltserve]")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="auto|HOST:PORT", help="A Ray cluster that this machine is a node of. [one of its own]"),
    ] = None,
    directory: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="A `tiltserve directory` of several hosts; may be repeated. [in Ray]"),
    ] = None,
    announce: Annotated[
        str | None, typer.Option(metavar="HOST", help="Address by which others reach this machine. [its own]")
    ] = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    tokens: Tokens = None,
    metrics_token_file: MetricsTokenFile = None,
    internal_tls: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="tls.crt, tls.key, ca.crt for mutual TLS between front and replicas."),
    ] = None,
    internal_token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the token that fronts, directories and replicas share. [made]"),
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure/--no-insecure", help="Serve others than this machine without TLS or tokens. [no]"),
    ] = None,
    grpc_port: GrpcPort = None,
    metrics_port: MetricsPort = None,
    http_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="OpenAI's images API over HTTP, 0 for any free port. [not served]"),
    ] = None,
    http_allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Pages that may call it from a browser, https://HOST; may be repeated."),
    ] = None,
    http_allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name it is called by without tokens or TLS; may be repeated."),
    ] = None,
    replicas: Annotated[int | None, typer.Option(metavar="N", help="Processes that hold the models. [1]")] = None,
    max_replicas: Annotated[
        int | None, typer.Option(metavar="N", help="Most of them, where more are started as work waits. [--replicas]")
    ] = None,
    target_backlog_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Work that each may have before it until there are more. [5]")
    ] = None,
    scale_out_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long more must be wanted before they start. [5]")
    ] = None,
    scale_in_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long fewer must be wanted before some drain. [120]")
    ] = None,
    threads_per_replica: Annotated[
        int | None, typer.Option(metavar="N", help="Threads of one replica's networks. [cores / most replicas]")
    ] = None,
    max_bucket: Annotated[int | None, typer.Option(metavar="ROWS", help="Most rows in one network call. [256]")] = None,
    max_queue_rows: Annotated[
        int | None, typer.Option(metavar="ROWS", help="Network rows a replica takes on before it refuses more.")
    ] = None,
    max_queue_memory: Annotated[
        str | None, typer.Option(metavar="BYTES", help="About the most memory of a replica's requests. [4GiB]")
    ] = None,
    model_memory: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Most memory of a replica's models, such as 4GiB; idle ones make room."),
    ] = None,
    draws_memory: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Most memory of a replica's draws for steering under conditions. [1GiB]"),
    ] = None,
    draws_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keeps such draws for all replicas and later starts. [not kept]")
    ] = None,
    draws_dir_bytes: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Most bytes of files in that folder. [8GiB]")
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(metavar="DIR|URL", help="Keeps banks and costs for all replicas and later starts. [not kept]"),
    ] = None,
    ready_with_bank: Annotated[
        bool | None,
        typer.Option("--ready-with-bank/--ready-at-once", help="Models are ready only with their banks. [at once]"),
    ] = None,
    ready_models: ReadyModels = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Serve this model even if its rows are not independent, with a warning; may be repeated.",
        ),
    ] = None,
    provider: Annotated[
        str | None, typer.Option(metavar="NAME", help="What runs the networks: cpu, cuda or tensorrt. [cpu]")
    ] = None,
    gpus_per_replica: Annotated[
        float | None, typer.Option(metavar="N", help="GPUs of one replica with cuda or tensorrt. [1]")
    ] = None,
    tensorrt_cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keeps TensorRT's engines. [~/.cache/tiltserve/tensorrt]")
    ] = None,
    tensorrt_fp16: Annotated[
        bool | None, typer.Option("--tensorrt-fp16/--no-tensorrt-fp16", help="Let TensorRT compute in float16. [no]")
    ] = None,
    networks: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            metavar="NAME=HOST:PORT[/MODEL]",
            help="A model whose network runs on another KServe v2 server; may be repeated.",
        ),
    ] = None,
    network_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long a call to such a server may take. [30]")
    ] = None,
    drain_seconds: DrainSeconds = None,
    lame_duck_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long it serves on as NOT_SERVING when stopping. [0]")
    ] = None,
    replica_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="The replica's own port, one replica a machine. [any free]")
    ] = None,
    replica_ports: Annotated[
        str | None, typer.Option(metavar="LOW-HIGH", help="Ports of the replicas' own servers. [any free]")
    ] = None,
    replica_metrics_ports: Annotated[
        str | None, typer.Option(metavar="LOW-HIGH", help="Ports of pages with each replica's own metrics. [no pages]")
    ] = None,
    metrics_identities: MetricsIdentities = None,
    rewards: Annotated[
        list[str] | None,
        typer.Option(
            "--reward",
            metavar="NAME=HOST:PORT",
            help="A reward that its owner serves as tiltserve.v1.Reward; may be repeated.",
        ),
    ] = None,
    reward_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long a call to such a reward may take. [30]")
    ] = None,
    reward_memory_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long its scores of a bank are used again, 0: never. [600]")
    ] = None,
    answer_seconds: Annotated[
        float | None,
        typer.Option(metavar="S", help="How long a client may take to score candidates, or to read a path. [60]"),
    ] = None,
    allow_model_control: AllowModelControl = None,
    allow_shared_memory: Annotated[
        bool | None,
        typer.Option(
            "--allow-shared-memory/--no-shared-memory",
            help="Let clients of this machine leave tensors in its shared memory. [no]",
        ),
    ] = None,
    max_message: MaxMessage = None,
    compression: Compression = None,
    keepalive_seconds: KeepaliveSeconds = None,
    keepalive_timeout_seconds: KeepaliveTimeoutSeconds = None,
    max_connection_age_seconds: MaxConnectionAgeSeconds = None,
    max_streams: MaxStreams = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    access_log: AccessLog = None,
    otlp: Otlp = None,
    trace_ratio: TraceRatio = None,
    config: Config = None,
) -> None:
    """Serve a model repository over gRPC until interrupted.

    Flags win over TILTSERVE_* variables, those over the file, that over the defaults.
    Prints `ready grpc=HOST:PORT metrics=HOST:PORT models=a,b` once every model answers, and ` http=HOST:PORT` behind it
    with --http-port.
    """
    flags = {name: value for name, value in locals().items() if name in SETTINGS and value != []}
    with ending_at_once():
        code = _run(config, flags)
    raise typer.Exit(code)


def _run(config: Path | None, flags: dict[str, Any]) -> int:
    from deploy.settings import SettingsError, load_settings

    try:
        settings = load_settings(config, **flags)
    except SettingsError as error:
        fail(str(error))

    from deploy.application import serve as run  # Ray and torch: after the settings, so that mistakes show at once
    from deploy.cluster import StartError

    try:
        return run(settings)
    except SettingsError as error:
        fail(str(error))
    except Exception as error:
        if settings.log_level == "debug":
            traceback.print_exc()
        with contextlib.suppress(typer.Exit):
            fail(str(error) if isinstance(error, StartError) else f"{type(error).__name__}: {error}", code=1)
        os._exit(1)  # Ray, whatever is left of it, would look for its head for a minute when Python exits


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Until the server listens to signals itself, one ends the command with exit code 0: nothing was started yet."""
    before = {number: signal.signal(number, lambda *_: os._exit(0)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


SETTINGS = frozenset(serve.__annotations__) - {"config", "return"}
