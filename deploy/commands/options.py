"""Options that commands which serve have in common; each is a setting of the same name."""

from pathlib import Path
from typing import Annotated

import typer

Host = Annotated[
    str | None,
    typer.Option(help="Address of the public ports; others than loopback need TLS and tokens. [127.0.0.1]"),
]
MetricsHost = Annotated[str | None, typer.Option(help="Address of the metrics port. [that of --host]")]
TlsCert = Annotated[
    Path | None, typer.Option(metavar="FILE", help="PEM certificate of the public ports; read again on change.")
]
TlsKey = Annotated[Path | None, typer.Option(metavar="FILE", help="Its key.")]
TlsClientCa = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Authority that must have signed clients' certificates.")
]
Tokens = Annotated[
    Path | None, typer.Option(metavar="FILE", help="YAML of identities: tokens' hashes, rights, models, limits.")
]
MetricsTokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Holds the token for reading the metrics page.")
]
GrpcPort = Annotated[int | None, typer.Option(metavar="PORT", help="Public gRPC port, 0 for any free. [8001]")]
MetricsPort = Annotated[int | None, typer.Option(metavar="PORT", help="Prometheus port, 0 for any free. [8002]")]
DrainSeconds = Annotated[
    float | None, typer.Option(metavar="S", help="How long running requests may finish when stopping. [30]")
]
MetricsIdentities = Annotated[
    int | None, typer.Option(metavar="N", help="Callers that metrics count by name; others are one. [100]")
]
AllowModelControl = Annotated[
    bool | None,
    typer.Option(
        "--allow-model-control/--no-model-control",
        help="Let clients load and unload models. [no]",
    ),
]
MaxMessage = Annotated[
    str | None, typer.Option(metavar="BYTES", help="Most bytes of a message, decompressed. [256MiB]")
]
Compression = Annotated[str | None, typer.Option(help="Of answers: none, gzip or deflate. [none]")]
KeepaliveSeconds = Annotated[
    float | None, typer.Option(metavar="S", help="How often a peer that has calls is pinged. [10]")
]
KeepaliveTimeoutSeconds = Annotated[float | None, typer.Option(metavar="S", help="How long its answer may take. [10]")]
MaxConnectionAgeSeconds = Annotated[
    float | None, typer.Option(metavar="S", help="When a client's connection is to be made anew. [never]")
]
MaxStreams = Annotated[
    int | None, typer.Option(metavar="N", help="Most calls under way on one client's connection. [1000]")
]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error. [info]")]
LogFormat = Annotated[str | None, typer.Option(help="Log lines as text or as json. [text]")]
AccessLog = Annotated[bool | None, typer.Option("--access-log/--no-access-log", help="Log a line for each call. [no]")]
Otlp = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Send traces to this OpenTelemetry collector, over gRPC.")
]
TraceRatio = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Requests traced, if callers have not decided it. [1]")
]
ReadyModels = Annotated[
    list[str] | None,
    typer.Option("--ready-model", metavar="NAME", help="The front is not ready before this model is; may be repeated."),
]
Config = Annotated[Path | None, typer.Option(metavar="FILE", help="YAML settings; also TILTSERVE_CONFIG.")]
