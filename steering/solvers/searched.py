"""A searched program (USF / S3, Liu et al. 2023, arXiv:2312.07243): every step its own exponential Adams method."""

from collections.abc import Iterator

from steering.plan import Course, Solver, Update
from steering.solvers import adams


def updates(course: Course) -> Iterator[Update]:
    assert course.program is not None
    return adams.updates(course, course.program.choices)


SOLVER = Solver("searched", 1, 1, "Liu et al. 2023, arXiv:2312.07243", "logsnr", updates)
