"""`tiltserve models`: what a running server serves, and by which replicas."""

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.commands.connection import connected

if TYPE_CHECKING:
    from tiltserve import Client


@connected(within_s=10.0)
def models(
    client: "Client",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """List models with their versions and state, and replicas with their process ids."""
    fleet = dataclasses.asdict(client.fleet())
    if as_json:
        print(json.dumps(fleet, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    for title, rows in fleet.items():
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in rows[0] if rows else ():
            table.add_column(column)
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        if rows:
            console.print(table)
        else:
            console.print(f"no {title}")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={text[:12]}" for key, text in value.items())
    return str(value)
