"""Predictor-corrector sampling (Song et al. 2021, arXiv:2011.13456, algorithms 2 to 5), on any path.

    predictor    x_t = (2 - a) x_s + g^2 S_s + g z,   a = alpha_s / alpha_t,   g^2 = sigma_s^2 - a^2 sigma_t^2
    corrector    x <- x + e S_t + sqrt(2 e) z,        e = 2 a^2 (snr sigma_t)^2

The predictor reverses the path's own transition x_s = a x_t + g z: algorithm 3 where variance is preserved (a^2 = 1 -
beta), algorithm 2 where a = 1. The corrector is Langevin dynamics at the new level, algorithms 5 and 4, with one
difference: they take e = 2 a^2 (snr |z| / |S|)^2, norms averaged over the batch, so that samples depend on their
neighbours. Norms of one sample make the step depend on its state, and the chain then keeps another law than p_t (in
two dimensions, energy distance 0.12 instead of 0.001). Since S = -E[z | x] / sigma, |z| / |S| is on average at least
sigma_t. That bound is taken: the step of annealed Langevin dynamics (arXiv:1907.05600), and the method is a table.
"""

import math
from collections.abc import Iterator
from itertools import repeat

from steering.plans.plan import Course, Node, Option, Solver, Update

OPTIONS = {
    "corrections": Option("Langevin moves after each predictor step; 0: the predictor alone", 1, 0, 32, whole=True),
    "snr": Option("signal-to-noise ratio of a Langevin move; 0.16 in the paper", 0.16, 0.0, 0.7),
}


def predictor(s: Node, t: Node) -> Update:
    """The reverse diffusion step from s to t."""
    a = s.alpha / t.alpha
    variance = s.sigma**2 - (a * t.sigma) ** 2
    gain = variance / s.sigma**2
    return Update(at=s, to=t, A=((2 - a - gain,),), b=(gain * s.alpha,), C=((math.sqrt(variance),),))


def langevin(t: Node, snr: float) -> Update:
    """A Langevin move at t: S = (alpha D - x) / sigma^2, so e S = k (alpha D - x)."""
    k = 2 * snr**2
    return Update(at=t, to=t, A=((1 - k,),), b=(k * t.alpha,), C=((math.sqrt(2 * k) * t.sigma,),))


def updates(course: Course) -> Iterator[Update]:
    moves, snr = int(course.options["corrections"]), course.options["snr"]
    for s, t in course.intervals():
        yield predictor(s, t)
        yield from repeat(langevin(t, snr * s.alpha / t.alpha), moves)


SOLVER = Solver(
    name="pc",
    order=1,
    rows_per_step=2,
    reference="Song et al. 2021, arXiv:2011.13456, algorithms 2 to 5",
    default_grid="logsnr",
    updates=updates,
    uses_noise=True,
    options=OPTIONS,
    rows=lambda steps, options: steps * (1 + int(options["corrections"])),
)
