"""Some panels of the dashboards as a picture, of what Prometheus saw while faults were put into a fleet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

SHOWN = (
    ("a replica is killed again and again", "Tiltserve fleet: Replicas that take requests", "ReplicaFlapping"),
    ("the reward's service is down", "Tiltserve steering: Reward services: failures", "RewardFailing"),
    ("more with deadlines of 1 s than can be done", "Tiltserve fleet: Refused", "DeadlineRefusals"),
    ("more than can be done", "Tiltserve capacity: Work waiting", "BacklogNotShrinking"),
    ("both replicas hang", "Tiltserve fleet: Replicas that take requests", "ModelNotReady"),
    ("the directory hangs", "Tiltserve fleet: Age of the list of replicas", "DirectoryLost"),
)
"""Faults, each with the panel that shows it, and its alert."""


def draw(
    lines: Mapping[str, Mapping[str, Any]], told: Mapping[str, Mapping[str, float]], began: float, file: Path
) -> None:
    """Writes the picture.

    Args:
        lines: of each panel by fault, as Prometheus gives them, with times since its start.
        told: when each alert came by fault, in seconds after the fault began.
        began: when faults began, in seconds after Prometheus.
    """
    figure = Figure(figsize=(13, 6), layout="constrained")
    for axis, (fault, panel, alert) in zip(figure.subplots(2, 3).flat, SHOWN, strict=True):
        for each in lines.get(fault, {}).get(panel, []):
            labels = [value for name, value in each["metric"].items() if name not in ("__name__", "instance", "job")]
            axis.plot(*zip(*((at - began, y) for at, y in each["values"]), strict=True), label=" ".join(labels), lw=1)
        axis.axvline(0, color="0.6", lw=1)
        if (at := told.get(fault, {}).get(alert)) is not None:
            axis.axvline(at, color="tab:red", lw=1.5)
            place = {"xycoords": ("data", "axes fraction"), "rotation": 90, "va": "top", "ha": "right"}
            axis.annotate(alert, (at, 1), color="tab:red", fontsize=8, **place)
        axis.set_title(f"{panel.partition(': ')[2]}\n{fault}", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("seconds after the fault began", fontsize=8)
        if axis.get_legend_handles_labels()[1] and len(axis.lines) < 9:
            axis.legend(fontsize=7, loc="center left")
    figure.savefig(file, dpi=80)
