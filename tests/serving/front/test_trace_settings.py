"""Which requests are traced: rates and numbers, of the server and of single models."""

import grpc
import pytest

from serving.front.trace_settings import Setting, TraceSettings
from serving.wire.errors import RequestError


def test_nothing_is_traced_until_it_is_asked_for():
    assert not any(TraceSettings().sampled("digits") for _ in range(2000))


def test_every_third_request_until_two_were_traced():
    settings = TraceSettings(Setting("TIMESTAMPS", 3, 2))
    assert [settings.sampled("digits") for _ in range(9)] == [True, False, False, True, *[False] * 5]
    assert settings.shown()["trace_count"] == ["0"]


def test_a_model_has_the_servers_settings_but_for_its_own():
    settings = TraceSettings(Setting("TIMESTAMPS", 1))
    settings.update({"rate": ["2"]}, "digits")
    assert [settings.sampled("digits") for _ in range(4)] == [True, False, True, False]
    assert [settings.sampled("judge") for _ in range(2)] == [True, True]
    settings.update({"level": ["OFF"]})
    assert not settings.sampled("digits")
    assert settings.shown("digits")["trace_rate"] == ["2"]
    settings.update({"rate": []}, "digits")
    assert settings.shown("digits")["trace_rate"] == ["1"]
    settings.update({"level": []})
    assert settings.sampled("digits")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rate": ["0"]}, "setting 'trace_rate': expected a whole number in 1..2147483647, got '0'"),
        ({"rate": ["1e3"]}, "got '1e3'"),
        ({"count": ["-2"]}, "in -1..2147483647, got '-2'"),
        ({"count": ["9" * 400]}, "in -1..2147483647"),
        ({"level": ["TENSORS"]}, "expected one of OFF, TIMESTAMPS, got 'TENSORS'"),
        ({"level": ["OFF", "TIMESTAMPS"]}, "expected one value, got 2"),
    ],
)
def test_a_wrong_value_changes_nothing(change: dict[str, list[str]], text: str):
    settings = TraceSettings(Setting("TIMESTAMPS", 1))
    with pytest.raises(RequestError) as caught:
        settings.update({"rate": ["7"], **change})
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in caught.value.detail
    assert settings.shown()["trace_rate"] == ["1"]
