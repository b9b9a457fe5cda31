"""`tiltserve top`: what a running server does right now."""

import sys
import time
import urllib.error
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.connection import connected, token_of
from deploy.console import fail

if TYPE_CHECKING:
    import ssl

    from rich.console import RenderableType

    from deploy.pages import Growth, Page
    from tiltserve import Client, Fleet
    from tiltserve.address import Address

REQUESTS, SECONDS, ROWS = "tiltserve_requests_total", "tiltserve_request_seconds", "tiltserve_rows_total"
WORK = ("pack", "network", "reward", "update")
"""What the engine's thread does when it is not idle."""
INFERENCE = ("ModelInfer", "ModelStreamInfer", "SampleInteractive")
"""Methods that are asked for work; the others only look."""


@connected(within_s=10.0)
def top(
    client: "Client",
    metrics: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The metrics page; port 8002 of the server if it is left out."),
    ] = None,
    metrics_token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the token of the metrics page, if it wants one.")
    ] = None,
    every: Annotated[float, typer.Option(metavar="S", min=0.1, help="Seconds from one look to the next.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
) -> None:
    """Watch models, replicas, rows a second, times and effective sample sizes, until interrupted."""
    from rich.console import Console
    from rich.live import Live

    from deploy.pages import Growth

    look = partial(_look, *_page(client.address, metrics), token_of(metrics_token_file, "--metrics-token-file"))
    console = Console(highlight=False, markup=False)
    before = look()
    time.sleep(every)
    after = look()
    if once:
        console.print(frame(client.fleet(), Growth(before, after)))
        return
    try:
        while not console.is_terminal:  # a pipe or a file gets each frame below the one before
            console.print(frame(client.fleet(), Growth(before, after)))
            sys.stdout.flush()
            time.sleep(every)
            before, after = after, look()
        with Live(frame(client.fleet(), Growth(before, after)), console=console, auto_refresh=False) as live:
            while True:
                live.refresh()
                time.sleep(every)
                before, after = after, look()
                live.update(frame(client.fleet(), Growth(before, after)))
    except KeyboardInterrupt:
        pass


def frame(fleet: "Fleet", growth: "Growth") -> "RenderableType":
    """One picture of a server: what its counters gained between two looks."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    asked = sum(growth.rate(REQUESTS, method=method) for method in INFERENCE)
    well = sum(growth.rate(REQUESTS, method=method, code="OK") for method in INFERENCE)
    models = Table(box=None, pad_edge=False)
    for column in (
        "model",
        "state",
        "requests/s",
        "failed/s",
        "p50 ms",
        "p99 ms",
        "rows/s",
        "reward rows/s",
        "fill",
        "ESS",
    ):
        models.add_column(column, justify="left" if column in ("model", "state") else "right")
    for model in fleet.models:
        models.add_row(model.name, model.state, *_of_model(model.name, growth))
    replicas = Table(box=None, pad_edge=False)
    for column in ("replica", "pid", "rows/s", "backlog rows", "busy", ""):
        replicas.add_column(column, justify="left" if column in ("replica", "") else "right")
    for replica in fleet.replicas:
        # not 1 - idle: that is counted once a second, and looks may be nearer
        busy = sum(growth.rate("tiltserve_engine_seconds_total", phase=phase, replica_id=replica.id) for phase in WORK)
        replicas.add_row(
            replica.id[:12],
            str(replica.pid),
            f"{growth.rate(ROWS, kind='network', replica_id=replica.id):.0f}",
            str(replica.backlog_rows),
            f"{min(1.0, busy):.0%}",
            "draining" if replica.draining else "",
        )
    backlog = growth.after.total("tiltserve_backlog_rows")
    head = f"{asked:.1f} requests/s, {asked - well:.1f} failed/s, {backlog:.0f} rows to do, over {growth.seconds:.1f} s"
    return Group(Text(head), Text(), models, Text(), replicas)


def _of_model(model: str, growth: "Growth") -> tuple[str, ...]:
    asked = sum(growth.rate(REQUESTS, model=model, method=method) for method in INFERENCE)
    well = sum(growth.rate(REQUESTS, model=model, method=method, code="OK") for method in INFERENCE)
    # most requests come by one method, and quantiles of several do not add up
    busiest = max(INFERENCE, key=lambda method: growth.rate(REQUESTS, model=model, method=method))
    p50, p99 = (growth.quantile(q, SECONDS, model=model, method=busiest) for q in (0.5, 0.99))
    fill, ess = growth.mean("tiltserve_bucket_fill", model=model), growth.mean("tiltserve_ess", model=model)
    rows = (growth.rate(ROWS, model=model, kind=kind) for kind in ("network", "reward"))
    return (
        f"{asked:.1f}",
        f"{asked - well:.1f}",
        *("-" if value is None else f"{1e3 * value:.3g}" for value in (p50, p99)),
        *(f"{value:.0f}" for value in rows),
        "-" if fill is None else f"{fill:.0%}",
        "-" if ess is None else f"{ess:.3g}",
    )


def _page(address: "Address", metrics: str | None) -> tuple[str, "ssl.SSLContext | None"]:
    """The URL of the metrics page, and how it is reached: it has the TLS of the gRPC port."""
    if metrics is None and address.target.startswith("unix:"):
        fail("--metrics: expected HOST:PORT beside an address that is a socket, got none")
    secure = address.tls is not None if metrics is None or "://" not in metrics else metrics.startswith("https://")
    where = metrics or f"{address.target.rpartition(':')[0]}:8002"
    url = where if "://" in where else f"http{'s' if secure else ''}://{where}/metrics"
    if not secure:
        return url, None

    import ssl

    tls = address.tls
    context = ssl.create_default_context(cafile=None if tls is None or tls.ca is None else str(tls.ca))
    if tls is not None and tls.cert is not None:
        context.load_cert_chain(str(tls.cert), str(tls.key))
    return url, context


def _look(url: str, context: "ssl.SSLContext | None", token: str | None) -> "Page":
    from deploy.pages import read

    try:
        return read(url, {} if token is None else {"authorization": f"Bearer {token}"}, context=context)
    except urllib.error.HTTPError as error:
        fail(f"--metrics: expected a metrics page at {url}, got {error.code} {error.reason}", code=1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        fail(f"--metrics: expected a metrics page at {url}, got: {reason}", code=1)
