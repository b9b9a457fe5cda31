"""What every peer runs for a batch of requests: diffusers' DPM-Solver++(2M) around the served network."""

import copy
import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

EVENT = (1, 28, 28)
Strategy = Literal["grouped", "ragged", "padded"]
STRATEGIES: tuple[Strategy, ...] = ("grouped", "ragged", "padded")
Loop = Generator[tuple[Tensor, Tensor], Tensor, Tensor]


@dataclass(frozen=True)
class Job:
    """A request: `samples` images by `steps` steps. After `deadline` (time.time()) nobody waits for it."""

    samples: int
    steps: int
    seed: int
    deadline: float

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> "Job":
        return cls(int(fields["samples"]), int(fields["steps"]), int(fields["seed"]), int(fields["deadline_us"]) / 1e6)


@dataclass
class Counters:
    """Rows the network computed, of them rows that a request's own steps needed; calls, batches and requests.

    `dropped` requests were past their deadline when their batch began, and cost no rows.
    """

    computed: int = 0
    needed: int = 0
    calls: int = 0
    batches: int = 0
    requests: int = 0
    dropped: int = 0


def session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    """As tiltserve's replicas open it: threads that spin take the cores from the server beside them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


class Sampler:
    """Runs batches of requests one after another; not for several threads.

    Args:
        strategy: what becomes of unequal steps in a batch. `grouped`: requests of equal steps run together, one group
            after another. `ragged`: all groups share each network call, and leave it when they are done. `padded`: all
            rows stay in the call until the longest is done.
        counters: JSON file written after each batch.
    """

    def __init__(self, model: Path, *, threads: int, strategy: Strategy, counters: Path) -> None:
        torch.set_num_threads(1)  # its operations are far smaller than the network
        self._session, self._strategy, self._file = session(model, threads), strategy, counters
        self._counters = Counters()
        # Nichol and Dhariwal's cosine schedule, which the model was trained on; the bound is the one that diffusers
        # recommends for it
        self._scheduler: Any = DPMSolverMultistepScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", lambda_min_clipped=-5.1
        )
        self._run([self._loop([Job(1, 2, 0, 0.0)], 2)])
        self._counters = Counters()
        self._write()

    def __call__(self, jobs: Sequence[Job]) -> list[np.ndarray[Any, np.dtype[np.float32]] | None]:
        """Samples [job.samples, 1, 28, 28] of each job; None where its deadline has passed."""
        now = time.time()
        groups: dict[int, list[int]] = {}
        for index, job in enumerate(jobs):
            if job.deadline > now:
                groups.setdefault(job.steps, []).append(index)
        answers: list[np.ndarray[Any, np.dtype[np.float32]] | None] = [None] * len(jobs)
        members = [groups[steps] for steps in sorted(groups)]
        loops = [self._loop([jobs[i] for i in each], jobs[each[0]].steps) for each in members]
        runs = [[loop] for loop in loops] if self._strategy == "grouped" else [loops]
        results = [result for run in runs for result in self._run(run)]
        for each, result in zip(members, results, strict=True):
            parts = np.split(result.numpy(), np.cumsum([jobs[i].samples for i in each])[:-1])
            for index, part in zip(each, parts, strict=True):
                answers[index] = part
        taken = [job for job, answer in zip(jobs, answers, strict=True) if answer is not None]
        self._counters.needed += sum(job.samples * job.steps for job in taken)
        self._counters.batches += 1
        self._counters.requests += len(taken)
        self._counters.dropped += len(jobs) - len(taken)
        self._write()
        return answers

    def _loop(self, jobs: Sequence[Job], steps: int) -> Loop:
        """Yields states and times [rows], takes the network's output, returns the samples of all jobs."""
        scheduler = copy.copy(self._scheduler)
        scheduler.set_timesteps(steps)
        x = torch.cat([torch.randn((j.samples, *EVENT), generator=torch.Generator().manual_seed(j.seed)) for j in jobs])
        for step in scheduler.timesteps:
            time_input = (step.to(torch.float32) + 1) / scheduler.config.num_train_timesteps
            output = yield x, time_input.expand(len(x))
            x = scheduler.step(output, step, x, return_dict=False)[0]
        return x

    def _run(self, loops: Sequence[Loop]) -> list[Tensor]:
        """Advance loops together, one network call a round, and give their results."""
        asked = [next(loop) for loop in loops]
        results: list[Tensor | None] = [None] * len(loops)
        while any(result is None for result in results):
            active = [i for i, result in enumerate(results) if result is None]
            rows = range(len(loops)) if self._strategy == "padded" else active
            x, t = torch.cat([asked[i][0] for i in rows]), torch.cat([asked[i][1] for i in rows])
            output = torch.from_numpy(self._session.run(None, {"x": x.numpy(), "t": t.numpy()})[0])
            self._counters.calls += 1
            self._counters.computed += len(x)
            for i, part in zip(rows, output.split([len(asked[i][0]) for i in rows]), strict=True):
                if results[i] is None:
                    try:
                        asked[i] = loops[i].send(part)
                    except StopIteration as stop:
                        results[i] = stop.value
        return [result for result in results if result is not None]

    def _write(self) -> None:
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self._counters)))
        partial.replace(self._file)
