"""What Ray prints about its processes while a server runs, as lines of the server's own form."""

import io
import re
import sys

from serving.watching.logs import Format, said

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class RaysLines(io.TextIOBase):
    """A standard output for Ray: each line that is written to it is a warning on standard error."""

    def __init__(self, form: Format) -> None:
        self._form, self._begun = form, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if plain := _COLOUR.sub("", line).strip():
                print(said(self._form, f"Ray: {plain}"), file=sys.stderr, flush=True)
        return len(text)
