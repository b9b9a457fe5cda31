"""A server's metrics page: its values by name and labels, and what they gained between two looks."""

import ssl
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
WITHIN_S = 20.0


@dataclass(frozen=True)
class Page:
    """A metrics page as it was at `at` (monotonic seconds): values by name and sorted labels."""

    at: float
    values: Mapping[tuple[str, Labels], float]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of this name that carry these labels, 0 without any."""
        return sum(self.values[key] for key in self.values if key[0] == name and labels.items() <= dict(key[1]).items())

    def label_values(self, name: str, label: str) -> list[str]:
        """What the label takes among the series of this name, sorted."""
        return sorted({dict(have)[label] for each, have in self.values if each == name and label in dict(have)})


@dataclass(frozen=True)
class Growth:
    """What counters gained between two looks."""

    before: Page
    after: Page

    @property
    def seconds(self) -> float:
        return self.after.at - self.before.at

    def of(self, name: str, **labels: str) -> float:
        return self.after.total(name, **labels) - self.before.total(name, **labels)

    def rate(self, name: str, **labels: str) -> float:
        """Per second."""
        return self.of(name, **labels) / self.seconds

    def mean(self, histogram: str, **labels: str) -> float | None:
        """Of what a histogram observed, None if that is nothing."""
        count = self.of(f"{histogram}_count", **labels)
        return self.of(f"{histogram}_sum", **labels) / count if count > 0 else None

    def quantile(self, q: float, histogram: str, **labels: str) -> float | None:
        """The q-quantile (0..1) of what a histogram observed, linear within its buckets; None if that is nothing. What
        lies beyond the last bound counts as that bound."""
        name = f"{histogram}_bucket"
        bounds = sorted(self.after.label_values(name, "le"), key=float)
        counts = [self.of(name, le=bound, **labels) for bound in bounds]
        if not counts or counts[-1] <= 0:
            return None
        wanted, low, below = q * counts[-1], 0.0, 0.0
        for bound, count in zip(map(float, bounds), counts, strict=True):
            if count >= wanted and count > below:
                return low if bound == float("inf") else low + (bound - low) * (wanted - below) / (count - below)
            low, below = bound, count
        return low


def read(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    context: ssl.SSLContext | None = None,
    within_s: float = WITHIN_S,
) -> Page:
    """The page now; raises OSError where there is none, ValueError where it is something else."""
    begin = time.monotonic()
    request = urllib.request.Request(url, headers=dict(headers or {}))
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))  # never by a proxy
    direct = urllib.request.build_opener(*handlers)
    with direct.open(request, timeout=within_s) as answer:
        text = answer.read().decode()
    at = (begin + time.monotonic()) / 2
    families = text_string_to_metric_families(text)
    return Page(at, {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples})
