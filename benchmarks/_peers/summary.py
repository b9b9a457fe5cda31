"""What a run comes to, and the tables."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from benchmarks._peers.load import Outcome
from benchmarks._peers.trace import Request

NONE = float("nan")
HEADER = (
    "| system | rows/s | of capacity | requests/s | p50 s | p99 s | p99 slowdown | in time | refused | failed "
    "| padding | in vain |\n|" + " --- |" * 12
)


@dataclass(frozen=True)
class Summary:
    """One run. Rows are network rows that answers in time needed; latencies and slowdowns are those of these answers.

    `slowdown`: latency over what the bare network would have taken for the request alone. `padding`: share of computed
    rows that no request's own steps needed. `vain`: share of computed rows that did not end in an answer in time.
    """

    rows: float
    share: float
    requests: float
    p50: float
    p99: float
    slowdown: float
    in_time: float
    refused: float
    failed: float
    padding: float
    vain: float

    def row(self, name: str) -> str:
        """A line of the table under `HEADER`."""
        cells = [f"{self.rows:.0f}", f"{self.share:.3f}", f"{self.requests:.2f}", f"{self.p50:.3f}", f"{self.p99:.3f}"]
        cells += [f"{self.slowdown:.1f}", f"{self.in_time:.1%}", f"{self.refused:.1%}", f"{self.failed:.1%}"]
        cells += [f"{self.padding:.1%}", f"{self.vain:.1%}"]
        return f"| {name} | " + " | ".join("" if "nan" in cell else cell for cell in cells) + " |"


def summary(
    requests: Sequence[Request],
    outcomes: Sequence[Outcome],
    capacity: float,
    needed: float = NONE,
    computed: float = NONE,
) -> Summary:
    """Of one run; `needed` and `computed` rows are the server's own counts."""
    answered = [(each, outcome) for each, outcome in zip(requests, outcomes, strict=True) if outcome.code == "ok"]
    count = len(requests)

    def share(code: str) -> float:
        return sum(outcome.code == code for outcome in outcomes) / count

    if not answered:
        return Summary(0, 0, 0, NONE, NONE, NONE, 0, share("refused"), share("failed"), NONE, NONE)
    seconds = np.array([outcome.seconds for _, outcome in answered])
    solo = np.array([each.rows for each, _ in answered]) / capacity
    elapsed = max(each.at + outcome.seconds for each, outcome in answered)
    rows = sum(each.rows for each, _ in answered)
    p50, p99 = np.percentile(seconds, [50, 99])
    return Summary(
        rows=rows / elapsed,
        share=rows / elapsed / capacity,
        requests=len(answered) / elapsed,
        p50=float(p50),
        p99=float(p99),
        slowdown=float(np.percentile(seconds / solo, 99)),
        in_time=len(answered) / count,
        refused=share("refused"),
        failed=share("failed"),
        padding=1 - needed / computed if computed else NONE,
        vain=1 - rows / computed if computed else NONE,
    )


def median(summaries: Sequence[Summary]) -> Summary:
    """Field by field, over runs in which the field exists."""

    def middle(name: str) -> float:
        values = [getattr(each, name) for each in summaries if not np.isnan(getattr(each, name))]
        return statistics.median(values) if values else NONE

    return Summary(**{field.name: middle(field.name) for field in fields(Summary)})
