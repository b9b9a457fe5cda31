"""Adams predictor-corrector on the flow of v over the angle arctan rho, one row a step.

    dz/dtheta = v = cos(theta) eps - sin(theta) D,   z = x / sqrt(alpha^2 + sigma^2),   theta = arctan rho

the probability flow in the coordinates of TrigFlow (Lu & Song 2024, arXiv:2410.11081). Predicted by Adams-Bashforth
through p past values and corrected by Adams-Moulton through one more, the next evaluation, as UniC does
(arXiv:2302.04867): order p + 1. The first step, with one value and a corrector through two, leaves order 3 in the very
end; with p = 3 that shows below errors of 1e-8 only, with more at once, so no more are offered.

Data of variance 1 keep their size in z and v on every path, and v bends least where D turns: on mixtures these are the
most exact of the solvers from 5 rows on (`make bench ARGS=solvers`).
"""

from collections.abc import Iterator, Sequence
from functools import partial

from steering.plans.plan import Course, Solver, Update
from steering.plans.program import Choice
from steering.solvers import adams


def updates(values: int, course: Course) -> Iterator[Update]:
    choices: Sequence[Choice] = [Choice("velocity", values, "angle", corrector=True)] * (len(course.nodes) - 1)
    return adams.updates(course, choices)


SOLVERS = tuple(
    Solver(
        name=f"trig_adams_{p}",
        order=p + 1,
        rows_per_step=1,
        reference="after Lu & Song 2024, arXiv:2410.11081",
        default_grid="angle",
        updates=partial(updates, p),
        bounded=True,
    )
    for p in (2, 3)
)
