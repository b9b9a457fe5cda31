"""Writes the chart's README.md from the comments of values.yaml, and copies rules and dashboards into the chart.

python -m k8s.readme            # after a change of values.yaml or deploy/monitoring
python -m k8s.readme --check    # exit code 1 where a file is not what it would write
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "k8s" / "chart" / "tiltserve"
MONITORING = ROOT / "deploy" / "monitoring"
RULES = ("alerts.yaml", "recording.yaml")
FILES = CHART / "files" / "monitoring"
_HEAD = """\
# The chart tiltserve

{description}. How to install, guard, upgrade and watch it: [Kubernetes](../../../docs/kubernetes.md).

    helm install steer k8s/chart/tiltserve --namespace models --create-namespace

Needs Kubernetes {kubernetes} and KubeRay's operator 1.6 or newer. Optional: cert-manager, Prometheus' operator, KEDA.

## Values

`values.schema.json` refuses what is not in this table. Written from `values.yaml` by `python -m k8s.readme`.

| value | default | what it is |
| --- | --- | --- |
"""


def main() -> int:
    """Write the files, or compare them; the exit code."""
    wanted = files()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    extra = [path for path in FILES.rglob("*") if path.is_file() and path not in wanted]
    if "--check" in sys.argv[1:]:
        for path in [*stale, *extra]:
            print(f"{path.relative_to(ROOT)}: expected what python -m k8s.readme writes", file=sys.stderr)
        return 1 if stale or extra else 0
    for path in extra:
        path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


def files() -> dict[Path, str]:
    """The text of each file that is made of others."""
    made = {CHART / "README.md": page()}
    made |= {FILES / name: (MONITORING / name).read_text() for name in RULES}
    made |= {FILES / "dashboards" / path.name: path.read_text() for path in MONITORING.glob("dashboards/*.json")}
    return made


def page() -> str:
    """README.md."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    head = _HEAD.format(
        description=chart["description"],
        kubernetes=chart["kubeVersion"].removeprefix(">=").removesuffix(".0-0") + " or newer",
    )
    rows = (f"| `{name}` | {default} | {text} |\n" for name, default, text in described())
    return head + "".join(rows)


def described() -> Iterator[tuple[str, str, str]]:
    """Name, default and comment of each value that has a comment.

    Raises:
        SystemExit: a value lies under no comment.
    """
    text = (CHART / "values.yaml").read_text()
    comments = dict(_comments(text))
    covered = set[str]()
    for name, value in _walk(yaml.safe_load(text)):
        if name in comments:
            covered.add(name)
            yield name, f"`{json.dumps(value)}`", comments[name].replace("|", "\\|")
        elif not isinstance(value, dict) and not any(name.startswith(f"{above}.") for above in covered):
            raise SystemExit(f"error: values.yaml: expected a comment that begins with -- over {name}, got none")


def _walk(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield above + key, value
        if isinstance(value, dict):
            yield from _walk(value, f"{above}{key}.")


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """(value's name, comment) of `# -- comment` over `key:`, by indentation."""
    path, waiting = list[tuple[int, str]](), ""
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*# -- (.*)", line):
            waiting = match[1]
        elif match := re.match(r"( *)([A-Za-z]\w*):", line):
            indent = len(match[1])
            path = [each for each in path if each[0] < indent] + [(indent, match[2])]
            if waiting:
                yield ".".join(key for _, key in path), waiting
            waiting = ""


if __name__ == "__main__":
    sys.exit(main())
