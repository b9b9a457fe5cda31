"""Lower orders in a plan's last steps, as the authors of DPM-Solver advise for few steps (Lu et al. 2022,
arXiv:2211.01095, appendix C), and libraries after them do: the last step of order 1, the one before of order 2.
"""

from collections.abc import Mapping

from steering.plans.plan import Course, Option

MOST = 1001.0
OPTIONS: Mapping[str, Option] = {
    "lower_final": Option(
        "in plans of fewer steps than this, the last step is of order 1 and the one before of order 2 at most",
        default=0.0, high=MOST, whole=True,
    ),
}  # fmt: skip


def orders(course: Course, most: int) -> list[int]:
    """The order that each step of the course may have, at most; its past is counted elsewhere."""
    own = len(course.nodes) - 1
    steps = own + course.after
    if not steps < course.options["lower_final"]:
        return [most] * own
    return [min(most, steps - i) for i in range(own)]
