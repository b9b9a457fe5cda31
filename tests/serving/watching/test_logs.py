"""Which lines a log does without."""

import logging

import grpc
import pytest

from serving.watching.logs import WithoutTheGone


@pytest.mark.parametrize(
    ("logger", "error", "kept"),
    [
        ("grpc._cython.cygrpc", grpc.aio.InternalError(), False),
        ("grpc._cython.cygrpc", ValueError(), True),
        ("serving.front", grpc.aio.InternalError(), True),
    ],
)
def test_a_client_that_resets_its_calls_does_not_fill_the_log(logger: str, error: Exception, kept: bool):
    line = logging.makeLogRecord({"name": logger, "exc_info": (type(error), error, None)})
    assert WithoutTheGone().filter(line) is kept


def test_lines_without_an_error_are_kept():
    assert WithoutTheGone().filter(logging.makeLogRecord({"name": "grpc.x"}))
