"""`tiltserve load` and `tiltserve unload`: which models of its folder a running server holds."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.connection import connected
from protos.complaint import unknown

if TYPE_CHECKING:
    from tiltserve import Client

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")]


@connected()
def load(client: "Client", model: Model) -> None:
    """Load a model's newest version, or load it again; it takes over when it is ready."""
    client.load(model)
    versions = (_versions(client) or {}).get(model, [])
    print(f"{model} is ready" + (f", version {versions[-1]}" if versions else ""))


@connected()
def unload(client: "Client", model: Model) -> None:
    """Take a model out of the server once its requests are done."""
    from tiltserve import NotFound

    client.unload(model)
    known = _versions(
        client
    )  # an unloaded model stays in the list; to unload one that there is not is no error of the wire
    if known is not None and model not in known:
        raise NotFound(unknown("model", model, known))
    print(f"{model} is unloaded")


def _versions(client: "Client") -> dict[str, list[str]] | None:
    """The versions of each model; None for a caller who may change models and not list them."""
    from tiltserve import PermissionDenied

    try:
        return {each.name: each.versions for each in client.models()}
    except PermissionDenied:
        return None
