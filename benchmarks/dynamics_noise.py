"""Noise of SDEs: what a Brownian path costs, orders of the schemes, and laws beside closed forms.

    make bench ARGS=dynamics_noise

1. Processor time of a path for each row and time, in grids and one by one, and of a whole Euler-Maruyama step.
2. Strong orders along known paths and weak orders, by slope, of geometric Brownian motion and of additive noise.
3. Laws: mean, variance and covariance of Ornstein-Uhlenbeck, of log of the geometric form; signs kept and changed.
"""

import math
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from steering.dynamics import solve
from steering.dynamics.brownian import BrownianPaths

DRIFT, NOISE = 0.5, 0.8
Parts = dict[str, Tensor]


def seconds(work: Callable[[], object], times: int = 5) -> float:
    """The least processor time of several."""
    found = []
    for _ in range(times):
        begun = time.thread_time()
        work()
        found.append(time.thread_time() - begun)
    return min(found)


def ends(n: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)


def costs(seed: int) -> None:
    print("rows, numbers, times at once: microseconds a row and time (a number)")
    shapes = ((16, 1, 256), (400, 1, 256), (64, 8, 256), (16, 256, 64), (16, 1, 1), (400, 1, 1), (1, 1, 1))
    for n, size, count in shapes:
        paths, rows = BrownianPaths(seed, range(n), size, *ends(n)), torch.arange(n)
        grid = torch.linspace(0, 1, 1001, dtype=torch.float64)[371 : 371 + count].expand(n, -1).contiguous()
        paths.at(rows, grid)
        taken = seconds(partial(paths.at, rows, grid)) / n / count * 1e6
        print(f"  {n:4d} {size:4d} {count:4d}: {taken:8.2f} ({taken / size:.3f})")
    words: dict[str, Any] = {"solver": "euler_maruyama", "kind": "sde", "dt": 1 / 256, "seed": seed}
    for n in (1, 16, 400):
        taken = seconds(partial(solve, ito, torch.ones(n, 1), [0.0, 1.0], **words)) / 256 * 1e6
        print(f"  a step of Euler-Maruyama, {n} rows: {taken:.0f} microseconds, {taken / n:.2f} a row")


def ito(y: Tensor, t: Tensor) -> Parts:
    return {"drift": DRIFT * y, "diffusion": NOISE * y}


def stratonovich(y: Tensor, t: Tensor) -> Parts:
    return {"drift": (DRIFT - NOISE**2 / 2) * y, "diffusion": NOISE * y}


def linear(y: Tensor, t: Tensor) -> Parts:
    return {"drift": DRIFT * y, "diffusion": torch.full_like(y, NOISE)}


def ornstein(y: Tensor, t: Tensor) -> Parts:
    return {"drift": -y, "diffusion": torch.ones_like(y)}


def slope(steps: list[int], errors: list[float]) -> float:
    """By least squares, of log error in log step."""
    x, y = torch.tensor(steps).double().log(), torch.tensor(errors).double().log()
    return float(-((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def orders(seed: int, rows: int) -> None:
    many = 10 * rows  # a mean's bias is small beside the paths' spread
    path = BrownianPaths(seed, range(many), 1, *ends(many)).at(torch.arange(many), ends(many)[1][:, None])[:, 0]
    geometric = torch.exp(DRIFT - NOISE**2 / 2 + NOISE * path)
    martingale = torch.exp(NOISE * path - NOISE**2 / 2)[:, 0]
    fine: dict[str, Any] = {"kind": "sde", "seed": seed, "noise": "additive"}
    additive = solve(ornstein, torch.ones(rows, 1), [0.0, 1.0], solver="stochastic_heun", dt=2**-10, **fine).y[:, 1]
    cases: list[tuple[str, str, Callable[..., Parts], dict[str, str], Tensor]] = [
        ("euler_maruyama", "multiplicative", ito, {}, geometric),
        ("milstein", "multiplicative", ito, {}, geometric),
        ("stochastic_heun", "multiplicative", stratonovich, {"calculus": "stratonovich"}, geometric),
        ("reversible_heun", "multiplicative", stratonovich, {"calculus": "stratonovich"}, geometric),
        ("euler_maruyama", "form linear", linear, {"form": "linear"}, geometric),
        ("euler_maruyama", "additive", ornstein, {"noise": "additive"}, additive),
        ("stochastic_heun", "additive", ornstein, {"noise": "additive"}, additive),
    ]
    counts, few = [8, 16, 32, 64], [2, 4, 8]
    print(f"{rows} paths, {counts} steps: E |error| at 1, slope; {many} paths, {few} steps: |bias of the mean|, slope")
    for solver, name, field, words, exact in cases:

        def end(n: int, count: int, field: Any = field, solver: str = solver, words: Any = words) -> Tensor:
            start = torch.ones(n, 1)
            return solve(field, start, [0.0, 1.0], solver=solver, kind="sde", seed=seed, dt=1 / count, **words).y[:, 1]

        strong = [float((end(rows, count) - exact[:rows]).abs().mean()) for count in counts]
        print(f"  {solver:16s} {name:15s} {shown(strong)} {slope(counts, strong):.2f}", end="")
        weak = []
        for count in few if exact is geometric else ():
            y = end(many, count)[:, 0]
            share = torch.cov(torch.stack([y, martingale]))[0, 1] / martingale.var()  # takes most of the spread out
            weak.append(abs(float((y - share * (martingale - 1)).mean()) - math.exp(DRIFT)))
        print(f" | {shown(weak)} {slope(few, weak):.2f}" if weak else "")


def shown(errors: list[float]) -> str:
    return " ".join(f"{each:.1e}" for each in errors)


def laws(seed: int, rows: int) -> None:
    times = [0.0, 0.3, 1.0]
    for solver in ("euler_maruyama", "milstein", "stochastic_heun", "reversible_heun"):
        words: dict[str, Any] = {"solver": solver, "kind": "sde", "seed": seed, "noise": "additive", "dt": 0.01}
        y = solve(ornstein, torch.full((rows, 1), 2.0), times, **words).y[..., 0]
        means = [float(y[:, k].mean()) - 2 * math.exp(-times[k]) for k in (1, 2)]
        ratios = [float(y[:, k].var()) / ((1 - math.exp(-2 * times[k])) / 2) for k in (1, 2)]
        covariance = float(torch.cov(y[:, 1:].T)[0, 1]) / (math.exp(-0.7) * (1 - math.exp(-0.6)) / 2)
        print(
            f"  Ornstein-Uhlenbeck, {solver:16s} means off by {means[0]:+.4f}, {means[1]:+.4f} "
            f"(noise {(0.5 / rows) ** 0.5:.4f}); variances {ratios[0]:.3f}, {ratios[1]:.3f} and covariance "
            f"{covariance:.3f} of exact"
        )

    def strong(y: Tensor, t: Tensor) -> Parts:
        return {"drift": torch.full_like(y, DRIFT), "diffusion": torch.full_like(y, 3.0)}

    def plain(y: Tensor, t: Tensor) -> Parts:
        return {"drift": DRIFT * y, "diffusion": 3.0 * y}

    words = {"solver": "euler_maruyama", "kind": "sde", "seed": seed, "dt": 1 / 16}
    y = solve(strong, torch.ones(rows, 1), [0.0, 1.0], form="geometric", **words).y[:, 1]
    flipped = solve(plain, torch.ones(rows, 1), [0.0, 1.0], **words).y[:, 1] < 0
    mean, deviation = float(y.log().mean()), float(y.log().std())
    print(
        f"  geometric, sigma 3, 16 steps: log z has mean {mean:.3f} (exact {DRIFT - 4.5:.3f}), deviation "
        f"{deviation:.3f} (3); signs changed: {float((y < 0).double().mean()):.3f}, by plain Euler-Maruyama "
        f"{float(flipped.double().mean()):.3f}"
    )


def main(
    rows: Annotated[int, typer.Option(help="Paths.")] = 2000,
    seed: Annotated[int | None, typer.Option(help="A fresh one if left out.")] = None,
) -> None:
    torch.set_num_threads(1)
    chosen = secrets.randbits(31) if seed is None else seed
    print(f"seed {chosen}")
    costs(chosen)
    orders(chosen, rows)
    print("laws")
    laws(chosen, rows)


if __name__ == "__main__":
    typer.run(main)
