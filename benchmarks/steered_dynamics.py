"""Rare events of SDEs: Doob's transform beside plain paths, splitting and the exact h.

    make bench ARGS="steered_dynamics"                                    # twenty minutes
    make bench ARGS="steered_dynamics --only OU --seeds 3"
    make bench ARGS="steered_dynamics --draw docs/steered_dynamics.png"   # the picture alone, seconds

Every estimate is of the Euler-Maruyama chain, and beside it is what sums over a fine grid give, which are exact for its
Gaussian steps. A row of the table is one problem and method: the estimate over the exact probability (mean and standard
deviation over seeds; its error as the runs themselves tell it), the share of runs that saw nothing, the share of paths
that reached the event, effective paths, network rows of setup and of the paths, reward rows, seconds of CPU.
"""

import argparse
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from steering.dynamics import Ask, Reply
from steering.dynamics.doob import Aim, Chain, Grid, Settings, Weighted, by_splitting, learnt, plain, steered
from steering.dynamics.doob.log_h import Judged
from steering.sampling.rows import answered

N = 256
DOUBLE = torch.float64


@dataclass
class Problem:
    """An SDE with constant diffusion, seen through one or two coordinates in which it is closed.

    Attributes:
        drift: of these coordinates [m, q].
        turn: an orthogonal matrix [d, d]: the state is `turn` times the coordinates and d - q others, each an
            Ornstein-Uhlenbeck process that nothing depends on.
        threshold: of the first coordinate at the end.
    """

    name: str
    drift: Callable[[Tensor], Tensor]
    sigma: float
    until: float
    steps: int
    start: tuple[float, ...]
    threshold: float
    reach: tuple[float, ...]
    turn: Tensor = field(default_factory=lambda: torch.eye(1, dtype=DOUBLE))
    rows: Counter[str] = field(default_factory=Counter)

    @property
    def chain(self) -> Chain:
        inner = torch.zeros(len(self.turn), dtype=DOUBLE)
        inner[: len(self.start)] = torch.tensor(self.start, dtype=DOUBLE)
        times = torch.linspace(0, self.until, self.steps + 1, dtype=DOUBLE)
        return Chain(start=self.turn @ inner, times=times)

    @property
    def aim(self) -> Aim:
        return Aim(threshold=self.threshold)

    def inner(self, y: Tensor) -> Tensor:
        return y @ self.turn[:, : len(self.start)]

    def answer(self, ask: Ask) -> Reply:
        self.rows[ask.part] += len(ask)
        if ask.part == "reward":
            return {"reward": self.inner(ask.y)[:, 0]}
        inner = ask.y @ self.turn
        drift = -inner
        drift[:, : len(self.start)] = self.drift(inner[:, : len(self.start)])
        return {"drift": drift @ self.turn.T, "diffusion": torch.full_like(ask.y, self.sigma)}


@dataclass
class Exact:
    """The chain's own log h, by sums over a grid that is much finer than a step is wide."""

    problem: Problem
    grid: Grid
    logs: list[Tensor]

    @classmethod
    def of(cls, problem: Problem) -> "Exact":
        reach = torch.tensor(problem.reach, dtype=DOUBLE)
        grid = Grid.over(-reach, reach, (1201,) if len(reach) == 1 else (161, 141))
        dt, sd = problem.until / problem.steps, problem.sigma * math.sqrt(problem.until / problem.steps)
        mean = grid.points + problem.drift(grid.points) * dt
        kernels = []
        for i, axis in enumerate(grid.axes):
            step = float(axis[1] - axis[0])
            kernels.append(
                torch.exp(-((axis[None] - mean[:, i : i + 1]) ** 2) / (2 * sd**2))
                * (step / sd / math.sqrt(2 * math.pi))
            )
        h = torch.special.ndtr((mean[:, 0] - problem.threshold) / sd)
        logs = [torch.zeros(()), h]
        for _ in range(problem.steps - 1):
            table = h.reshape(grid.shape)
            h = kernels[0] @ table if len(kernels) == 1 else ((kernels[0] @ table) * kernels[1]).sum(dim=1)
            logs.append(h)
        return cls(
            problem,
            grid,
            [each.clamp(min=1e-300).log().reshape(grid.shape) if each.dim() else each for each in logs[::-1]],
        )

    def judge(self, k: int, y: Tensor, before: Tensor) -> Generator[Ask, Reply, Judged]:
        yield from ()
        inner = self.problem.inner(y)
        s = inner[:, 0]
        return Judged(self.problem.aim.log_weight(s) if k == self.problem.steps else self._log(k, inner), s, s)

    def judge_start(self, y: Tensor, s: Tensor) -> Generator[Ask, Reply, Tensor]:
        yield from ()
        return self._log(0, self.problem.inner(y))

    def _log(self, k: int, inner: Tensor) -> Tensor:
        return self.grid.at(self.logs[k], inner)

    @property
    def probability(self) -> float:
        return float(self._log(0, torch.tensor([self.problem.start], dtype=DOUBLE)).exp())


def well(x: Tensor) -> Tensor:
    return 4 * (x - x**3)


def hidden(x: Tensor) -> Tensor:
    """A double well that a slow second coordinate pushes, which the reward does not see."""
    return torch.stack([well(x[:, 0]) + 2 * x[:, 1], -x[:, 1] / 2], dim=1)


def turned(d: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=DOUBLE))[0]


class Net(nn.Module):
    """A neural SDE: drift by a perceptron, one diffusion."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        self.log_sigma = nn.Parameter(torch.tensor(-0.5))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers(y), torch.exp(self.log_sigma) * torch.ones_like(y)


def neural(folder: Path, steps: int = 60, until: float = 2.0) -> Problem:
    """Learnt from paths of the double well by the likelihood of their steps, then exported to ONNX."""
    torch.manual_seed(0)
    dt, sigma, generator = until / steps, 0.6, np.random.default_rng(0)
    z, before, after = generator.uniform(-1.8, 1.8, 4000), list[np.ndarray](), list[np.ndarray]()
    for _ in range(30):
        before.append(z)
        z = z + 4 * (z - z**3) * dt + sigma * math.sqrt(dt) * generator.standard_normal(len(z))
        after.append(z)
    x, y = (torch.tensor(np.concatenate(each), dtype=torch.float32)[:, None] for each in (before, after))
    net = Net()
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, 1200)
    for _ in range(1200):
        some = torch.randint(len(x), (2048,))
        drift, diffusion = net(x[some])
        spread = diffusion * math.sqrt(dt)
        loss = (((y[some] - x[some] - drift * dt) / spread) ** 2 / 2 + spread.log()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    file = folder / "neural.onnx"
    torch.onnx.export(
        net.eval(), (torch.zeros(3, 1),), str(file), input_names=["y"], output_names=["drift", "diffusion"],
        dynamic_shapes={"y": {0: torch.export.Dim("batch")}}, dynamo=True, verbose=False,
    )  # fmt: skip
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def drift_of(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["drift"], {"y": x.numpy().astype(np.float32)})[0]).to(DOUBLE)

    found = float(torch.exp(net.log_sigma.detach()))
    return Problem("neural SDE (ONNX)", drift_of, found, until, steps, (-1.0,), 0.8, (3.0,))


def problems(folder: Path) -> list[Problem]:
    def ou(x: Tensor) -> Tensor:
        return -x

    return [
        Problem("OU", ou, 1.0, 2.0, 40, (0.0,), 1.6, (5.0,)),
        Problem("OU", ou, 1.0, 2.0, 40, (0.0,), 2.2, (5.0,)),
        Problem("OU", ou, 1.0, 2.0, 40, (0.0,), 2.8, (5.0,)),
        Problem("double well, sigma .7", well, 0.7, 2.0, 60, (-1.0,), 0.8, (3.0,)),
        Problem("double well, sigma .7", well, 0.7, 2.0, 60, (-1.0,), 0.8, (3.0,), turned(10)),
        Problem("double well, sigma .5", well, 0.5, 2.0, 60, (-1.0,), 0.8, (3.0,)),
        Problem("double well, sigma .5", well, 0.5, 2.0, 60, (-1.0,), 0.8, (3.0,), turned(10)),
        Problem("hidden slow mode", hidden, 0.5, 2.0, 60, (-1.0, 0.0), 0.8, (2.8, 2.6), torch.eye(2, dtype=DOUBLE)),
        neural(folder),
    ]


Run = Callable[[Problem, int, Tensor], tuple[Weighted, int]]


def methods(problem: Problem, exact: Exact) -> dict[str, Run]:
    """Each from a seed to weighted paths and the network rows that it took before them."""

    def doob(**settings: object) -> Run:
        chosen = Settings(**settings)  # type: ignore[arg-type]

        def run(problem: Problem, seed: int, keep: Tensor) -> tuple[Weighted, int]:
            log_h = answered(learnt(problem.chain, problem.aim, seed, chosen), problem.answer)
            setup = problem.rows["field"]
            found = answered(steered(problem.chain, problem.aim, log_h, N, seed, keep, chosen), problem.answer)
            return found, setup

        return run

    def exactly(problem: Problem, seed: int, keep: Tensor) -> tuple[Weighted, int]:
        return answered(steered(problem.chain, problem.aim, exact, N, seed, keep, Settings()), problem.answer), 0

    def split(problem: Problem, seed: int, keep: Tensor) -> tuple[Weighted, int]:
        return answered(by_splitting(problem.chain, problem.aim, N, seed, keep), problem.answer), 0

    def unsteered(problem: Problem, seed: int, keep: Tensor) -> tuple[Weighted, int]:
        paths = 1280 * 3 // 2
        return answered(plain(problem.chain, problem.aim, paths, seed, keep), problem.answer), 0

    found: dict[str, Run] = {
        "plain, 1,920 paths": unsteered, "splitting": split, "exact h": exactly, "doob, h of the reward": doob(),
    }  # fmt: skip
    if len(problem.turn) <= 2:
        found["doob, h of the state"] = doob(coordinate="state")
        found["doob, h on a grid"] = doob(coordinate="grid", cells=128 if len(problem.turn) == 1 else 64, steady=True)
    return found


def line(problem: Problem, exact: Exact, run: Run, seeds: Sequence[int]) -> str:
    keep, rows, begun = torch.tensor([0, problem.steps]), list[Sequence[float]](), time.process_time()
    for seed in seeds:
        problem.rows.clear()
        found, setup = run(problem, seed, keep)
        probability = math.exp(found.log_normaliser)
        rows.append((
            probability / exact.probability, found.relative_error, float(probability == 0),
            float((found.log_weights > -torch.inf).to(DOUBLE).mean()), found.ess, setup,
            problem.rows["field"] - setup, problem.rows["reward"],
        ))  # fmt: skip
    table = torch.tensor(rows, dtype=DOUBLE)
    mean, spread = table.mean(dim=0).tolist(), table.std(dim=0).tolist()
    said = table[:, 1][table[:, 1].isfinite()]
    told = f"{float(said.mean()):.2f}" if len(said) else "-"
    seconds = (time.process_time() - begun) / len(seeds)
    return (
        f"{mean[0]:.2f} ± {spread[0]:.2f} | {told} | {mean[2]:.1f} | {mean[3]:.2f} | {mean[4]:.0f} | "
        f"{mean[5]:,.0f} + {mean[6]:,.0f} | {mean[7]:,.0f} | {seconds:.1f}"
    )


def draw(file: Path) -> None:
    """Paths of the double well, unsteered and steered to the other side."""
    from matplotlib.figure import Figure

    problem = Problem("double well", well, 0.5, 2.0, 60, (-1.0,), 0.8, (3.0,))
    exact = Exact.of(problem)
    chain, aim, keep, settings = problem.chain, problem.aim, torch.arange(61), Settings()
    unsteered = answered(plain(chain, aim, 128, 1, keep), problem.answer)
    log_h = answered(learnt(chain, aim, 0, settings), problem.answer)
    found = answered(steered(chain, aim, log_h, 128, 1, keep, settings), problem.answer)
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    weights = torch.softmax(found.log_weights, dim=0) * found.ess
    for axis, paths, shown in ((left, unsteered, torch.ones(128)), (right, found, weights)):
        for path, weight in zip(paths.y[:, :, 0], shown.clamp(max=1.0).tolist(), strict=True):
            axis.plot(chain.times, path, color="tab:blue", lw=0.7, alpha=0.05 + 0.45 * weight)
        axis.axhline(problem.threshold, color="tab:red", lw=1, ls="--")
        axis.set_xlabel("t")
    probability = math.exp(found.log_normaliser)
    left.set_title(f"128 paths, unsteered: P(y(2) ≥ 0.8) = {exact.probability:.2e}", fontsize=10)
    right.set_title(
        f"128 steered paths: estimate {probability:.2e} ± {probability * found.relative_error:.0e}", fontsize=10
    )
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=100, help="the first seed")
    parser.add_argument("--only", default="", help="problems with this in their names")
    parser.add_argument("--draw", type=Path, help="draw paths into this file, and nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.draw is not None:
        draw(arguments.draw)
        return
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    heads = "problem|P|method|estimate / exact|its own error|nothing seen|reach|ESS|rows: setup + paths|reward rows|s"
    print(f"| {' | '.join(heads.split('|'))} |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for problem in problems(Path(folder)):
            if arguments.only not in problem.name:
                continue
            exact = Exact.of(problem)
            for name, run in methods(problem, exact).items():
                told = line(problem, exact, run, seeds)
                print(
                    f"| {problem.name}, d={len(problem.turn)} | {exact.probability:.1e} | {name} | {told} |", flush=True
                )


if __name__ == "__main__":
    main()
