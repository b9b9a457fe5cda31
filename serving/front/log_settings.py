"""LogSettings: which lines the front and all replicas log, changed while they run."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from protos.complaint import unknown
from protos.tiltserve.v1 import fleet_pb2
from serving.front.links import Links
from serving.front.part import Answer
from serving.front.roster import Roster
from serving.log_levels import LogLevels
from serving.wire import errors

ANSWER_S = 2.0
"""Seconds in which a replica changes what it logs."""
FORMAT = "ISO8601"
"""How times of lines are written."""
_FLAGS = {"log_info": "info", "log_warning": "warning", "log_error": "error"}
_VERBOSE, _FORM, _FILE = "log_verbose_level", "log_format", "log_file"
_MOST_VERBOSE = 2**31 - 1


class LogSettings:
    """The RPC. Replicas that start after a change are told of it as soon as this front knows of them."""

    extensions = ("logging",)

    def __init__(self, roster: Roster, links: Links) -> None:
        self._roster, self._links = roster, links
        self._changed: LogLevels | None = None
        self._told: set[str] = set()
        self.answers: Mapping[str, Answer] = {"LogSettings": self._answer}

    async def catch_up(self) -> None:
        """Tell replicas that do not know of a change yet; those that do not answer are asked again."""
        levels, listed = self._changed, self._roster.index.replicas
        if levels is None:
            return
        self._told &= {each.id for each in listed}
        missing = [each for each in listed if each.id not in self._told]
        outcomes = await asyncio.gather(
            *(self._links.to(each).log(_message(levels), ANSWER_S) for each in missing), return_exceptions=True
        )
        if levels is self._changed:  # else they are told again
            self._told |= {each.id for each, error in zip(missing, outcomes, strict=True) if error is None}

    async def _answer(self, request: pb.LogSettingsRequest) -> Message:
        if request.settings:
            changes = dict(_change(name, value) for name, value in request.settings.items() if name != _FORM)
            if _FORM in request.settings:
                _check_format(request.settings[_FORM])
            levels = replace(LogLevels.current(), **changes)
            levels.choose()
            self._changed, self._told = levels, set()
            await self.catch_up()
            late = sorted({each.id for each in self._roster.index.replicas} - self._told)
            if late and levels is self._changed:  # else a later change counts, and it says who did not answer
                raise errors.unavailable(f"log settings: replica {', '.join(late)} did not answer yet, others changed")
        return _shown(LogLevels.current())


def _change(name: str, value: pb.LogSettingsRequest.SettingValue) -> tuple[str, Any]:
    """A field of `LogLevels` and its value."""
    if name == _FILE:
        raise errors.unimplemented(f"setting {name!r} cannot be changed: lines go where the server was started to log")
    known = (*_FLAGS, _VERBOSE, _FORM)
    if name not in known:
        raise errors.invalid(unknown("setting", name, known))
    kind = value.WhichOneof("parameter_choice")
    wanted = "uint32_param" if name == _VERBOSE else "bool_param"
    if kind != wanted:
        raise errors.invalid(f"setting {name!r}: expected {wanted}, got {kind or 'none'}")
    given = getattr(value, wanted)
    if name == _VERBOSE and given > _MOST_VERBOSE:
        raise errors.invalid(f"setting {name!r}: expected a whole number in 0..{_MOST_VERBOSE}, got {given}")
    return _FLAGS.get(name, "verbose"), given


def _check_format(value: pb.LogSettingsRequest.SettingValue) -> None:
    if value.string_param != FORMAT:
        raise errors.invalid(f"setting {_FORM!r}: expected {FORMAT!r}, got {value.string_param!r}")


def _message(levels: LogLevels) -> fleet_pb2.LogLevels:
    return fleet_pb2.LogLevels(info=levels.info, warning=levels.warning, error=levels.error, verbose=levels.verbose)


def _shown(levels: LogLevels) -> pb.LogSettingsResponse:
    value = pb.LogSettingsResponse.SettingValue
    return pb.LogSettingsResponse(
        settings={
            _FILE: value(string_param=""),
            **{name: value(bool_param=getattr(levels, field)) for name, field in _FLAGS.items()},
            _VERBOSE: value(uint32_param=levels.verbose),
            _FORM: value(string_param=FORMAT),
        }
    )
