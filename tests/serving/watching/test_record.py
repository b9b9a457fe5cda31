"""What a request is called, and how its times are told."""

import json
import logging
import sys

import grpc
import pytest

from serving.engine.spent import Spent
from serving.watching import access, logs, times
from serving.watching.record import LONGEST_ID, Record, asking_for, current, working_on

PARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


def test_a_request_is_called_as_metadata_say_then_as_its_message_says():
    record = Record("ModelInfer", [("x-request-id", "mine"), ("x-request-id", "other"), ("x-other", "no")])
    record.calls_itself("message")
    assert record.id == "mine"
    record = Record("ModelInfer")
    made = record.id
    assert len(made) == 16
    record.calls_itself("")
    assert record.id == made
    record.calls_itself("message")
    assert record.id == "message"
    assert Record("ModelInfer").id != made


@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[31mred", "x" * 100_000, "grüße", "a\r\nINFO forged", "\ud800", "\u2028"]
)
def test_names_from_outside_are_short_and_of_one_line(name: str):
    record = Record("ModelInfer")
    record.calls_itself(name)
    assert record.id.isascii()
    assert record.id.isprintable()
    assert 0 < len(record.id) <= LONGEST_ID


def test_a_trace_is_passed_on_as_it_came():
    record = Record("ModelInfer", [("traceparent", PARENT), ("tracestate", "a=b")])
    assert record.trace_id == "ab" * 16
    with record.asking("forward") as metadata:
        assert dict(metadata) == {"x-request-id": record.id, "traceparent": PARENT, "tracestate": "a=b"}
    for wrong in ("", "00-zz", "x" * 1000):
        record = Record("ModelInfer", [("traceparent", wrong)])
        assert record.trace_id == ""
    with asking_for([], "Score") as metadata:
        assert not metadata


def test_it_is_found_where_it_is_worked_on():
    assert current() is None
    with working_on(Record("ModelInfer")) as record:
        assert current() is record
    assert current() is None


def test_times_are_read_as_they_were_written():
    line = times.line({"queue": 0.25, "network": 12.0}, {"network": 40})
    assert line == "queue;dur=0.250, network;dur=12.000;rows=40"
    assert times.milliseconds(line) == {"queue": 0.25, "network": 12.0}
    assert times.rows(line) == {"network": 40}
    assert times.milliseconds(times.with_total(line, 0.02))["total"] == 20
    assert times.milliseconds("nonsense; dur=x") == {}


def test_what_a_task_has_taken():
    spent = Spent()
    spent.took_part("rings", "network", 3, 12, 1.0, 2.0)
    spent.took_part("rings", "network", 6, 6, 3.0, 3.5)
    spent.asked("brightness", "reward", 5, 2.0, 2.25)
    spent.computed(0.5, 0.75)
    spent.computed(4.0, 4.25)
    network, reward = spent.parts.values()
    assert (network.rows, network.calls, network.seconds, network.share_s) == (9, 2, 1.5, 0.75)
    assert (network.first, network.last, network.elsewhere) == (1.0, 3.5, False)
    assert (reward.rows, reward.calls, reward.seconds, reward.elsewhere) == (5, 1, 0.25, True)
    assert (spent.updates, spent.update_s, spent.update_first, spent.update_last) == (2, 0.5, 0.5, 4.25)


def line_of(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("serving.test").makeRecord(
        "serving.test", logging.WARNING, __file__, 1, message, arguments, None, extra=extra
    )
    assert logs.OfRequests().filter(made)
    return made


def test_lines_carry_the_request():
    with working_on(Record("ModelInfer", [("x-request-id", "mine"), ("traceparent", PARENT)])):
        line = line_of("lost %s", "a\nb")
    assert logs.Text().format(line).endswith(rf"WARNING serving.test: lost a\nb request=mine trace={'ab' * 16}")
    told = json.loads(logs.Json().format(line))
    assert (told["request"], told["trace"], told["level"], told["message"]) == (
        "mine",
        "ab" * 16,
        "warning",
        "lost a\nb",
    )
    other = line_of("lost", request_id="engine")
    assert logs.Text().format(other).endswith("lost request=engine")


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_text_looks_like_a_line_of_its_own(form):
    formatter = logs.Json() if form == "json" else logs.Text()
    evil = 'x\n2026-01-01 INFO forged\r\x1b[2J\u2028" status=OK "'
    try:
        raise ValueError(evil)
    except ValueError:
        line = line_of("%s", evil, fields={"model": evil, "method": evil})
        line.exc_info = sys.exc_info()
    first, *others = formatter.format(line).split("\n")
    assert "\x1b" not in first
    assert "\r" not in first
    if form == "json":
        assert not others
        assert json.loads(first)["model"] == evil
    else:
        assert all(each.startswith("    ") for each in others)
        assert 'model="x\\n2026' in first


def test_the_line_of_a_call(caplog: pytest.LogCaptureFixture):
    record = Record("ModelInfer", [("x-request-id", "mine")], "ipv4:127.0.0.1:1")
    record.model, record.code, record.ended = "evil\nname", grpc.StatusCode.NOT_FOUND, record.began + 0.5
    record.times = "queue;dur=1.500, network;dur=3.000;rows=7"
    with caplog.at_level("INFO", "tiltserve.access"):
        access.write(record)
        access.write(Record("ServerLive"))
        record.method, record.code = "ServerLive", grpc.StatusCode.OK
        access.write(record)  # asked every second
    line, failed = caplog.records
    assert failed.fields["status"] == "UNKNOWN"  # type: ignore[attr-defined]
    fields = line.fields  # type: ignore[attr-defined]
    assert (fields["model"], fields["status"], fields["rows"]) == ("evil\\nname", "NOT_FOUND", 7)
    assert (fields["queue_ms"], fields["total_ms"], fields["peer"]) == (1.5, 500.0, "ipv4:127.0.0.1:1")
