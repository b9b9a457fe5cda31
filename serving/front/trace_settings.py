"""Which requests are traced: Triton's TraceSetting, for the whole server and for single models.

What a trace is and where it goes is not decided here: who makes traces asks `TraceSettings.sampled` once a request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from protos.complaint import unknown
from serving.front import router
from serving.front.part import Answer
from serving.front.roster import Roster
from serving.wire import errors

LEVELS = ("OFF", "TIMESTAMPS")
_MOST = 2**31 - 1
_FIXED = {
    "log_frequency": "spans are sent by the server's own schedule",
    "trace_file": "spans go to the server's collector, not to a file",
    "trace_mode": "the server makes OpenTelemetry spans and no others",
}
"""Settings that are shown and cannot be changed, and why."""


@dataclass(frozen=True)
class Setting:
    """What decides whether a request is traced.

    Attributes:
        level: OFF or TIMESTAMPS.
        rate: every how many requests one is traced.
        count: how many are still to be traced, -1 for no limit.
    """

    level: str = "OFF"
    rate: int = 1000
    count: int = -1


@dataclass
class _Sampling:
    """A setting, and what became of it: requests that were asked about, and those that were traced."""

    setting: Setting
    asked: int = 0
    traced: int = 0

    @property
    def left(self) -> int:
        """Requests still to be traced, -1 for no limit."""
        return -1 if self.setting.count < 0 else max(0, self.setting.count - self.traced)

    def sampled(self) -> bool:
        if self.setting.level == "OFF" or self.left == 0:
            return False
        self.asked += 1
        if (self.asked - 1) % self.setting.rate:
            return False
        self.traced += 1
        return True


@dataclass
class TraceSettings:
    """The settings of one front; for one event loop. A model has the server's settings until it is given its own.

    Args:
        initial: the server's settings at its start, which clients return to by clearing one.
    """

    initial: Setting = field(default_factory=Setting)

    def __post_init__(self) -> None:
        self._server = _Sampling(self.initial)
        self._models: dict[str, tuple[dict[str, Any], _Sampling]] = {}

    def sampled(self, model: str) -> bool:
        """Whether this request for a model is to be traced; ask once for each request."""
        return self._of(model).sampled()

    def shown(self, model: str = "") -> Mapping[str, Sequence[str]]:
        """The settings of a model, or of the server, as TraceSetting answers them."""
        sampling = self._of(model)
        return {
            "trace_level": [sampling.setting.level],
            "trace_rate": [str(sampling.setting.rate)],
            "trace_count": [str(sampling.left)],
            "trace_mode": ["opentelemetry"],
            "log_frequency": ["0"],
            "trace_file": [""],
        }

    def update(self, settings: Mapping[str, Sequence[str]], model: str = "") -> None:
        """Change some settings of a model, or of the server; one without a value goes back to what it was.

        Counting begins anew. All are changed or none.

        Raises:
            RequestError: INVALID_ARGUMENT for an unknown setting or a value it cannot have, UNIMPLEMENTED for one that
                cannot be changed.
        """
        changes = {name: _parsed(name, values) for name, values in settings.items()}
        cleared = [name for name, value in changes.items() if value is None]
        given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        if not model:
            before: dict[str, Any] = {name: getattr(self.initial, name) for name in cleared}
            self._server = _Sampling(replace(self._server.setting, **before, **given))
            for name, (own, _) in self._models.items():
                self._give(name, own)
        else:
            own = self._models[model][0] if model in self._models else {}
            self._give(model, {name: value for name, value in own.items() if name not in cleared} | given)

    def _give(self, model: str, own: dict[str, Any]) -> None:
        if own:
            self._models[model] = own, _Sampling(replace(self._server.setting, **own))
        else:
            self._models.pop(model, None)

    def _of(self, model: str) -> _Sampling:
        return self._models[model][1] if model in self._models else self._server


def _parsed(name: str, values: Sequence[str]) -> str | int | None:
    """The value of a setting, None to clear it; the setting's name is without `trace_`."""
    where = f"setting {'trace_' + name if name in ('level', 'rate', 'count') else name!r}"
    if len(values) > 1:
        raise errors.invalid(f"{where}: expected one value, got {len(values)}")
    if not values:
        return None
    if name == "level":
        if values[0] not in LEVELS:
            raise errors.invalid(f"{where}: expected one of {', '.join(LEVELS)}, got {values[0]!r}")
        return values[0]
    least = 1 if name == "rate" else -1
    number = int(values[0]) if values[0].removeprefix("-").isdecimal() and len(values[0]) < 12 else least - 1
    if not least <= number <= _MOST:
        raise errors.invalid(f"{where}: expected a whole number in {least}..{_MOST}, got {values[0]!r}")
    return number


class TraceSettingRpc:
    """The RPC TraceSetting."""

    extensions = ("trace",)

    def __init__(self, settings: TraceSettings, roster: Roster) -> None:
        self._settings, self._roster = settings, roster
        self.answers: Mapping[str, Answer] = {"TraceSetting": self._answer}

    async def _answer(self, request: pb.TraceSettingRequest) -> Message:
        if request.model_name:
            router.held(self._roster.index, request.model_name)
        if request.settings:
            self._settings.update(
                {_known(name): list(each.value) for name, each in request.settings.items()}, request.model_name
            )
        values = self._settings.shown(request.model_name)
        return pb.TraceSettingResponse(
            settings={name: pb.TraceSettingResponse.SettingValue(value=each) for name, each in values.items()}
        )


def _known(name: str) -> str:
    """A setting that can be changed, without `trace_`."""
    if name in _FIXED:
        raise errors.unimplemented(f"setting {name!r} cannot be changed: {_FIXED[name]}")
    changeable = ("trace_level", "trace_rate", "trace_count")
    if name not in changeable:
        raise errors.invalid(unknown("setting", name, changeable))
    return name.removeprefix("trace_")
