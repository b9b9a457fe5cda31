"""Rules and alerts: what they look at exists, each alert has tests and a section, and Prometheus' own tool agrees."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.catalogue import series
from tests.docs.test_documents import anchors

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "monitoring"
NAME = re.compile(r"\b(?:tiltserve[\w:]*|nv_inference_\w+|process_\w+)\b")
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing (apt install prometheus)")


def rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED, ALERTS = rules("recording.yaml"), rules("alerts.yaml")
TESTS = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())["tests"]


@pytest.mark.parametrize("rule", [*RECORDED, *ALERTS], ids=lambda rule: rule.get("record") or rule.get("alert"))
def test_every_metric_exists(rule: dict[str, Any]):
    known = {*series(), *(each["record"] for each in RECORDED)}
    named = set(NAME.findall(re.sub(r"[{\[(][^{}\[\]()]*=[^{}]*}|by \([^)]*\)|\"[^\"]*\"", " ", rule["expr"])))
    assert named
    assert named <= known


def test_labels_that_are_grouped_by_exist():
    of_all = {label for labels in series().values() for label in labels} | {"namespace"}
    for rule in (*RECORDED, *ALERTS):
        for group in re.findall(r"(?:by|on) \(([^)]*)\)", rule["expr"]):
            assert set(group.split(", ")) <= of_all, rule


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_has_a_section_and_tests(alert: dict[str, Any]):
    assert alert["labels"]["severity"] in ("page", "ticket")
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert anchor == alert["alert"].lower()
    assert anchor in anchors(ROOT / page)
    severity = (ROOT / page).read_text().partition(f"## {alert['alert']}\n")[2].lstrip()
    assert severity.startswith(f"*{alert['labels']['severity'].capitalize()}.*")
    label = f'{{alertname="{alert["alert"]}"}}'
    fires = [label in str(test["promql_expr_test"]) for test in TESTS]
    assert any(fires)
    stem = {name for test, here in zip(TESTS, fires, strict=True) if here for name in changed(test)}
    assert any(not here and stem & set(changed(test)) for test, here in zip(TESTS, fires, strict=True)), "never quiet"


def changed(test: dict[str, Any]) -> list[str]:
    return [each["series"].partition("{")[0] for each in test["input_series"]]


@promtool
def test_prometheus_takes_the_rules():
    check = ["promtool", "check", "rules", "recording.yaml", "alerts.yaml"]
    done = subprocess.run(check, cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
@pytest.mark.slow
def test_each_alert_fires_when_it_should_and_no_other_does():
    test = ["promtool", "test", "rules", "alerts_test.yaml"]
    done = subprocess.run(test, cwd=FOLDER, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
