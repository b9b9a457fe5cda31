"""docs/metrics.md has every metric, and a running server shows no other."""

import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from deploy.monitoring.catalogue import PAGE, renewed, series
from serving.access import tokens
from serving.access.guards import FrontGuards, Inside, ReplicaGuards
from serving.labels import OTHER, REPLICA
from serving.watching.spans import Spans
from serving.watching.watching import Watching
from tests.serving.live import Live, running, until

NAMES = ("alice", "bob", "carol")
TOKENS = {name: tokens.new_token() for name in NAMES}


@pytest.fixture(scope="module")
def live(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Two replicas with pages of their own, a reward service that is not there, and callers of whom two are counted by
    name; some requests of theirs were answered, some not."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.yaml"
    file.write_text(yaml.safe_dump({"identities": {n: {"sha256": tokens.hashed(t)} for n, t in TOKENS.items()}}))
    table, inside = tokens.watched(file), Inside(tokens.new_token())
    guards = FrontGuards(None, table, inside), ReplicaGuards(table, inside)
    watching = Watching(spans=Spans(SimpleSpanProcessor(InMemorySpanExporter()), 1.0, part="front", instance="here"))
    with running(
        small_models, count=2, guards=guards, front={"metrics_identities": 2, "watching": watching}, identities=2,
        metrics_ports=(0, 0), rewards={"nowhere": "127.0.0.1:1"}, reward_s=0.5,
    ) as live:  # fmt: skip
        for name in NAMES:
            ask(live, name, samples=2, seed=1, steps=2)
        failing: list[dict[str, Any]] = [
            {"reward": "nowhere", "particles": 4},
            {"steps": 0},
            {"timeout": 1, "steps": 1000},
        ]
        for each in failing:
            with pytest.raises(grpc.RpcError):
                ask(live, "alice", **{"samples": 2, "seed": 1, **each})
        with pytest.raises(grpc.RpcError):
            ask(live, "alice", model="made up by a client")
        yield live


def ask(live: Live, name: str, model: str = "rings", **parameters: Any) -> None:
    request = pb.ModelInferRequest(model_name=model)
    for key, value in parameters.items():
        setattr(request.parameters[key], "string_param" if isinstance(value, str) else "int64_param", value)
    with grpc.insecure_channel(live.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(request, timeout=30, metadata=[("authorization", f"Bearer {TOKENS[name]}")])


def page(address: str, path: str = "/metrics", accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://{address}{path}", headers={"accept": accept})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


def values(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    found = {(each.name, frozenset(each.labels.items())): each.value for each in samples}
    assert len(found) == len(samples)
    return found


def test_the_document_is_made_of_the_registries():
    assert PAGE.read_text() == renewed(PAGE.read_text()), "run .venv/bin/python -m deploy.monitoring.catalogue"


def test_a_server_shows_what_is_listed_and_nothing_else(live: Live):
    listed = series()
    shown = values(page(live.front.metrics_address))
    for name, labels in shown:
        assert {key for key, _ in labels} == set(listed[name]), name
    assert {name for name, labels in listed.items() if not labels} <= {name for name, _ in shown}
    assert "made up" not in page(live.front.metrics_address)


def test_each_series_is_on_one_page_of_the_parts(live: Live):
    """So a fleet whose fronts and replicas are scraped by themselves counts everything once."""
    parts = [page(live.front.metrics_address, "/metrics/front")]
    parts += [page(each.metrics_address) for each in live.replicas]
    apart = [{key for key in values(text) if not key[0].startswith("process_")} for text in parts]
    whole = {key for key in values(page(live.front.metrics_address)) if not key[0].startswith("process_")}
    assert set().union(*apart) == whole
    assert sum(map(len, apart)) == len(whole)
    assert not any(REPLICA in dict(labels) for _, labels in apart[0])
    for replica, text in zip(live.replicas, parts[1:], strict=True):
        assert {dict(labels)[REPLICA] for _, labels in values(text)} == {replica.id}


def test_names_that_callers_bring_are_bounded(live: Live):
    shown = values(page(live.front.metrics_address))
    of_fronts = {dict(labels)["identity"] for name, labels in shown if name == "tiltserve_identity_requests_total"}
    assert of_fronts == {"alice", "bob", OTHER}
    rows = sum(value for (name, _), value in shown.items() if name == "tiltserve_identity_rows_total")
    assert 0 < rows <= sum(value for (name, _), value in shown.items() if name == "tiltserve_rows_total")
    spent: dict[str, float] = defaultdict(float)  # each replica bounds its names, and may have seen one fail alone
    for (name, labels), value in shown.items():
        if name == "tiltserve_identity_network_seconds_total":
            spent[dict(labels)["identity"]] += value
    assert {"alice", "bob"} <= spent.keys() <= {*NAMES, OTHER}
    assert all(spent[name] > 0 for name in spent.keys() - {OTHER})


def test_what_failed_is_counted(live: Live):
    assert live.metric("tiltserve_external_failures_total", model="nowhere", code="UNAVAILABLE") == 1
    until(lambda: live.metric("tiltserve_requests_in_flight") == 0)  # a client may have its status before
    assert live.metric("tiltserve_model_load_seconds_count", model="rings") == 2
    assert live.metric("tiltserve_model_replicas", model="rings", state="ready") == 2
    assert live.metric("tiltserve_replicas", state="serving") == 2
    assert live.metric("tiltserve_directory_age_seconds") < 60


def test_traced_requests_are_exemplars(live: Live):
    text = page(live.front.metrics_address, accept="application/openmetrics-text; version=1.0.0")
    families: dict[str, Metric] = {family.name: family for family in openmetrics(text)}
    samples = [each for each in families["tiltserve_request_seconds"].samples if each.exemplar]
    assert samples
    assert all(len(each.exemplar.labels["trace_id"]) == 32 for each in samples if each.exemplar)
    # the whole page is OpenMetrics, which is stricter than the text format
    assert {"tiltserve_rows", "tiltserve_replicas_lost", "nv_inference_count"} <= families.keys()
