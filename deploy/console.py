"""How the command line speaks: tables on standard output, one line on standard error for whatever goes wrong."""

import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

BAD_INPUT = 2


Trust = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="NAME", help="Use this model even if its rows are not independent."),
]
"""The option of commands that run a network in their own process."""


def fail(text: str, code: int = BAD_INPUT) -> NoReturn:
    """Say `error: text` in one line and end the command with `code`."""
    print("error:", " ".join(text.split()), file=sys.stderr)
    raise typer.Exit(code)


class OneLineErrors(TyperGroup):
    """A group of commands whose usage errors are one line, not a page with a frame around it."""

    def main(self, *args: Any, **options: Any) -> Any:
        options["standalone_mode"] = False  # typer then raises what it would have printed, and returns exit codes
        try:
            code = super().main(*args, **options)
        except typer.TyperException as error:
            print("error:", " ".join(error.format_message().split()), file=sys.stderr)
            code = error.exit_code
        except typer.Abort:
            code = 130
        sys.exit(code or 0)
