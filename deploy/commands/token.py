"""`tiltserve token`: a new token for an identity."""

import sys
from typing import Annotated

import typer

from deploy.console import fail


def token(
    name: Annotated[str, typer.Argument(help="The identity.")],
    rights: Annotated[
        list[str] | None, typer.Option("--right", metavar="NAME", help="May be repeated. [metadata, inference]")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="PATTERN", help="May be repeated. [all]")
    ] = None,
) -> None:
    """Make a token: it is printed once, on standard output; what goes into the file of --tokens, on standard error."""
    import yaml
    from pydantic import ValidationError

    from protos.complaint import complaint
    from serving.access.tokens import File, hashed, new_token

    made = new_token()
    entry = {"sha256": [hashed(made)], "rights": rights or ["metadata", "inference"], "models": models or ["*"]}
    lines = {"identities": {name: entry}}
    try:
        File.model_validate(lines)
    except ValidationError as error:
        fail(complaint(error, File))
    print(yaml.safe_dump(lines, sort_keys=False, default_flow_style=None, width=200), end="", file=sys.stderr)
    print(made)
