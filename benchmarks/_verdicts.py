"""Claims about a server, and what was seen that speaks for or against them."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import grpc

from benchmarks._hostile import Bad
from benchmarks._load import Record
from benchmarks._server import scrape
from deploy.pages import Growth, Page
from deploy.process import Running
from tiltserve import Client

IDLE_S = 30.0
SLACK = 8
"""File descriptors, threads and connections that may differ between two looks at an idle process."""


@dataclass
class Verdicts:
    """Claims, and what speaks for or against them."""

    failed: list[str] = field(default_factory=list)

    def claim(self, text: str, holds: bool, seen: str) -> None:
        print(f"{'PASS' if holds else 'FAIL'}  {text}: {seen}", flush=True)
        if not holds:
            self.failed.append(text)


def settled(server: Running, replicas: int, seconds: float = IDLE_S) -> tuple[float, float]:
    """Seconds until no row was waiting on any of so many replicas (infinite: never), and network rows evaluated after
    that.

    Calls that were running at that moment, for requests that somebody had just left, may end first.
    """
    backlog, rows = "tiltserve_backlog_rows", "tiltserve_rows_total"
    begin = time.monotonic()
    while (page := scrape(server)).total(backlog) or len(page.label_values(backlog, "replica_id")) < replicas:
        if time.monotonic() > begin + seconds:
            return math.inf, math.nan
        time.sleep(0.2)
    took = time.monotonic() - begin
    time.sleep(1.0)
    first = scrape(server)
    time.sleep(2.0)
    return took, Growth(first, scrape(server)).of(rows, kind="network")


def judge_series(verdicts: Verdicts, server: Running, page: Page, first: int, last: int) -> None:
    """Claims about the metrics page."""
    with Client(server.grpc, timeout=20) as client:
        fleet = client.fleet()
    names = {each.name for each in fleet.models}
    fixed: dict[str, Iterable[str]] = {
        "model": {*names, *(f"{name}.network" for name in names), "", "network", "client"},
        "code": {code.name for code in grpc.StatusCode},
        "replica_id": {each.id for each in fleet.replicas},
    }
    found = {pair for _, labels in page.values for pair in labels}
    strange = sorted(f"{label}={value}" for label, value in found if value not in fixed.get(label, {value}))
    verdicts.claim(
        "metric series come from fixed sets of labels and live replicas", not strange,
        f"{first} series on the idle server before, {last} after {strange[:4] or ''}",
    )  # fmt: skip


def judge_rest(verdicts: Verdicts, idle: tuple[float, float]) -> None:
    """The claim that nothing goes on once everybody is gone."""
    took, rows = idle
    verdicts.claim(
        "no row is left once the clients are gone", took < IDLE_S and rows == 0,
        f"backlog 0 after {took:.1f} s, then {rows:.0f} rows evaluated in 2 s",
    )  # fmt: skip


def judge_wrong(verdicts: Verdicts, records: Sequence[Record], wrong: Sequence[Bad]) -> None:
    """The claim about requests with one fault each; a record's tag is its number among `wrong`."""
    sent = [each for each in records if each.kind == "bad"]
    strange = [each for each in sent if each.status not in wrong[each.tag].statuses]
    seen = Counter(f"{wrong[each.tag].name}: {each.status} {each.detail[:80]}" for each in strange)
    verdicts.claim(
        f"bad requests of {len(wrong)} kinds get their status", bool(sent) and not strange,
        f"{len(sent)} sent, {len(strange)} got another {dict(seen.most_common(4)) or ''}",
    )  # fmt: skip
