"""Which lines a process logs, changed while it runs: Triton's log settings on Python's loggers.

Each kind of line is on or off by itself. They act on the handlers of the root logger, where all lines of the process
end up; third parties' debugging is never among them.
"""

import logging
from dataclasses import dataclass
from typing import Self

OURS = ("serving", "deploy", "steering", "protos", "exporters", "tiltserve")
"""Loggers whose debugging is logged, with those below them."""
_NONE = logging.CRITICAL + 1


@dataclass(frozen=True)
class LogLevels:
    """Kinds of lines that are logged; `verbose` is more than 0 for debugging."""

    info: bool
    warning: bool
    error: bool
    verbose: int = 0

    @classmethod
    def current(cls) -> Self:
        """Those of this process."""
        root = logging.getLogger()
        for chosen in (each for handler in root.handlers for each in handler.filters if isinstance(each, _Chosen)):
            return cls(chosen.levels.info, chosen.levels.warning, chosen.levels.error, chosen.levels.verbose)
        info, warning, error = (root.level <= each for each in (logging.INFO, logging.WARNING, logging.ERROR))
        return cls(info, warning, error, int(root.level <= logging.DEBUG))

    def choose(self) -> None:
        """Make them those of this process, from now on."""
        root = logging.getLogger()
        for handler in root.handlers:
            for old in [each for each in handler.filters if isinstance(each, _Chosen)]:
                handler.removeFilter(old)
            handler.addFilter(_Chosen(self))
        least = (
            (self.verbose > 0, logging.DEBUG), (self.info, logging.INFO), (self.warning, logging.WARNING),
            (self.error, logging.ERROR),
        )  # fmt: skip
        root.setLevel(next((level for on, level in least if on), _NONE))


class _Chosen(logging.Filter):
    """Lets lines of the chosen kinds through."""

    def __init__(self, levels: LogLevels) -> None:
        super().__init__()
        self.levels = levels

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            return self.levels.error
        if record.levelno >= logging.WARNING:
            return self.levels.warning
        if record.levelno >= logging.INFO:
            return self.levels.info
        return self.levels.verbose > 0 and record.name.partition(".")[0] in OURS
