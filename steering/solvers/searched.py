"""A searched program (USF / S3, Liu et al. 2023, arXiv:2312.07243): every step its own exponential Adams method.

Without a program it does what the search starts from: the same in every step, order 3.
"""

from collections.abc import Iterator

from steering.plans.plan import Course, Solver, Update
from steering.plans.program import Choice
from steering.solvers import adams


def updates(course: Course) -> Iterator[Update]:
    start = (Choice("data", 3),) * (len(course.nodes) - 1)
    return adams.updates(course, course.program.choices if course.program else start)


SOLVER = Solver(
    name="searched",
    order=3,
    rows_per_step=1,
    reference="Liu et al. 2023, arXiv:2312.07243",
    default_grid="logsnr",
    updates=updates,
)
