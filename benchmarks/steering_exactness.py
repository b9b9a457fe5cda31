"""Steering's error against resources: of the estimated D_h in particles, of the law in steps, and in SMC's chains.

    make bench ARGS=steering_exactness

1. One Gaussian, whose posterior `posteriors.gaussian` is exactly: D_h is known, and the error falls as particles^-1/2.
2. Doob at its defaults in 5 to 80 steps, on two mixtures.
3. A posterior that is wrong (`gaussian` on a mixture): the bias stays however many particles there are, and goes with
   sequential Monte Carlo on top, whose log normalising constant is beside the exact one.
"""

import math
import secrets
from collections.abc import Callable, Generator
from typing import Annotated

import torch
import typer
from torch import Tensor

import steering
from steering.problems import EnergyDistance, GaussianMixture, Projected, Quadratic
from steering.problems.zoo import Law, case
from steering.sampling.rows import Result, Rows, answered

PATH = steering.paths.vp_cosine()


def scored(generator: Generator[Rows, Tensor, Result], reward: Callable[[Tensor], Tensor]) -> Result:
    """The result of a generator that asks for rewards and products alone."""
    return answered(generator, lambda rows: reward(rows.x) if rows.matrix is None else rows.matrix.times(rows.x))


def estimator(seed: int, states: int = 2000) -> None:
    """Root mean square error of D_h, at middle noise."""
    d, variance = 8, 0.5
    g = torch.Generator().manual_seed(seed)
    mean = torch.randn(1, d, generator=g, dtype=torch.float64)
    model = GaussianMixture(
        torch.ones(1, dtype=torch.float64), mean, variance * torch.eye(d, dtype=torch.float64)[None]
    )
    line = torch.randn(d, generator=g, dtype=torch.float64)
    line = line / line.norm()
    start = float(mean[0] @ line)
    jumps = start + torch.arange(-20, 21, dtype=torch.float64) / 2
    laws: dict[str, Law] = {
        "linear": Quadratic(model, line),
        "half-space": Projected.half_space(model, line, start + 0.2),
        "staircase": Projected(model, line[None], lambda s: (2 * (s[..., 0] - start)).floor() / 2, jumps),
    }
    plan = steering.plan("dpmpp_2m", path=PATH, steps=10, prediction="x0")
    stage = plan.stages[4]
    alpha, sigma = (
        torch.full((states,), c, dtype=torch.float64) for c in (stage.update.at.alpha, stage.update.at.sigma)
    )
    x = alpha[:, None] * model.sample(states, seed + 1) + sigma[:, None] * torch.randn(
        states, d, generator=g, dtype=torch.float64
    )
    times = torch.linspace(PATH.t_min, PATH.t_max, 400, dtype=torch.float64)
    square = (PATH.sigma(times) / PATH.alpha(times)) ** 2
    curve = steering.Calibration(tuple(times.tolist()), tuple((variance * square / (variance + square)).tolist()))
    counts = (8, 32, 128, 512, 2048)
    print(f"\n1. RMS error of D_h, one Gaussian in {d} dimensions, at alpha {float(alpha[0]):.2f}")
    print(f"{'particles':12}" + "".join(f"{m:>10}" for m in counts) + "     slope")
    for name, law in laws.items():
        errors = []
        for m in counts:
            doob = steering.Doob(law.reward, particles=m, posterior=steering.posteriors.gaussian(curve))
            problem = steering.Problem(plan=plan, event=(d,), dtype=torch.float64)
            tilt = scored(doob.prepare(problem), law.reward)
            steer = tilt.steer(stage, x, model.denoised(x, alpha, sigma), steering.Noise(seed, range(states)))
            found = scored(steer, law.reward).denoised
            errors.append(float((found - law.denoised(x, alpha, sigma)).square().mean().sqrt()))
        slope = math.log(errors[-1] / errors[1]) / math.log(counts[-1] / counts[1])
        print(f"{name:12}" + "".join(f"{e:10.5f}" for e in errors) + f"{slope:10.2f}", flush=True)


def steps(seed: int, samples: int) -> None:
    counts = (5, 10, 20, 40, 80)
    print(
        f"\n2. Energy distance by steps, {samples} samples\n{'':32}"
        + "".join(f"{n:>10}" for n in counts)
        + "     floor"
    )
    for d, reward in ((2, "linear"), (8, "staircase")):
        c = case(d, reward, seed)
        energy = EnergyDistance(c.law.sample(4 * samples, 1))
        for solver in ("dpmpp_2m", "sde_dpmpp_2m"):
            doob = steering.Doob(c.target.reward)
            network, found = c.model.network(PATH), []
            for n in counts:
                plan = steering.plan(solver, path=PATH, steps=n, prediction="x0")
                found.append(energy(steering.run(plan, network, (samples, d), seed, doob, tile=None)))
            floor = abs(energy(c.law.sample(samples, 2)))
            print(f"d={d} {reward:12}{solver:15}" + "".join(f"{e:10.4f}" for e in found) + f"{floor:10.4f}", flush=True)


def chains(seed: int, samples: int) -> None:
    c = case(8, "linear", seed)
    energy = EnergyDistance(c.law.sample(4 * samples, 1))
    plan = steering.plan("sde_dpmpp_2m", path=PATH, steps=40, prediction="x0")
    network = c.model.network(PATH)
    print(f"\n3. A wrong posterior, d=8 linear, 40 steps; unsteered {energy(c.model.sample(samples, 3)):.4f}")
    for m in (32, 128, 512):
        doob = steering.Doob(c.target.reward, particles=m, posterior=steering.posteriors.gaussian())
        x = steering.run(plan, network, (samples, 8), seed, doob, tile=None)
        print(f"doob alone, {m:4} particles    distance {energy(x):8.4f}", flush=True)
    for population in (64, 256, 1024):
        doob = steering.Doob(c.target.reward, posterior=steering.posteriors.gaussian())
        smc = steering.Smc(c.target.reward, inner=doob, population=population, keep=64)
        x, report = steering.run(plan, network, (samples, 8), seed, smc, report=True, tile=None)
        assert report.log_z is not None
        log_z = float(torch.logsumexp(report.log_z, 0)) - math.log(len(report.log_z))
        found = f"distance {energy(x):8.4f}, log Z {log_z:.3f}, exact {c.law.log_z:.3f}"
        print(f"64 of {population:4} chains of SMC   {found}", flush=True)
    print(f"floor                        distance {abs(energy(c.law.sample(samples, 2))):8.4f}")


def main(
    seed: Annotated[
        int | None, typer.Option(help="Of the models and all noise; drawn, and printed, if absent.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Of tables 2 and 3.")] = 1024,
) -> None:
    """Print the three tables."""
    torch.set_num_threads(1)
    seed = secrets.randbelow(10**6) if seed is None else seed
    print(f"seed {seed}")
    estimator(seed)
    steps(seed, samples)
    chains(seed, samples)


if __name__ == "__main__":
    typer.run(main)
