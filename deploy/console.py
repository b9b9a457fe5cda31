"""How the command line speaks: tables on standard output, one line on standard error for whatever goes wrong."""

import contextlib
import os
import sys
from pathlib import Path
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
            sys.stdout.flush()  # a full disk is told of here, not by Python when it has ended
        except typer.TyperException as error:
            print("error:", " ".join(error.format_message().split()), file=sys.stderr)
            code = error.exit_code
        except typer.Abort:
            code = 130
        except OSError as error:
            if not isinstance(error, BrokenPipeError):  # a reader that left has seen enough
                print("error:", error, file=sys.stderr)
            with contextlib.suppress(OSError), Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())  # Python would try what is left again at its end
            code = 1
        sys.exit(code or 0)
