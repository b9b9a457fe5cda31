"""Steering under conditions and classifier-free guidance, on mixtures of Gaussians whose denoisers are closed.

    make bench ARGS="steering_conditions --few"

A mixture of eight components in 2, 8 or 32 dimensions is the null law, four of them the law of the condition. The
target is the guided plan's own law times exp(r / beta): at guidance 1 the conditional mixture, else what the plan
draws, since no law can be written down whose posterior mean guidance's D is. It is represented by `--reference` samples
of the plan, reweighted; the distance of steered samples to it is in % of the unsteered samples'. Steering without a
bank has 2,048 draws of the law, recorded once (20 network rows each, twice that under guidance), and asks for no
further rows; FK steering and SVDD ask for five times the rows of each sample.
"""

from collections.abc import Callable, Generator, Mapping
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn import functional

import steering
from steering import baselines, posteriors
from steering.posteriors.calibration import Uncalibrated
from steering.problems import GaussianMixture, energy_distance
from steering.sampling.sampler import Problem, Steering

PATH = steering.paths.vp_cosine()
ODE, SDE = (steering.plan(name, path=PATH, steps=20, prediction="x0") for name in ("dpmpp_2m", "sde_dpmpp_2m"))
STRENGTH, RARE, SOFT = 2.0, 0.97, 0.15
REACHED = 10.0
"""% of the unsteered distance."""


class Law:
    """A mixture as the null law and its first half as the condition's, under guidance."""

    def __init__(self, d: int, guidance: float, seed: int) -> None:
        whole = GaussianMixture.random(d, 8, seed)
        weights = whole.weights[:4] / whole.weights[:4].sum()
        self.parts = (GaussianMixture(weights, whole.means[:4], whole.covariances[:4]), whole)
        self.d, self.guidance = d, guidance
        null = {} if guidance == 1 else {"c": torch.ones(1, 1)}
        self.asked: dict[str, Any] = {"condition": {"c": torch.zeros(1, 1)}, "guidance": guidance, "null": null}

    def network(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for part, mixture in enumerate(self.parts):
            rows = c[:, 0] == part
            if bool(rows.any()):
                times = t[rows].to(torch.float64)
                out[rows] = mixture.denoised(x[rows], PATH.alpha(times), PATH.sigma(times)).to(x.dtype)
        return out

    def draws(self, count: int | None) -> posteriors.Draws:
        problem = Problem(plan=ODE, event=(self.d,), **self.asked)
        return steering.solve(posteriors.record(problem, count), self.network, tile=None)

    def run(self, plan: steering.Plan, n: int, seed: int, steer: Steering | None = None) -> Tensor:
        return steering.run(plan, self.network, (n, self.d), seed, steer, tile=None, **self.asked)


def rewards(law: Law, reference: Tensor, seed: int) -> Mapping[str, tuple[Callable[[Tensor], Tensor], float | None]]:
    """Rewards along a random direction, in units of the law's own spread, with the threshold of an event."""
    g = torch.Generator().manual_seed(seed)
    line = torch.randn(law.d, generator=g)
    along = reference @ (line / line.norm())
    line, centre = line / line.norm() / along.std(), along.mean() / along.std()
    rare = float((reference @ line).quantile(RARE))
    return {
        "linear": (lambda x: STRENGTH * (x @ line), None),
        "half-space": (lambda x: x @ line, rare),
        "staircase": (lambda x: (2 * (x @ line - centre)).floor(), None),
    }


def methods(law: Law, reward: Callable[[Tensor], Tensor], edge: float | None) -> dict[str, Callable[[], Steering]]:
    aim: dict[str, Any] = {} if edge is None else {"threshold": edge}

    def soft(x: Tensor) -> Tensor:
        return functional.logsigmoid((reward(x) - edge) / SOFT) if edge is not None else reward(x)

    def doob(posterior: Any) -> steering.Doob:
        return steering.Doob(reward, posterior=posterior, refresh=False, **aim)

    def fitted(count: int | None) -> steering.Doob:
        return doob(posteriors.fitting(law.draws(count)))

    return {
        "gaussian": lambda: doob(posteriors.gaussian().calibrated(Uncalibrated())),
        "draws": lambda: fitted(None),
        "draws-sde": lambda: fitted(None),
        "draws-256": lambda: fitted(256),
        "draws-1024": lambda: fitted(1024),
        "smc": lambda: steering.Smc(reward, inner=fitted(None), population=64, **aim),
        "svdd": lambda: baselines.Svdd(soft, candidates=5),
        "fk": lambda: baselines.fk_steering(soft, particles=160, keep=32),
    }


def cells(few: bool) -> Generator[tuple[int, float, str], None, None]:
    for d in (2, 8, 32):
        for guidance in (1.0, 3.0):
            for name in ("linear", "half-space", "staircase"):
                if not few or (d, guidance, name) in (
                    (2, 1.0, "linear"),
                    (8, 3.0, "half-space"),
                    (8, 1.0, "staircase"),
                ):
                    yield d, guidance, name


def main(
    few: Annotated[bool, typer.Option(help="Three cells instead of eighteen.")] = False,
    chosen: Annotated[list[str] | None, typer.Option("--method", "-m")] = None,
    only: Annotated[list[int] | None, typer.Option("--dimensions", "-d", help="2, 8, 32; all by default.")] = None,
    seed: int = 0,
    samples: Annotated[int, typer.Option(help="Per cell and method.")] = 1024,
    reference: Annotated[int, typer.Option(help="Samples of each guided law.")] = 12000,
) -> None:
    """Print the distances, in % of the unsteered samples'."""
    torch.set_num_threads(1)
    names = chosen or ["gaussian", "draws", "draws-sde", "draws-256", "draws-1024", "smc", "svdd", "fk"]
    print(f"{'d':>3} {'guidance':>8} {'reward':12}{'ESS':>6}" + "".join(f"{name:>12}" for name in names))
    found: dict[str, list[float]] = {name: [] for name in names}
    noisy = {"draws-sde", "smc", "svdd", "fk"}
    known: dict[tuple[int, float], tuple[Law, dict[bool, Tensor]]] = {}
    for d, guidance, name in cells(few):
        if only and d not in only:
            continue
        if (d, guidance) not in known:
            law = Law(d, guidance, seed)
            known[d, guidance] = law, {sde: law.run(SDE if sde else ODE, reference, 99) for sde in (False, True)}
        law, plain = known[d, guidance]
        reward, edge = rewards(law, plain[False], seed)[name]
        goals, sizes = {}, []
        for sde, x in plain.items():
            logs = reward(x) if edge is None else torch.where(reward(x) >= edge, 0.0, -torch.inf)
            weights = torch.softmax(logs.to(torch.float64), 0)
            sizes.append(float(1 / weights.square().sum()))
            g = torch.Generator().manual_seed(seed)
            goals[sde] = x[torch.multinomial(weights, 2000, replacement=True, generator=g)].to(torch.float64)
        line = f"{d:3} {guidance:8g} {name:12}{sizes[0]:6.0f}"
        made = methods(law, reward, edge)
        for method in names:
            sde = method in noisy
            x = law.run(SDE if sde else ODE, samples, 5, made[method]())
            base = energy_distance(plain[sde][:2000].to(torch.float64), goals[sde])
            found[method].append(100 * energy_distance(x.to(torch.float64), goals[sde]) / base)
            line += f"{found[method][-1]:11.1f}%"
        print(line, flush=True)
    reached = (sum(p <= REACHED for p in each) for each in found.values())
    print(
        f"within {REACHED:g}%".ljust(31)
        + "".join(f"{r:>9} /{len(each):2}" for r, each in zip(reached, found.values(), strict=True))
    )


if __name__ == "__main__":
    typer.run(main)
