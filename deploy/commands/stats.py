"""`tiltserve stats`: what a running server counted of its models."""

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.connection import connected

if TYPE_CHECKING:
    from tiltserve import Client

SHOWN = ("queue", "compute_input", "compute_infer", "compute_output")
"""Parts of a request's time, as the protocol names them."""


@connected(within_s=10.0)
def stats(
    client: "Client",
    model: Annotated[str, typer.Argument(metavar="MODEL", help="One model; all of them if it is left out.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list instead of a table.")] = False,
) -> None:
    """Count requests and calls since the server began, and say where their time went."""
    counted = client.stats(model)
    if as_json:
        print(json.dumps([dataclasses.asdict(each) for each in counted], indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="times: mean milliseconds of a request", title_justify="left")
    for column in ("model", "version", "ok", "failed", "rows", "calls", "time"):
        table.add_column(column)
    for name in SHOWN:
        table.add_column(name.removeprefix("compute_"))
    for each in counted:
        done, failed = each.times["success"], each.times["fail"]
        counts = (done.count, failed.count, each.inferences, each.executions)
        means = (done, *(each.times[name] for name in SHOWN))
        table.add_row(each.name, each.version, *map(str, counts), *(f"{1e3 * spent.mean:.3g}" for spent in means))
    Console(highlight=False, markup=False).print(table)
