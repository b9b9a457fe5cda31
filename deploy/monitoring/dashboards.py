"""Grafana's dashboards of a fleet; writes deploy/monitoring/dashboards/*.json, which Grafana reads as they are.

    .venv/bin/python -m deploy.monitoring.dashboards

Every query takes what replicas count once for each `replica_id`, however many fronts show it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.monitoring.catalogue import series
from serving.labels import REPLICA

FOLDER = Path(__file__).parent / "dashboards"
WIDTH, HEIGHT = 24, 8
SERIES = series()
INFERENCE = 'method=~"ModelInfer|ModelStreamInfer|SampleInteractive|Gradient|Session"'


@dataclass(frozen=True)
class Panel:
    """A graph of some queries.

    Attributes:
        unit: as Grafana names it.
        queries: by what their lines are called.
        what: how to read it.
        width: of 24.
    """

    title: str
    unit: str
    queries: Mapping[str, str]
    what: str = ""
    kind: str = "timeseries"
    width: int = 8


@dataclass(frozen=True)
class Dashboard:
    """Some panels; `models`: of which one may be chosen."""

    title: str
    panels: Sequence[Panel]
    models: bool = False

    @property
    def name(self) -> str:
        return self.title.lower().replace(" ", "-")


def rate(metric: str, by: str = "", chosen: str = "", window: str = "$__rate_interval") -> str:
    """The growth a second of what replicas count, summed over them, by some labels."""
    return f"sum by ({by}) ({_once(metric, f'rate({metric}{{{_where(chosen)}}}[{window}])')})"


def of_fronts(metric: str, by: str = "", chosen: str = "") -> str:
    """The growth a second of what fronts count, summed over them, by some labels."""
    return f"sum by ({by}) (rate({metric}{{{_where(chosen)}}}[$__rate_interval]))"


def now(metric: str, by: str, chosen: str = "") -> str:
    """What replicas or fronts show, the largest by some labels: those of the metric itself, to have each once."""
    return f"max by ({by}) ({metric}{{{_where(chosen)}}})"


def total(metric: str, by: str = "", chosen: str = "") -> str:
    """What replicas show, summed over them, by some labels."""
    return f"sum by ({by}) ({_once(metric, f'{metric}{{{_where(chosen)}}}')})"


def rule(name: str, chosen: str = "") -> str:
    """What a recording rule made."""
    return f"{name}{{{_where(chosen)}}}"


def mean(metric: str, by: str, chosen: str = "") -> str:
    """The mean of what a histogram of replicas saw."""
    return f"{rate(f'{metric}_sum', by, chosen)} / {rate(f'{metric}_count', by, chosen)}"


def quantiles(metric: str, chosen: str = "") -> dict[str, str]:
    """Three quantiles of a histogram of replicas or fronts, by what they are called."""
    buckets = f"{metric}_bucket"
    summed = rate(buckets, "le", chosen) if REPLICA in SERIES[buckets] else of_fronts(buckets, "le", chosen)
    return {f"p{100 * q:.0f}": f"histogram_quantile({q}, {summed})" for q in (0.5, 0.95, 0.99)}


def _once(metric: str, each: str) -> str:
    """Of series that several fronts show the largest, which is the newest."""
    return f"max by ({', '.join(('namespace', *SERIES[metric]))}) ({each})"


def _where(chosen: str) -> str:
    return ", ".join(filter(None, ('namespace=~"$namespace"', chosen)))


MODEL, READY = 'model=~"$model"', 'state="ready"'
NETWORK, REWARD, LATE = 'kind="network"', 'kind="reward"', 'reason="deadline"'
BUILT, REPLICA_BUILT = "tiltserve_build_info", "tiltserve_replica_build_info"
ON_FRONTS = f"and on (instance) {BUILT}"
FLEET = [
    Panel("Replicas", "none", {"{{state}}": now("tiltserve_replicas", "state")}, kind="stat", width=6),
    Panel(
        "Models that nobody serves",
        "none",
        {"models": f"count({now('tiltserve_model_replicas', 'model', READY)} == 0) or vector(0)"},
        kind="stat",
        width=6,
    ),
    Panel(
        "Alerts",
        "none",
        {"firing": 'count(ALERTS{alertname=~"Tiltserve.*", alertstate="firing"}) or vector(0)'},
        kind="stat",
        width=6,
    ),
    Panel(
        "Requests under way",
        "none",
        {"requests": f"sum(tiltserve_requests_in_flight{{{_where(INFERENCE)}}})"},
        kind="stat",
        width=6,
    ),
    Panel(
        "Requests",
        "reqps",
        {"{{code}}": of_fronts("tiltserve_requests_total", "code", INFERENCE)},
        "For inference, by gRPC status.",
    ),
    Panel(
        "Failed by the server's fault",
        "percentunit",
        {"{{model}}": rule("tiltserve:request_errors:ratio_rate5m")},
        "The objective is .1% in 30 days.",
    ),
    Panel(
        "Waited over 1 s",
        "percentunit",
        {"{{model}}": rule("tiltserve:wait_slow:ratio_rate5m")},
        "For their first network call. The objective is 1% in 30 days.",
    ),
    Panel("Replicas that take requests", "none", {"{{model}}": now("tiltserve_model_replicas", "model", READY)}),
    Panel(
        "Replicas lost and joined",
        "none",
        {
            "lost": f"max(increase(tiltserve_replicas_lost_total{{{_where('')}}}[15m]))",
            "joined": f"max(increase(tiltserve_replicas_joined_total{{{_where('')}}}[15m]))",
        },
        "In 15 minutes.",
    ),
    Panel(
        "Sent again",
        "reqps",
        {"{{model}}": of_fronts("tiltserve_replays_total", "model")},
        "Requests whose replica was lost.",
    ),
    Panel(
        "Refused",
        "percentunit",
        {"{{model}} {{reason}}": rule("tiltserve:refused:ratio_rate5m")},
        "Of those that came: the queue is full, or a deadline cannot be met.",
    ),
    Panel(
        "Age of the list of replicas",
        "s",
        {"{{instance}}": now("tiltserve_directory_age_seconds", "instance")},
        "Of each front; it is read twice a second.",
    ),
    Panel(
        "Versions",
        "none",
        {
            "fronts {{version}}": f"count by (version) ({now(BUILT, 'version, instance')})",
            "replicas {{version}}": f"count by (version) ({now(REPLICA_BUILT, 'version, replica_id')})",
        },
    ),
]
OF_MODEL = [
    Panel(
        "Requests",
        "reqps",
        {"{{code}}": of_fronts("tiltserve_requests_total", "code", f"{MODEL}, {INFERENCE}")},
        "For inference, by gRPC status.",
    ),
    Panel(
        "Time of requests",
        "s",
        quantiles("tiltserve_request_seconds", f"{MODEL}, {INFERENCE}"),
        "From arrival to answer; it depends on what is asked for. Points are traces, where there are any.",
    ),
    Panel("Wait for the first call", "s", quantiles("tiltserve_queue_seconds", MODEL)),
    Panel("Rows", "short", {"{{model}} {{kind}}": rate("tiltserve_rows_total", "model, kind", MODEL)}, "A second."),
    Panel("Time of network calls", "s", quantiles("tiltserve_network_seconds", MODEL)),
    Panel(
        "Fill of network calls",
        "percentunit",
        {"{{model}}": mean("tiltserve_bucket_fill", "model", MODEL)},
        "Rows that were asked for, of a call's size.",
    ),
    Panel(
        "Failed by the server's fault",
        "percentunit",
        {
            f"{{{{model}}}} {window}": rule(f"tiltserve:request_errors:ratio_rate{window}", MODEL)
            for window in ("5m", "1h", "6h")
        },
        "An alert looks at two windows at once.",
    ),
    Panel(
        "Cost drift",
        "none",
        {"{{model}} {{replica_id}}": now("tiltserve_cost_drift_ratio", "model, replica_id", MODEL)},
        "Seconds of calls over those at load.",
    ),
    Panel(
        "Deadlines",
        "reqps",
        {
            "missed {{model}}": rate("tiltserve_deadline_misses_total", "model", MODEL),
            "refused {{model}}": rate("tiltserve_refused_total", "model", f"{MODEL}, {LATE}"),
        },
    ),
    Panel(
        "Replicas by state",
        "none",
        {"{{model}} {{state}}": now("tiltserve_model_replicas", "model, state", MODEL)},
    ),
    Panel(
        "Time of loading",
        "s",
        {
            "{{model}}": f"{total('tiltserve_model_load_seconds_sum', 'model', MODEL)}"
            f" / {total('tiltserve_model_load_seconds_count', 'model', MODEL)}"
        },
        "The mean of all loads.",
    ),
    Panel(
        "Memory of models", "bytes", {"{{model}}": total("tiltserve_model_bytes", "model", MODEL)}, "Of all replicas."
    ),
]
STEERING = [
    Panel(
        "Methods",
        "reqps",
        {"{{model}} {{method}}": rate("tiltserve_steering_total", "model, method", MODEL)},
        "Requests for samples; plain ones count as none.",
    ),
    Panel(
        "Effective sample size",
        "none",
        quantiles("tiltserve_ess", MODEL),
        "The mean of a request's weights: 1 is one candidate that carries all of it.",
    ),
    Panel(
        "Collapsed",
        "percentunit",
        {"{{model}}": rule("tiltserve:ess_collapsed:ratio_rate30m", MODEL)},
        "Steered requests of half an hour with an effective sample size of at most 1.5.",
    ),
    Panel(
        "Reward rows",
        "short",
        {"{{model}}": rate("tiltserve_rows_total", "model", REWARD)},
        "Candidates scored a second, by reward.",
    ),
    Panel(
        "Reward services: time",
        "s",
        quantiles("tiltserve_external_seconds"),
        "Of one reply; clients' own scores are among them.",
    ),
    Panel(
        "Reward services: failures",
        "percentunit",
        {"{{model}}": rule("tiltserve:reward_failures:ratio_rate5m")},
        "Of the requests that ask them.",
    ),
    Panel(
        "Reward rows for one network row",
        "none",
        {
            "rows": f"{rate('tiltserve_rows_total', chosen=REWARD)} / {rate('tiltserve_rows_total', chosen=NETWORK)}",
        },
        width=12,
    ),
    Panel(
        "Draws under conditions",
        "reqps",
        {"{{result}}": rate("tiltserve_draws_total", "result")},
        "Laws of requests: a miss had to be made.",
        width=12,
    ),
]
ENGINE = [
    Panel(
        "Where the time goes",
        "percentunit",
        {"{{phase}}": rate("tiltserve_engine_seconds_total", "phase")},
        "Seconds a second of all replicas; host is a thread of its own.",
        width=12,
    ),
    Panel(
        "Busy",
        "percentunit",
        {"{{replica_id}}": rule("tiltserve:engine_busy:ratio_rate5m")},
        "Not idle, by replica.",
        width=12,
    ),
    Panel("Backlog", "short", {"{{replica_id}}": now("tiltserve_backlog_rows", "replica_id")}, "Network rows."),
    Panel(
        "Oldest that waits",
        "s",
        {"{{replica_id}}": now("tiltserve_queue_age_seconds", "replica_id")},
        "For its first network call.",
    ),
    Panel("Requests taken on", "none", {"{{replica_id}}": now("tiltserve_running_requests", "replica_id")}),
    Panel("Time of network calls", "s", quantiles("tiltserve_network_seconds")),
    Panel("Fill of network calls", "percentunit", {"{{model}}": mean("tiltserve_bucket_fill", "model")}),
    Panel(
        "Rows that nobody wanted any more",
        "short",
        {"{{reason}}": rate("tiltserve_reclaimed_rows_total", "reason")},
        "Reclaimed, a second.",
    ),
    Panel(
        "Cost drift",
        "none",
        {"{{model}}": f"avg by (model) ({now('tiltserve_cost_drift_ratio', 'model, replica_id')})"},
    ),
    Panel("Network calls", "ops", {"{{model}}": rate("tiltserve_network_seconds_count", "model")}),
    Panel(
        "Rows of a call",
        "short",
        {
            "{{model}}": f"{rate('tiltserve_rows_total', 'model', NETWORK)}"
            f" / {rate('tiltserve_network_seconds_count', 'model')}"
        },
        "The mean.",
    ),
]
CAPACITY = [
    Panel(
        "Work waiting",
        "s",
        {
            "mean": rule("tiltserve:backlog_seconds:avg"),
            "most": f"max({now('tiltserve_backlog_seconds', 'replica_id')})",
        },
        "Estimated seconds of a replica.",
    ),
    Panel(
        "Busy",
        "percentunit",
        {"mean": f"avg({rule('tiltserve:engine_busy:ratio_rate5m')})"},
        "Over .8 for hours: add replicas.",
    ),
    Panel(
        "Queue",
        "percentunit",
        {
            "{{replica_id}}": f"{now('tiltserve_backlog_rows', 'replica_id')}"
            f" / {now('tiltserve_backlog_limit_rows', 'replica_id')}"
        },
        "Of --max-queue-rows.",
    ),
    Panel(
        "Rows of a replica",
        "short",
        {"{{replica_id}}": rate("tiltserve_rows_total", "replica_id", NETWORK)},
        "Network rows a second.",
    ),
    Panel(
        "Memory of replicas",
        "bytes",
        {"{{replica_id}}": now("tiltserve_replica_process_resident_memory_bytes", "replica_id")},
    ),
    Panel(
        "Memory of fronts",
        "bytes",
        {"{{instance}}": now("process_resident_memory_bytes", "instance") + f" {ON_FRONTS}"},
    ),
    Panel(
        "Memory of requests",
        "bytes",
        {"{{replica_id}}": now("tiltserve_running_bytes", "replica_id")},
        "As they estimate it.",
    ),
    Panel(
        "Memory of models and draws",
        "bytes",
        {"{{model}}": total("tiltserve_model_bytes", "model"), "draws": total("tiltserve_draws_bytes")},
    ),
    Panel(
        "Cores used",
        "none",
        {
            "replicas": rate("tiltserve_replica_process_cpu_seconds_total"),
            "fronts": f"sum(rate(process_cpu_seconds_total{{{_where('')}}}[$__rate_interval]) {ON_FRONTS})",
        },
    ),
    Panel(
        "Rows by caller",
        "short",
        {"{{identity}}": f"topk(10, {rate('tiltserve_identity_rows_total', 'identity', NETWORK)})"},
        "Network rows a second of the ten who take most; only callers with a name are counted.",
    ),
    Panel(
        "Network time by caller",
        "percentunit",
        {"{{identity}}": f"topk(10, {rate('tiltserve_identity_network_seconds_total', 'identity')})"},
        "Seconds a second.",
    ),
    Panel(
        "Requests by caller",
        "reqps",
        {"{{identity}} {{code}}": f"topk(10, {of_fronts('tiltserve_identity_requests_total', 'identity, code')})"},
    ),
]
DASHBOARDS = (
    Dashboard("Tiltserve fleet", FLEET),
    Dashboard("Tiltserve model", OF_MODEL, models=True),
    Dashboard("Tiltserve steering", STEERING, models=True),
    Dashboard("Tiltserve engine", ENGINE),
    Dashboard("Tiltserve capacity", CAPACITY),
)


def content(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana has it."""
    variables = [
        {"type": "datasource", "name": "datasource", "query": "prometheus"},
        _variable("namespace", "tiltserve_build_info"),
        *([_variable("model", "tiltserve_model_replicas")] if dashboard.models else []),
    ]
    return {
        "uid": dashboard.name,
        "title": dashboard.title,
        "tags": ["tiltserve"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "links": [{"type": "dashboards", "tags": ["tiltserve"], "asDropdown": True, "title": "Tiltserve"}],
        "panels": [*_panels(dashboard.panels)],
    }


def _variable(label: str, metric: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": label,
        "label": label,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": f"label_values({metric}, {label})", "refId": label},
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }


def _panels(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    x = y = 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > WIDTH:
            x, y = 0, y + HEIGHT
        yield {
            "id": number,
            "type": panel.kind,
            "title": panel.title,
            "description": panel.what,
            "gridPos": {"x": x, "y": y, "w": panel.width, "h": HEIGHT},
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [
                {
                    "refId": chr(ord("A") + place),
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "expr": query,
                    "legendFormat": legend or "__auto",
                    "exemplar": "tiltserve_request_seconds_bucket" in query,
                }
                for place, (legend, query) in enumerate(panel.queries.items())
            ],
        }
        x += panel.width


def written() -> dict[str, str]:
    """The files by name."""
    return {f"{each.name}.json": json.dumps(content(each), indent=2) + "\n" for each in DASHBOARDS}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in written().items():
        (FOLDER / name).write_text(text)
