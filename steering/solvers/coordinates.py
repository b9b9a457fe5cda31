"""The probability flow as an ordinary equation dy/dtau = p x + q D, y = x / scale: three choices of y and tau.

    RHO     y = x / alpha,                    tau = rho = sigma / alpha    dy/dtau = eps = (x - alpha D) / sigma
    TIME    y = x,                            tau = t                      dy/dtau = u = alpha' D + sigma' eps
    ANGLE   y = x / sqrt(alpha^2 + sigma^2),  tau = arctan rho             dy/dtau = v = cos(tau) eps - sin(tau) D

RHO is that of Karras et al. 2022 (arXiv:2206.00364) and DEIS (arXiv:2204.13902): eps is constant where D is. TIME is
that of flow matching (arXiv:2210.02747). ANGLE is TrigFlow's (Lu & Song 2024, arXiv:2410.11081): on any path it has
bounded y, tau and slope.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from steering.paths import Path
from steering.plans.plan import Course, Node


@dataclass(frozen=True)
class Point:
    """A node in some coordinates: dy/dtau = state x + data D there, and x = scale y."""

    node: Node
    tau: float
    scale: float
    state: float
    data: float


@dataclass(frozen=True)
class Coordinates:
    """A choice of y and tau: its (tau, scale, state, data) at nodes [k], and the nodes at other values of tau."""

    forms: Callable[[Path, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
    nodes: Callable[[Course, Tensor], tuple[Node, ...]]

    def points(self, course: Course, nodes: Sequence[Node] | None = None) -> list[Point]:
        """The course's own nodes, or others, as points."""
        nodes = course.nodes if nodes is None else nodes
        times = torch.tensor([node.t for node in nodes], dtype=torch.float64)
        columns = torch.stack(self.forms(course.path, times), dim=1).tolist()
        return [Point(node, *column) for node, column in zip(nodes, columns, strict=True)]

    def inside(self, course: Course, points: Sequence[Point], fraction: float) -> list[Point]:
        """In every interval between points, the one at this fraction of its tau."""
        taus = torch.tensor([s.tau + fraction * (t.tau - s.tau) for s, t in pairwise(points)], dtype=torch.float64)
        return self.points(course, self.nodes(course, taus))


def _rho(path: Path, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    alpha, sigma = path.alpha(t), path.sigma(t)
    return sigma / alpha, alpha, 1 / sigma, -alpha / sigma


def _time(path: Path, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rate = path.sigma_dot(t) / path.sigma(t)
    return t, torch.ones_like(t), rate, path.alpha_dot(t) - path.alpha(t) * rate


def _angle(path: Path, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    alpha, sigma = path.alpha(t), path.sigma(t)
    norm = torch.hypot(alpha, sigma)
    return torch.atan2(sigma, alpha), norm, alpha / (sigma * norm), -norm / sigma


RHO = Coordinates(_rho, lambda course, rho: course.at_log_snr(-torch.log(rho)))
TIME = Coordinates(_time, lambda course, t: course.at(t))
ANGLE = Coordinates(_angle, lambda course, angle: course.at_log_snr(-torch.log(torch.tan(angle))))
