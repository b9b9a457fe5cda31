"""A real Prometheus and Alertmanager beside a server, with the rules of deploy/monitoring on a faster clock."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RULES = Path(__file__).resolve().parents[1] / "deploy" / "monitoring"
PROGRAMS = ("prometheus", "prometheus-alertmanager")
"""Of Debian's packages prometheus and prometheus-alertmanager."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(
    r"(?<=\[)(\d+)([smhd])(?=\])|(?<=offset )(\d+)([smhd])|(?<=for: )(\d+)([smhd])|(?<=interval: )(\d+)([smhd])"
)
_UP_S, _END_S = 30.0, 10.0


def faster(rules: str, times: float) -> str:
    """Rules whose windows, offsets and waits are so many times shorter; their names stay."""

    def shorter(found: re.Match[str]) -> str:
        number, unit = filter(None, found.groups())
        return f"{max(1, round(1000 * int(number) * _SECONDS[unit] / times))}ms"

    return _DURATION.sub(shorter, rules)


class Monitor:
    """What Alertmanager told of, and what Prometheus answers.

    Attributes:
        told: when each alert first came, by name, in seconds since the start.
        began: when that was, on time.monotonic()'s clock.
    """

    def __init__(self, url: str) -> None:
        self.url, self.began = url, time.monotonic()
        self.told: dict[str, float] = {}

    def settle(self) -> None:
        """Waits until a page was read and nothing fires: before, there is no front. RuntimeError if that never is."""
        end = time.monotonic() + _UP_S
        while True:
            up = [each["value"][1] for each in self.query("query", query="up")["result"]]
            firing = self.query("query", query='ALERTS{alertname="TiltserveNoFront"}')["result"]
            if up == ["1"] and not firing:
                break
            if time.monotonic() > end:
                raise RuntimeError(f"expected a metrics page that can be read within {_UP_S:g} s, got up={up}")
            time.sleep(0.5)
        self.told.clear()
        self.began = time.monotonic()

    def heard(self, message: dict[str, Any]) -> None:
        """Alertmanager's webhook."""
        for alert in message["alerts"]:
            if alert["status"] == "firing":
                self.told.setdefault(alert["labels"]["alertname"], time.monotonic() - self.began)

    def query(self, path: str, **asked: object) -> Any:
        """What Prometheus' API answers; RuntimeError with its reason where that is none."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error).get("error", str(error))) from None


@contextlib.contextmanager
def monitoring(metrics: str, folder: Path, times: float, every_s: float = 3.0) -> Iterator[Monitor]:
    """Both, from an empty store, until the context ends.

    Args:
        metrics: host:port of the server's metrics page.
        folder: takes their files; empty.
        times: how much shorter the rules' times are.

    Raises:
        RuntimeError: one is not installed, or does not start.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise RuntimeError(f"expected the program {program}, found none: apt install prometheus {PROGRAMS[1]}")
    for name in ("recording.yaml", "alerts.yaml"):
        (folder / name).write_text(faster((RULES / name).read_text(), times))
    prometheus, alertmanager = (f"127.0.0.1:{_free()}" for _ in PROGRAMS)
    monitor = Monitor(f"http://{prometheus}")

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            monitor.heard(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    webhook = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=webhook.serve_forever, daemon=True).start()
    (folder / "prometheus.yaml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": f"{every_s:g}s", "evaluation_interval": f"{every_s:g}s"},
                "rule_files": ["recording.yaml", "alerts.yaml"],
                "scrape_configs": [{"job_name": "tiltserve", "static_configs": [{"targets": [metrics]}]}],
                "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
            }
        )
    )
    (folder / "alertmanager.yaml").write_text(
        json.dumps(
            {
                "route": {
                    "receiver": "here", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s",
                    "repeat_interval": "1h",
                },
                "receivers": [
                    {"name": "here", "webhook_configs": [{"url": f"http://127.0.0.1:{webhook.server_port}"}]}
                ],
            }
        )
    )  # fmt: skip
    commands = (
        [
            "prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={prometheus}", "--query.lookback-delta=15s", "--enable-feature=exemplar-storage",
        ],
        [
            "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yaml", f"--storage.path={folder}/alerts",
            f"--web.listen-address={alertmanager}", "--cluster.listen-address=",
        ],
    )  # fmt: skip
    with contextlib.ExitStack() as held:
        held.callback(webhook.server_close)
        held.callback(webhook.shutdown)
        for command, address in zip(commands, (prometheus, alertmanager), strict=True):
            log = held.enter_context((folder / f"{command[0]}.log").open("w"))
            process = subprocess.Popen(command, stdout=log, stderr=log)
            held.callback(_end, process)
            _ready(f"http://{address}/-/ready", process, folder / f"{command[0]}.log")
        monitor.settle()
        yield monitor


def _ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + _UP_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} is not ready: {log.read_text()[-500:]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
