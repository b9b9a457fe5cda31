"""The alerts' end-to-end script: its faults name alerts, and its rules are those of the fleet on a faster clock."""

import re

import yaml

from benchmarks._panels import SHOWN
from benchmarks._prometheus import RULES, faster
from benchmarks.alerts import BUSY, FAULTS, SLOW
from deploy.monitoring.dashboards import DASHBOARDS


def test_windows_and_waits_are_shorter_and_names_stay():
    rules = "record: a:rate5m\nexpr: rate(x[5m]) > 0.9 * (y offset 10m)\nfor: 2m\ninterval: 2m"
    assert faster(rules, 20) == (
        "record: a:rate5m\nexpr: rate(x[15000ms]) > 0.9 * (y offset 30000ms)\nfor: 6000ms\ninterval: 6000ms"
    )
    for file in ("recording.yaml", "alerts.yaml"):
        text = (RULES / file).read_text()
        quick = faster(text, 20)
        assert not re.findall(r"\[\d+[smhd]\]|offset \d+[smhd]\b|for: \d+[smhd]\b", quick)
        assert (
            yaml.safe_load(quick)["groups"][0]["rules"][0].keys()
            == yaml.safe_load(text)["groups"][0]["rules"][0].keys()
        )


def test_faults_name_alerts_and_panels_that_there_are():
    alerts = {
        rule["alert"]
        for group in yaml.safe_load((RULES / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    }
    named = {name for fault in FAULTS for name in (*fault.must, *fault.may)}
    assert {f"Tiltserve{name}" for name in (*named, *BUSY, *SLOW)} <= alerts
    panels = {f"{board.title}: {panel.title}" for board in DASHBOARDS for panel in board.panels}
    for fault, panel, alert in SHOWN:
        assert panel in panels
        assert alert in next(each.must for each in FAULTS if each.name == fault)
