"""`tiltserve load` and `tiltserve unload`: which models of its folder a running server holds."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.connection import connected

if TYPE_CHECKING:
    from tiltserve import Client

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")]


@connected()
def load(client: "Client", model: Model) -> None:
    """Load a model's newest version, or load it again; it takes over when it is ready."""
    client.load(model)
    versions = {each.name: each.versions for each in client.models()}.get(model, [])
    print(f"{model} is ready" + (f", version {versions[-1]}" if versions else ""))


@connected()
def unload(client: "Client", model: Model) -> None:
    """Take a model out of the server once its requests are done."""
    client.unload(model)
    print(f"{model} is unloaded")
