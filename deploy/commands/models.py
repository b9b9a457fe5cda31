"""`tiltserve models`: what a running server serves, and by which replicas."""

import json
from typing import Annotated, Any

import typer

from deploy.console import fail


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")] = "127.0.0.1:8001",
    timeout: Annotated[float, typer.Option(metavar="S", help="Give up after this many seconds.")] = 10.0,
) -> None:
    """List models with their versions and state, and replicas with their process ids."""
    fleet = _list(address, timeout)
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


def _list(address: str, timeout: float) -> dict[str, list[dict[str, Any]]]:
    import grpc

    from protos.tiltserve.v1 import fleet_pb2, fleet_pb2_grpc
    from serving.wire import channels

    try:
        with grpc.insecure_channel(address, options=channels.to_server(address)) as channel:
            reply = fleet_pb2_grpc.FleetStub(channel).ListModels(fleet_pb2.ListModelsRequest(), timeout=timeout)
    except grpc.RpcError as error:
        fail(f"{error.code().name}: {error.details()}", code=1)
    return {
        "models": [
            {
                "name": model.name,
                "kind": model.kind,
                "versions": list(model.versions),
                "state": model.state,
                "reason": model.reason,
            }
            for model in reply.models
        ],
        "replicas": [
            {
                "id": replica.id,
                "address": replica.address,
                "pid": replica.pid,
                "backlog_rows": replica.backlog_rows,
                "draining": replica.draining,
                "fingerprints": dict(sorted(replica.fingerprints.items())),
            }
            for replica in reply.replicas
        ],
    }


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={text[:12]}" for key, text in value.items())
    return str(value)
