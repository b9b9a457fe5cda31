"""Annealed Langevin dynamics (Song & Ermon 2019, arXiv:1907.05600, algorithm 1), on any path.

    x <- x + e S_t + sqrt(2 e) z,   e = 2 (snr sigma_t)^2,   some times a level, with x / alpha kept in between

This is `pc` without its predictor. The paper's step, 0.1 sigma^2, is snr 0.22. Noise leaves by these moves alone, so
they should many times outnumber h / (2 snr^2), h the log-SNR from one level to the next.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat

from steering.plans.plan import Course, Option, Solver, Update
from steering.solvers.pc import langevin

OPTIONS = {
    "corrections": Option("Langevin moves at each level", 5, 1, 32, whole=True),
    "snr": Option("signal-to-noise ratio of a Langevin move", 0.22, 0.01, 0.7),
}


def updates(course: Course) -> Iterator[Update]:
    moves, snr = int(course.options["corrections"]), course.options["snr"]
    for s, t in course.intervals():
        move = langevin(s, snr)
        yield from repeat(move, moves - 1)
        carry = t.alpha / s.alpha
        yield replace(move, to=t, A=((carry * move.A[0][0],),), b=(carry * move.b[0],), C=((carry * move.C[0][0],),))
    yield from repeat(langevin(course.nodes[-1], snr), moves)


SOLVER = Solver(
    name="annealed_langevin",
    order=1,
    rows_per_step=5,
    reference="Song & Ermon 2019, arXiv:1907.05600, algorithm 1",
    default_grid="logsnr",
    updates=updates,
    uses_noise=True,
    options=OPTIONS,
    rows=lambda steps, options: (steps + 1) * int(options["corrections"]),
)
