"""Dashboards: the files are those of the script, and every query is one, of metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.catalogue import series
from deploy.monitoring.dashboards import FOLDER, written

RULES = yaml.safe_load((FOLDER.parent / "recording.yaml").read_text())["groups"]
RECORDED = {rule["record"]: rule["expr"] for group in RULES for rule in group["rules"]}
FILES = sorted(FOLDER.glob("*.json"))
SELECTOR = re.compile(r"\b((?:tiltserve|nv_inference|process)_?[\w:]*|ALERTS)(?:{([^}]*)})?")
OF_PROMETHEUS = {"namespace", "instance", "alertname", "alertstate"}


def queries(file: Path) -> list[str]:
    dashboard: dict[str, Any] = json.loads(file.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def labels(name: str) -> set[str]:
    """Those of a series, or of a rule: what its outermost aggregation keeps, or that of the rules it is made of."""
    if name == "ALERTS":
        return OF_PROMETHEUS
    if name not in RECORDED:
        return set(series()[name]) | OF_PROMETHEUS
    found = re.search(r"by \(([^)]*)\)", RECORDED[name])
    inner = (labels(each) for each, _ in SELECTOR.findall(RECORDED[name]) if each in RECORDED)
    return set(found[1].split(", ")) if found else set().union(*inner)


def test_the_files_are_those_of_the_script():
    found = {file.name: file.read_text() for file in FILES}
    assert found == written(), "run .venv/bin/python -m deploy.monitoring.dashboards"
    assert len(found) == 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_metric_and_label_exists(file: Path):
    for query in queries(file):
        selectors = SELECTOR.findall(query)
        assert selectors, query
        for name, chosen in selectors:
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", chosen))
            assert asked <= labels(name), (name, query)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_legends_name_labels_that_a_query_keeps(file: Path):
    dashboard = json.loads(file.read_text())
    for target in (each for panel in dashboard["panels"] for each in panel["targets"]):
        wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        kept = re.match(r"(?:\w+\(\d+, )?(?:sum|max|avg|count) by \(([^)]*)\)", target["expr"])
        (name, _), *_ = SELECTOR.findall(target["expr"])
        assert wanted <= (set(kept[1].split(", ")) if kept else labels(name)), target


def test_panels_have_a_place_each():
    for file in FILES:
        places = [panel["gridPos"] for panel in json.loads(file.read_text())["panels"]]
        cells = [(x, y["y"]) for y in places for x in range(y["x"], y["x"] + y["w"])]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing (apt install prometheus)")
def test_prometheus_takes_every_query(tmp_path: Path):
    asked = [query.replace("$__rate_interval", "5m") for file in FILES for query in queries(file)]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(asked)]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    check = ["promtool", "check", "rules", str(tmp_path / "queries.yaml")]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout
