"""Residual posterior of latents of 4 x 64 x 64: draws compared by pooled estimates, and by whole ones.

    make bench ARGS=pooled_nearness

The law is a mixture of four Gaussian fields with one power spectrum, so that its denoised estimates, and its tilt by a
linear reward, are closed forms. Draws are recorded once (20 network rows each). Steered samples are compared with the
exact tilt: the reward's mean and W1, the share of each field, and the energy distance of their means over 16 x 16
pixels, in % of the unsteered samples'. `overlap` is how much of their weight draws have by both nearnesses, mean over
states and levels.
"""

import math
import time
from functools import partial
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional

import steering
from steering import posteriors
from steering.posteriors.neighbours import tempered
from steering.posteriors.residuals import NEARNESS, Residuals
from steering.problems import energy_distance
from steering.sampling.rows import answered
from steering.sampling.sampler import Problem

EVENT = (4, 64, 64)
PATH = steering.paths.vp_cosine()
FIELDS = 4


class Fields:
    """Equally likely fields mean_m + noise of one spectrum; channels are alike and independent."""

    def __init__(self, seed: int, exponent: float) -> None:
        g = torch.Generator().manual_seed(seed)
        lines = torch.fft.fftfreq(EVENT[1])
        wave = (lines[:, None] ** 2 + lines[None] ** 2).sqrt()
        power = (wave + 1 / EVENT[1]) ** -exponent
        self.power = power / power.mean() * 0.6
        """Variance of each Fourier coefficient, white noise having 1."""
        smooth = functional.interpolate(torch.randn(FIELDS, 4, 4, 4, generator=g), EVENT[1:], mode="bicubic")
        self.means = smooth * 0.6
        line = functional.interpolate(torch.randn(1, 4, 8, 8, generator=g), EVENT[1:], mode="bicubic")[0]
        self.line = line / self.filtered(line[None], self.power.sqrt()).norm()
        """The reward's direction: of standard deviation 1 within a field."""

    def filtered(self, x: Tensor, gain: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * gain).real

    def network(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], a Wiener filter about each mean."""
        at = float(t[0])
        alpha, sigma = (float(f(torch.tensor([at], dtype=torch.float64))) for f in (PATH.alpha, PATH.sigma))
        total = alpha**2 * self.power + sigma**2
        off = x[:, None] - alpha * self.means
        spectra = torch.fft.fft2(off)
        distance = (spectra.abs().square() / total).sum(dim=(2, 3, 4)) / math.prod(EVENT[1:])
        weights = torch.softmax(-distance / 2, dim=1)
        estimates = self.means + torch.fft.ifft2(spectra * (alpha * self.power / total)).real
        return (weights[:, :, None, None, None] * estimates).sum(dim=1)

    def reward(self, x: Tensor, strength: float) -> Tensor:
        return strength * (x * self.line).flatten(1).sum(dim=1)

    def tilted(self, n: int, strength: float, seed: int) -> tuple[Tensor, Tensor]:
        """Samples of the exact tilt, and the shares of the fields in it."""
        g = torch.Generator().manual_seed(seed)
        shares = torch.softmax(strength * (self.means * self.line).flatten(1).sum(dim=1), dim=0)
        moved = self.means + strength * self.filtered(self.line[None], self.power)
        which = torch.multinomial(shares, n, replacement=True, generator=g)
        return moved[which] + self.filtered(torch.randn(n, *EVENT, generator=g), self.power.sqrt()), shares

    def read(self, x: Tensor) -> Tensor:
        """The nearest field of each sample."""
        off = functional.avg_pool2d(x, 16)[:, None] - functional.avg_pool2d(self.means, 16)
        return off.flatten(2).norm(dim=2).argmin(dim=1)


def overlap(one: Residuals, other: Residuals, states: Tensor) -> float:
    """Mean of sum_k min(weights of draw k)."""

    def weights(of: Residuals, centre: Tensor, level: int) -> Tensor:
        asking = of._logits(centre, level, 0.0)
        found = answered(asking, lambda rows: rows.matrix.times(rows.x))  # type: ignore[union-attr]
        return tempered(found, of.size)

    levels = range(len(one.draws.residuals))
    ends = one.draws.x0.flatten(1)
    parts = []
    for level in levels:
        off = one.draws.residuals[level].to(torch.float32) * float(one.draws.rms[level])
        centre = (ends - off)[states]
        parts.append(torch.minimum(weights(one, centre, level), weights(other, centre, level)).sum(dim=1).mean())
    return float(torch.stack(parts).mean())


def main(
    samples: Annotated[int, typer.Option(help="Steered ones.")] = 96,
    draws: int = 256,
    strength: Annotated[float, typer.Option(help="Of the reward, in standard deviations within a field.")] = 1.5,
    exponents: Annotated[str, typer.Option(help="Of the power spectra: 0 is white noise.")] = "1,2,3",
    seed: int = 0,
) -> None:
    """Print a table for each spectrum."""
    torch.set_num_threads(1)
    plan = steering.plan("sde_dpmpp_2m", path=PATH, steps=20, prediction="x0")
    for exponent in map(float, exponents.split(",")):
        law = Fields(seed, exponent)
        problem = Problem(plan=plan, event=EVENT)
        record = steering.solve(posteriors.record(problem, draws), law.network, tile=None)
        exact, shares = law.tilted(1024, strength, seed)
        plain = steering.run(plan, law.network, (samples, *EVENT), seed, tile=None)
        goal = functional.avg_pool2d(exact, 16).flatten(1).to(torch.float64)

        def far(x: Tensor, goal: Tensor = goal) -> float:
            return energy_distance(functional.avg_pool2d(x, 16).flatten(1).to(torch.float64), goal)

        made = {name: posteriors.residuals(record, most) for name, most in (("pooled", NEARNESS), ("whole", 2**30))}
        alike = overlap(made["pooled"], made["whole"], torch.arange(0, draws, 8))
        wished = law.reward(exact, 1.0)
        print(
            f"\nspectrum k^-{exponent:g}: {record.bytes / 2**20:.0f} MiB of {draws} draws at {len(record.log_snr)} "
            f"levels, overlap {alike:.2f}; exact reward {float(wished.mean()):.2f}, shares "
            + " ".join(f"{each:.2f}" for each in shares)
            + "\nnearness    reward     W1  distance%  shares                 compared  seconds"
        )
        base = far(plain)
        print(_line("plain", law, plain, wished, 100.0, 0, 0.0))
        for name, posterior in made.items():
            begin = time.perf_counter()
            steer = steering.Doob(partial(law.reward, strength=strength), posterior=posterior)
            x = steering.run(plan, law.network, (samples, *EVENT), seed, steer, tile=None)
            compared = posterior._pooled(x[:1].flatten(1)).shape[1]
            print(_line(name, law, x, wished, 100 * far(x) / base, compared, time.perf_counter() - begin), flush=True)


def _line(name: str, law: Fields, x: Tensor, wished: Tensor, distance: float, compared: int, seconds: float) -> str:
    got = law.reward(x, 1.0)
    ranks = (torch.arange(len(got)) + 0.5) / len(got)
    w1 = float((got.sort().values - wished.quantile(ranks)).abs().mean())
    shares = torch.bincount(law.read(x), minlength=FIELDS) / len(x)
    listed = " ".join(f"{each:.2f}" for each in shares)
    return f"{name:10} {float(got.mean()):7.2f} {w1:6.2f} {distance:10.1f}  {listed:21} {compared:9} {seconds:8.1f}"


if __name__ == "__main__":
    typer.run(main)
