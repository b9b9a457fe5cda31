"""The response parameters that tell how steering went."""

import json
import math
from typing import Any

import torch
from torch import Tensor

from serving.requests.methods import Steered
from serving.wire.tensors import Parameter
from steering.sampling.sampler import Report

DIGITS = 4


def echoed(report: Report, steered: Steered, x: Tensor) -> dict[str, Parameter]:
    """The response parameters about a run that drew x [n, *event]: rows, effective sizes, log Z, and a JSON `report`.

    Rows of a target's setup are spent once for each target and replica but reported every time, so that equal requests
    have equal answers.
    """
    setup_network, setup_reward = steered.setup_rows
    parameters: dict[str, Parameter] = {
        "network_rows": report.network_rows,
        "reward_rows": report.reward_rows,
        "setup_rows": setup_network,
        "setup_reward_rows": setup_reward,
        "steering": steered.method,
        "warnings": "; ".join([*steered.notes, *report.warnings, *_further(report, steered, x)]),
    }
    if report.gradient_rows or report.reward_gradient_rows:
        parameters["gradient_rows"] = report.gradient_rows
        parameters["reward_gradient_rows"] = report.reward_gradient_rows
    if steered.posterior:
        parameters["posterior"] = steered.posterior
    if report.ess.numel():
        parameters["ess"] = float(report.ess.mean())
    if (log_z := _log_z(report)) is not None and math.isfinite(log_z):
        parameters["log_z"] = log_z
    if steered.steer is not None:
        parameters["report"] = json.dumps(_details(report, steered, x), separators=(",", ":"))
    return parameters


def _details(report: Report, steered: Steered, x: Tensor) -> dict[str, Any]:
    corrections = sum(report.methods.values())
    details: dict[str, Any] = {
        "ess": [] if not report.ess.numel() else _rounded(report.ess.to(torch.float64).mean(dim=1)),
        "methods": {name: _round(count / corrections) for name, count in sorted(report.methods.items()) if count},
        "choices": [*steered.choices, *report.choices],
        "no_hit": report.no_hit,
    }
    if steered.by_law is not None:
        laws = steered.by_law.laws
        details["residuals"] = {"laws": len(laws.laws), "draws": laws.laws[0].draws}
        if laws.scales:
            details["residuals"]["scale"] = [_round(min(laws.scales)), _round(max(laws.scales))]
    if (log_z := _log_z(report)) is not None:
        details["log_z"] = _round(log_z) if math.isfinite(log_z) else None  # JSON has no infinity
    if report.population_ess is not None:
        details["population_ess"] = _rounded(report.population_ess.to(torch.float64).mean(dim=1))
    if report.rewards is not None:
        details["distinct"] = _distinct(x)
        if steered.threshold is not None:
            details["hits"] = _round(float((report.rewards >= steered.threshold).to(torch.float64).mean()))
    return details


def _further(report: Report, steered: Steered, x: Tensor) -> list[str]:
    """Warnings that need the finished samples."""
    if steered.steer is None or report.rewards is None:
        return []
    said, n = [], len(x)
    if steered.threshold is not None and not bool((report.rewards >= steered.threshold).any()):
        best = float(report.rewards.max())
        said.append(f"no sample meets the threshold {steered.threshold:g}: the best reward is {best:.{DIGITS}g}")
    if (distinct := _distinct(x)) < n:
        said.append(f"{distinct} of {n} samples are distinct, the others are copies of them")
    return said


def _log_z(report: Report) -> float | None:
    """log of the mean of Z over populations: the mean is unbiased, and its logarithm nearly so."""
    if report.log_z is None:
        return None
    log_z = report.log_z.to(torch.float64)
    return float(torch.logsumexp(log_z, dim=0)) - math.log(len(log_z))


def _distinct(x: Tensor) -> int:
    return len({sample.numpy().tobytes() for sample in x})


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _rounded(values: Tensor) -> list[float]:
    return [_round(value) for value in values.tolist()]
