"""What a request for samples is admitted with: the rows that it takes, how many at a time, and the memory it holds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

import steering
from serving.models.described import pullback_units
from serving.models.model import Sampler
from serving.requests import likelihood, trajectory
from serving.requests.around import Around
from serving.requests.methods import Steered
from serving.rewards import Reward
from serving.wire.parameters import Parameters
from serving.wire.rows import likelihood_rows_at_once, pullback_rows, rows_of
from serving.wire.tensors import Parameter

STATE_BYTES = 12 * 4
"""Bytes held for each number of a state: about twelve float32 tensors."""


@dataclass(frozen=True)
class Load:
    """Network rows, at most; how many are asked for at a time; bytes, about; and what could be asked for instead."""

    network_rows: int
    rows_at_once: int
    bytes: int
    hint: str = ""


@dataclass(frozen=True)
class Admitted:
    """The figures of one request.

    Attributes:
        options: of the solver, by name.
    """

    around: Around
    model: Sampler
    problem: steering.Problem
    parameters: Parameters
    options: Mapping[str, Parameter]

    @property
    def _doubled(self) -> int:
        """Rows that guidance makes of one."""
        return 2 if self.problem.condition and self.parameters.guidance != 1 else 1

    def likelihoods(self) -> Load:
        """Of a request for likelihoods."""
        n, probes = self.parameters.samples, self.parameters.probes
        at_once = n * self._doubled * likelihood_rows_at_once(probes)
        together = min(n, likelihood.group_size(probes, self.problem.event)) * at_once // n
        return Load(rows_of(self.parameters, self.options), at_once, self._states(n) + self._told(together))

    def samples(self, steered: Steered, reward: Reward | None, group: int) -> Load:
        """Of a request for samples, of which so many are drawn together."""
        n, steer = self.parameters.samples, steered.steer
        rows = self._network_rows(rows_of(self.parameters.here, self.options, self.problem.plan.most_rows))
        rows += pullback_rows(self.parameters, rows, pullback_units(self.model))
        rows += self.around.rows(self.parameters, reward)
        held = n + group * (0 if steer is None else steer.held)
        at_once = steering.rows_at_once(steer, group) * self._doubled
        size = self._states(held) + self._told(at_once) + self.around.held(self.parameters)
        if self.parameters.trajectory:
            size += trajectory.held(group, self.problem.event, self.problem.plan)
        lacking = [] if steered.by_law is None else steered.by_law.laws.lacking
        if not lacking:
            return Load(rows, at_once, size)
        most = lacking[0].draws
        size += sum(each.bytes for each in lacking) + self._states(most) + self._told(most * self._doubled)
        evaluations_alone = rows / at_once + sum(each.stages for each in lacking)
        once_only = sum(each.network_rows for each in lacking)
        rows += once_only
        hint = f"{once_only} of its rows are draws that are made once; residual_wait=false steers without them"
        return Load(rows, max(1, round(rows / evaluations_alone)), size, hint)

    def _told(self, rows: int) -> int:
        """Bytes that conditions of so many rows take: what rows only refer to is there in a call alone."""
        sent = sum(each[0].numel() * each.element_size() for each in self.problem.condition.values())
        return rows * sent + min(rows, self.model.network.costs.largest) * self.around.row_bytes

    def _states(self, states: int) -> int:
        """Estimated bytes held by so many states: registers, estimates, rows and replies."""
        return states * math.prod(self.problem.event) * STATE_BYTES

    def _network_rows(self, most: int) -> int:
        """Network rows of a request for samples, `most` where null rows are asked at every stage.

        Exact for tables; what draws otherwise, or looks ahead by roll-outs, is at times of its own.
        """
        problem, stages = self.problem, len(self.problem.plan.stages)
        everywhere = problem.guidance == 1 or problem.guidance_interval is None
        if everywhere or not stages or self.parameters.posterior == "rollout":
            return most
        return most // (2 * stages) * (stages + guided_stages(problem))


def guided_stages(problem: steering.Problem) -> int:
    """Stages of a table at which null rows are asked for."""
    times = torch.tensor([stage.denoise.t for stage in problem.plan.stages], dtype=torch.float64)
    guided = problem.guided(times)
    return 0 if guided is None else len(times[guided])
