"""Steered samples beside the exact tilted law and beside rivals at equal budgets, on random mixtures.

    make bench ARGS="steering --draw docs/steering.png"  # about 20 minutes on two cores
    make bench ARGS="steering --quick"                   # under 2

Every line is a model, a reward and a method: the energy distance to samples of the exact tilted law beside the floor
(that of exact samples) and the unsteered value, sliced W2, the one-dimensional law of the reward, and what was spent.
Each run draws its own models unless given the seed of another. Rivals may spend the rows that Doob at its defaults
spent in the same cell, with what it spent once on its bank divided among the samples; a vector-Jacobian product counts
as two rows.
"""

import csv
import json
import math
import secrets
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import steering
from steering import baselines
from steering.problems import EnergyDistance, Projected, sliced_wasserstein, wasserstein
from steering.problems.zoo import REWARDS, Case, case
from steering.sampling.sampler import Steering

ROOT = Path(__file__).resolve().parents[1]
DIMENSIONS = (2, 8, 32, 128)
REFERENCE, FLOORS = 4096, 8
NEAR, FLOOR = 0.02, 2.0
"""A cell is reached within 2% of the unsteered distance, or twice the floor."""
STEPS, PARTICLES = 20, 32
MOST_STEPS = 100
OURS = ("doob", "doob-sde", "smc")


@dataclass(frozen=True)
class Budget:
    """Rows per sample a method may spend."""

    network: int
    reward: int


@dataclass(frozen=True)
class Draw:
    """How a method draws: its steering and the plan it runs on."""

    steer: Steering | None
    solver: str = "dpmpp_2m"
    steps: int = STEPS
    eta: float | None = None


def even(number: float, least: int = 2, most: int = 32) -> int:
    return int(min(max(number // 2 * 2, least), most))


def aim(c: Case) -> dict[str, Any]:
    """The target as methods take it that know thresholds."""
    return {"reward": c.target.reward, "beta": c.target.beta, "threshold": c.target.threshold}


def indicator(c: Case) -> Callable[[Tensor], Tensor]:
    """The reward whose tilt is the law, for methods that know no thresholds."""
    return c.target.reward if c.target.threshold is None else c.law.reward


def smooth(c: Case) -> Callable[[Tensor], Tensor]:
    """The same for rivals that look ahead: an event's edge becomes a sigmoid, a tenth as wide as a component.

    They go by r(D(x_t)), which is on the wrong side of an edge for nearly all x_t: told of an indicator, SVDD and FK
    steering hardly ever hit a rare event, told of this most of the time. Ten times as wide is worse.
    """
    threshold, score = c.target.threshold, c.target.reward
    if threshold is None:
        return score
    assert isinstance(c.law, Projected)
    width = 0.1 * float((c.law.projection @ c.model.covariances @ c.law.projection.T).mean().sqrt())
    return lambda x: torch.nn.functional.logsigmoid((score(x) - threshold) / width)


def doit(c: Case, b: Budget) -> Draw:
    """The reference at a published setting, probes and chains cut to the budget: 15 steps, of which 8 are guided and,
    through the network's Jacobian, three times as dear."""
    chains = max(1, min(8, b.network // (15 + 2 * 8)))
    probes = even(b.reward / (8 * chains))
    preset = baselines.PRESETS["hopper-medium-v2"]
    steer = baselines.Doit(
        c.target.reward, tau=preset.tau, gamma=preset.gamma, t_star=8, probes=probes, particles=chains, jacobian=True
    )
    return Draw(steer, "ddim", 15, preset.eta)


def doit_beta(c: Case, b: Budget) -> Draw:
    """Its estimator with weights exp(r / beta), full strength and no choice at the end: aimed at the tilted law."""
    steps = min(b.network, MOST_STEPS, b.reward // 2)
    steer = baselines.Doit(indicator(c), beta=1.0, gamma=1.0, t_star=steps, probes=even(b.reward / steps))
    return Draw(steer, "ddim", steps, 1.0)


def lgd_mc(c: Case, b: Budget) -> Draw:
    steps = max(2, min(b.network // 3, MOST_STEPS))
    return Draw(baselines.LgdMc(smooth(c), draws=even(b.reward / (3 * steps))), steps=steps)


def tfg(c: Case, b: Budget) -> Draw:
    steps, iterations = max(2, min(b.network // 3, MOST_STEPS)), 2
    steer = baselines.Tfg(smooth(c), iterations=iterations, draws=even(b.reward / (3 * iterations * steps), most=8))
    return Draw(steer, steps=steps)


def large(chains: int) -> dict[str, Any]:
    """Populations of which 64 samples are kept, from `chains` times as many."""
    return {"particles": 64 * max(1, chains), "keep": 64}


METHODS: dict[str, Callable[[Case, Budget], Draw]] = {
    "none": lambda c, b: Draw(None),
    "doob": lambda c, b: Draw(steering.Doob(**aim(c))),
    "doob-sde": lambda c, b: Draw(steering.Doob(**aim(c)), "sde_dpmpp_2m"),
    "smc": lambda c, b: Draw(steering.Smc(**aim(c), inner=steering.Doob(**aim(c))), "sde_dpmpp_2m"),
    "best_of": lambda c, b: Draw(baselines.BestOf(c.target.reward, max(1, b.network // STEPS))),
    "bank_resampling": lambda c, b: Draw(baselines.BankResampling(**aim(c))),
    "svdd": lambda c, b: Draw(baselines.Svdd(smooth(c), candidates=max(1, b.network // STEPS)), "sde_dpmpp_2m"),
    "fk": lambda c, b: Draw(baselines.fk_steering(smooth(c), particles=max(2, b.network // STEPS)), "sde_dpmpp_2m"),
    "fk-large": lambda c, b: Draw(baselines.fk_steering(smooth(c), **large(b.network // STEPS)), "sde_dpmpp_2m"),
    "doit": doit,
    "doit-beta": doit_beta,
    "guidance": lambda c, b: Draw(baselines.ClassifierGuidance(smooth(c)), steps=min(b.network, MOST_STEPS)),
    "dps": lambda c, b: Draw(baselines.Dps(smooth(c)), steps=max(2, min(b.network // 3, MOST_STEPS))),
    "lgd_mc": lgd_mc,
    "tfg": tfg,
    "tds": lambda c, b: Draw(baselines.tds(smooth(c), **large(b.network // (3 * STEPS))), "sde_dpmpp_2m"),
}


@dataclass
class Cell:
    """A case with samples of its exact law, and what an exact sampler would score against them.

    Attributes:
        floor: root mean square energy distance of exact samples; of sliced W2 and the reward's W1, means.
    """

    dimension: int
    reward: str
    seed: int
    case: Case
    energy: EnergyDistance
    values: Tensor
    floor: float
    floor_w2: float
    floor_w1: float
    unsteered: float


def build(dimension: int, reward: str, seed: int, nats: float, samples: int) -> Cell:
    c = case(dimension, reward, seed, nats)
    exact = c.law.sample(REFERENCE, 1)
    energy, values = EnergyDistance(exact), c.target.reward(exact)
    again = [c.law.sample(samples, 2 + i) for i in range(FLOORS)]
    return Cell(
        dimension, reward, seed, c, energy, values,
        math.sqrt(statistics.fmean(energy(x) ** 2 for x in again)),
        statistics.fmean(sliced_wasserstein(x, exact) for x in again),
        statistics.fmean(float(wasserstein(c.target.reward(x), values)) for x in again),
        energy(c.model.sample(samples, 99)),
    )  # fmt: skip


@dataclass
class Score:
    """How close one method came in one cell, and what it spent; rows are per sample, setup rows in all."""

    dimension: int
    reward: str
    seed: int
    method: str
    distance: float
    floor: float
    unsteered: float
    w2: float
    floor_w2: float
    hit: float | None
    reward_mean: float
    reward_exact: float
    w1: float
    floor_w1: float
    network_rows: float
    reward_rows: float
    setup_rows: int
    setup_reward_rows: int
    seconds: float
    samples: int
    steps: int
    warnings: list[str] = field(default_factory=list)

    @property
    def cell(self) -> str:
        return f"d={self.dimension} {self.reward} ({self.seed})"

    @property
    def share(self) -> float:
        """Distance as a share of the unsteered one."""
        return self.distance / self.unsteered

    @property
    def reached(self) -> bool:
        return self.distance <= max(NEAR * self.unsteered, FLOOR * self.floor)

    @property
    def spent(self) -> Budget:
        """Rows per sample, with those of the setup divided among the samples."""
        network = self.network_rows + self.setup_rows / self.samples
        return Budget(math.ceil(network), math.ceil(self.reward_rows + self.setup_reward_rows / self.samples))


def score(cell: Cell, name: str, samples: int, budget: Budget) -> Score:
    target = cell.case.target
    draw = METHODS[name](cell.case, budget)
    path = steering.paths.vp_cosine()
    plan = steering.plan(draw.solver, path=path, steps=draw.steps, prediction="x0", eta=draw.eta)
    network = cell.case.model.network(path)
    begin = time.perf_counter()
    x, report = steering.run(plan, network, (samples, cell.dimension), cell.seed, draw.steer, report=True, tile=None)
    seconds = time.perf_counter() - begin
    values = target.reward(x.to(torch.float64))
    return Score(
        cell.dimension, cell.reward, cell.seed, name, cell.energy(x), cell.floor, cell.unsteered,
        sliced_wasserstein(x, cell.energy.reference), cell.floor_w2,
        None if target.threshold is None else float((values >= target.threshold).to(torch.float64).mean()),
        float(values.mean()), float(cell.values.mean()), float(wasserstein(values, cell.values)), cell.floor_w1,
        (report.network_rows + 2 * report.gradient_rows) / samples,
        (report.reward_rows + 3 * report.reward_gradient_rows) / samples,
        report.setup_rows, report.setup_reward_rows, seconds, samples, draw.steps, report.warnings,
    )  # fmt: skip


HEADER = (
    "   d reward     method          distance  % of uns.   floor unsteered | sliced W2 (floor) |   hit   reward    "
    "exact      W1 (floor) | net rows  rewards  setup net, reward |  seconds"
)


def line(s: Score) -> str:
    hit = "    -" if s.hit is None else f"{s.hit:5.3f}"
    return " | ".join(
        [
            f"{s.dimension:4} {s.reward:10} {s.method:15} {s.distance:8.4f} {100 * s.share:8.1f}"
            f"{'  ' if s.reached else ' *'} {s.floor:7.4f} {s.unsteered:9.4f}",
            f"{s.w2:9.4f} ({s.floor_w2:.3f})",
            f"{hit} {s.reward_mean:8.3f} {s.reward_exact:8.3f} {s.w1:7.4f} ({s.floor_w1:.3f})",
            f"{s.network_rows:8.1f} {s.reward_rows:8.1f} {s.setup_rows:9}, {s.setup_reward_rows:7}",
            f"{s.seconds:8.1f}",
        ]
    )


def summary(scores: list[Score]) -> None:
    """Per method: cells reached, hits of rare events, rows."""
    print("\nmethod           cells reached  reward's W1 reached  hit rate, mean (least) by event; rows per sample")
    for name in dict.fromkeys(s.method for s in scores):
        mine = [s for s in scores if s.method == name]
        plain = {s.cell: s.w1 for s in scores if s.method == "none"}
        lawful = [s.w1 <= max(NEAR * plain[s.cell], FLOOR * s.floor_w1) for s in mine if s.cell in plain]
        events: dict[str, list[float]] = {}
        for s in mine:
            if s.hit is not None:
                events.setdefault(s.reward.removeprefix("half "), []).append(s.hit)
        hits = ", ".join(f"{event} {statistics.fmean(h):.2f} ({min(h):.2f})" for event, h in events.items())
        rows, rewards = (statistics.fmean(getattr(s, kind) for s in mine) for kind in ("network_rows", "reward_rows"))
        setup = statistics.fmean(s.setup_rows for s in mine)
        print(
            f"{name:16} {sum(s.reached for s in mine):3} of {len(mine):3} {share(s.reached for s in mine):>5} "
            f"{share(lawful):>15}      {hits or '-'}; {rows:.0f} network rows (once {setup:.0f}), {rewards:.0f} rewards"
        )


def share(truths: Any) -> str:
    found = list(truths)
    return f"{sum(found) / len(found):.0%}" if found else "-"


def duel(scores: list[Score]) -> None:
    """Doob at its defaults against every rival in the same cell, within twice the floor."""
    ours = {s.cell: s for s in scores if s.method == "doob"}
    rivals = [s for s in scores if s.method not in (*OURS, "none") and s.cell in ours]
    if not rivals:
        return
    lost = [s for s in rivals if ours[s.cell].distance > s.distance + FLOOR * s.floor]
    print(
        "\ndoob at its defaults, at equal budgets: share of cells in which it is at least as close, within two floors, "
        "and in which it is, or is there itself"
    )
    for name in (*dict.fromkeys(s.method for s in rivals), "every one"):
        mine = [s for s in rivals if name in (s.method, "every one")]
        closer, behind = {s.cell for s in mine if s in lost}, {c for c in ours if not ours[c].reached}
        cells = {s.cell for s in mine}
        level, enough = share(c not in closer for c in cells), share(c not in closer & behind for c in cells)
        print(f"  as {name:16} {level:>5} {enough:>6} of {len(cells)}")
    for cell in dict.fromkeys(s.cell for s in lost):
        closer_by = ", ".join(f"{s.method} {s.distance:.4f}" for s in lost if s.cell == cell)
        mark = "" if ours[cell].reached else " *"
        print(f"  {cell:24} doob {ours[cell].distance:.4f}{mark} of {ours[cell].unsteered:.3f}; closer: {closer_by}")


def save(scores: list[Score], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    records = [asdict(s) for s in scores]
    (out / "steering.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    with (out / "steering.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def plot(scores: list[Score], file: Path) -> None:
    """Distance as % of unsteered by dimension, a panel per reward; medians over models, cut off at half the floor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rewards = list(dict.fromkeys(s.reward for s in scores))
    methods = [m for m in dict.fromkeys(s.method for s in scores) if m != "none"]
    dimensions = sorted({s.dimension for s in scores})
    columns = min(3, len(rewards))
    figure, axes = pyplot.subplots(
        -(-len(rewards) // columns), columns, figsize=(4 * columns, 2.7 * -(-len(rewards) // columns)),
        sharex=True, sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    places = range(len(dimensions))

    def medians(value: Callable[[Score], float], reward: str, method: str) -> list[float]:
        cells = [
            [value(s) for s in scores if (s.reward, s.method, s.dimension) == (reward, method, d)] for d in dimensions
        ]
        return [statistics.median(c) if c else math.nan for c in cells]

    for axis, reward in zip(axes.flat, rewards, strict=False):
        floor = medians(lambda s: 100 * s.floor / s.unsteered, reward, methods[0])
        axis.fill_between(places, 1e-3, floor, color="0.9", label="floor")
        for i, method in enumerate(methods):
            values = medians(lambda s: 100 * max(s.distance, s.floor / 2) / s.unsteered, reward, method)
            style = {"color": "k", "lw": 2.2, "zorder": 3} if method == "doob" else {"color": f"C{i % 10}", "lw": 1}
            axis.plot(places, values, marker="o", ms=3, label=method, ls="-" if i <= 10 else "--", **style)
        axis.axhline(100, color="0.6", lw=0.8)
        axis.axhline(100 * NEAR, color="0.6", lw=0.8, ls=":")
        axis.set(yscale="log", ylim=(0.01, 400), title=reward)
        axis.set_xticks(places, [str(d) for d in dimensions])
        axis.grid(alpha=0.25)
    for axis in axes[:, 0]:
        axis.set_ylabel("distance, % of unsteered")
    for axis in axes[-1]:
        axis.set_xlabel("dimension")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    print(f"\ndrawn: {file}")


def main(
    dimensions: Annotated[
        list[int] | None, typer.Option("--dimension", "-d", help="2, 8, 32 and 128 if absent.")
    ] = None,
    rewards: Annotated[list[str] | None, typer.Option("--reward", "-r", help=f"Of {', '.join(REWARDS)}.")] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", "-m", help=f"Of {', '.join(METHODS)}.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the models and all noise; drawn, and printed, if absent.")
    ] = None,
    models: Annotated[int, typer.Option(help="Random models per dimension.")] = 1,
    samples: Annotated[int, typer.Option(help="Per cell and method.")] = 1024,
    nats: Annotated[float, typer.Option(help="KL from the model of every law but a half-space's.")] = 2.0,
    quick: Annotated[bool, typer.Option("--quick", help="Few dimensions, rewards and methods.")] = False,
    threads: Annotated[int, typer.Option(help="Of torch: with more than one, a busy machine is slow.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for steering.json and steering.csv.")] = None,
    draw: Annotated[Path | None, typer.Option(help="File for the plot.")] = None,
) -> None:
    """Print a line per model, reward and method; then what each method reached, and the cells that Doob lost."""
    torch.set_num_threads(threads)
    seed = secrets.randbelow(10**6) if seed is None else seed
    dimensions = dimensions or ([2, 32] if quick else list(DIMENSIONS))
    rewards = rewards or (["linear", "half 1e-3", "ring"] if quick else list(REWARDS))
    methods = methods or (["none", "doob", "best_of", "fk", "dps"] if quick else list(METHODS))
    for kind, given, known in (("reward", rewards, REWARDS), ("method", methods, METHODS)):
        for name in given:
            if name not in known:
                raise typer.BadParameter(f"{kind}: expected one of {', '.join(known)}, got {name!r}")
    if "doob" in methods:  # its rows are the others' budget
        methods = ["doob", *(m for m in methods if m != "doob")]
    print(f"seed {seed}: {samples} samples; * where not within {NEAR:.0%} of unsteered or {FLOOR:g} floors\n{HEADER}")
    scores: list[Score] = []
    for d in dimensions:
        for i in range(models):
            for reward in rewards:
                cell = build(d, reward, seed + i, nats, samples)
                budget = Budget(STEPS, PARTICLES * STEPS)
                for name in methods:
                    found = score(cell, name, samples, budget)
                    budget = found.spent if name == "doob" else budget
                    scores.append(found)
                    print(line(found), flush=True)
                    for warning in found.warnings if name in OURS else ():
                        print(f"      {warning}")
    summary(scores)
    duel(scores)
    if out is not None:
        save(scores, out)
    if draw is not None:
        plot(scores, draw)


if __name__ == "__main__":
    typer.run(main)
