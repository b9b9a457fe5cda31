"""Log lines of other processes on standard error."""

import contextlib
import json
import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.log_lines import log_lines
from serving.watching.logs import Text, ToSocket

SENDER = """
import logging, sys
from pathlib import Path
from serving.watching import logs
logs.configure("info", "json", Path(sys.argv[1]))
for i in range(int(sys.argv[2])):
    logging.getLogger("serving.test").info("line %d of %s", i, "x" * int(sys.argv[3]))
"""


def test_lines_of_several_processes_come_whole(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with log_lines(tmp_path) as path:
        senders = [
            subprocess.Popen([sys.executable, "-c", SENDER, str(path), "50", str(length)]) for length in (10, 9000)
        ]
        assert [each.wait(60) for each in senders] == [0, 0]
    assert not list(tmp_path.iterdir())
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    of_each = [[each["message"] for each in lines if each["pid"] == sender.pid] for sender in senders]
    assert [each.split()[1] for each in of_each[0]] == [str(i) for i in range(50)]
    assert all(each.endswith(" lines were lost") or len(each) > 9000 for each in of_each[1])


def test_without_a_reader_a_process_writes_itself(tmp_path: Path):
    run = subprocess.run(
        [sys.executable, "-c", SENDER, str(tmp_path / "gone"), "1", "3"], capture_output=True, text=True, check=True
    )
    assert json.loads(run.stderr)["message"] == "line 0 of xxx"


def test_nobody_waits_for_a_reader_that_does_not_read(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "log"))
        listener.listen()
        handler = ToSocket(tmp_path / "log")
        handler.setFormatter(Text())
        reader, _ = listener.accept()
        for i in range(5000):
            handler.emit(logging.makeLogRecord({"name": "a", "msg": f"line {i} {'x' * 500}"}))
        reader.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while reader.recv(2**17):
                pass
        handler.emit(logging.makeLogRecord({"name": "a", "msg": "at last"}))
        assert b"log lines were lost" in reader.recv(2**17)
        assert b"at last" in reader.recv(2**17)
        reader.close()
        handler.close()
