"""Which lines a server logs, changed while it runs."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import pytest

from serving.log_levels import LogLevels
from tests.serving.front.protocol.conftest import Refusal
from tests.serving.live import Live

Client: TypeAlias = Any  # tritonclient has no types


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Levels and names of lines of every kind that came through."""
    caplog.clear()
    for name in ("serving.front", "third.party"):
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(logging.getLogger(name), level)("a line")
    return [(each.levelname.lower(), each.name) for each in caplog.records]


def test_each_kind_is_on_or_off_by_itself(caplog: pytest.LogCaptureFixture):
    LogLevels(info=True, warning=False, error=True).choose()
    ours = ["info", "error", "critical"]
    assert logged(caplog) == [(each, name) for name in ("serving.front", "third.party") for each in ours]
    assert LogLevels.current() == LogLevels(True, False, True)
    LogLevels(info=False, warning=False, error=False, verbose=3).choose()
    assert logged(caplog) == [("debug", "serving.front")]
    logging.getLogger("tiltserve.access").debug("a probe")
    assert caplog.records[-1].message == "a probe"
    assert LogLevels.current().verbose == 3
    LogLevels(info=False, warning=False, error=False).choose()
    assert logged(caplog) == []
    LogLevels(info=False, warning=True, error=True).choose()
    assert {level for level, _ in logged(caplog)} == {"warning", "error", "critical"}


def test_settings_are_shown_and_changed(client: Client, live: Live, caplog: pytest.LogCaptureFixture):
    before = client.get_log_settings().settings
    assert set(before) == {"log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format"}
    changed = client.update_log_settings({"log_info": False, "log_verbose_level": 1, "log_format": "ISO8601"}).settings
    assert (changed["log_info"].bool_param, changed["log_verbose_level"].uint32_param) == (False, 1)
    assert "debug" in {level for level, _ in logged(caplog)}
    assert "info" not in {level for level, _ in logged(caplog)}
    assert client.get_log_settings().settings == changed
    assert live.front._log_settings._told == {each.id for each in live.replicas}


def test_changes_at_a_time_are_all_answered(client: Client, live: Live):
    with ThreadPoolExecutor(16) as pool:
        changed = list(pool.map(lambda _: client.update_log_settings({"log_info": True}), range(48)))
    assert all(each.settings["log_info"].bool_param for each in changed)


@pytest.mark.parametrize(
    ("settings", "code", "text"),
    [
        ({"log_infos": True}, "INVALID_ARGUMENT", "unknown setting 'log_infos', did you mean 'log_info'?"),
        ({"log_file": "/etc/passwd"}, "UNIMPLEMENTED", "setting 'log_file' cannot be changed"),
        ({"log_format": "default"}, "INVALID_ARGUMENT", "setting 'log_format': expected 'ISO8601', got 'default'"),
        ({"log_verbose_level": 2**32 - 1}, "INVALID_ARGUMENT", "expected a whole number in 0..2147483647"),
        ({"log_warning": None}, "INVALID_ARGUMENT", "setting 'log_warning': expected bool_param, got none"),
    ],
)
def test_what_cannot_be_set(client: Client, refusal: Refusal, settings: dict[str, Any], code: str, text: str):
    before = client.get_log_settings().settings
    got, line = refusal(lambda: client.update_log_settings({"log_error": False, **settings}))
    assert (got, text in line) == (code, True), line
    assert client.get_log_settings().settings == before
