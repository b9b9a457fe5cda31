"""Exponential Adams methods: the linear part of the probability flow exactly, a polynomial through past evaluations.

With w = 1 / rho for F = D ("data"), w = rho for F = eps ("noise") and w = arctan rho for F = v ("velocity"),

    x_t = (K_t / K_s) x_s + K_t int_{w_s}^{w_t} F dw,   K = sigma, alpha or sqrt(alpha^2 + sigma^2),

exactly. F is replaced by the polynomial through its last values, in log-SNR, rho, t or arctan rho (Hochbruck &
Ostermann 2010, "Exponential integrators", section 2.5). DEIS (noise; rho or t) and DPM-Solver++ without its Taylor
shortcuts (data; log-SNR) are of this family. A corrector takes the polynomial through one more value, that at the
step's end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from steering.paths import Path
from steering.plans.plan import Course, Update
from steering.plans.program import Choice, Variable
from steering.solvers import multistep
from steering.solvers.multistep import StepWeights

POINTS = 16

VARIABLES: Mapping[Variable, Callable[[Path, Tensor], Tensor]] = {
    "log_snr": lambda path, log_snr: log_snr,
    "rho": lambda path, log_snr: torch.exp(-log_snr),
    "t": lambda path, log_snr: path.time_of_log_snr(log_snr),
    "angle": lambda path, log_snr: torch.atan(torch.exp(-log_snr)),
}


def _gauss_legendre(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1] (Golub & Welsch 1969)."""
    k = torch.arange(1, points, dtype=torch.float64)
    off = k / torch.sqrt(4 * k**2 - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2


ABSCISSAE, QUADRATURE = _gauss_legendre(POINTS)


def updates(course: Course, choices: Sequence[Choice]) -> Iterator[Update]:
    """One evaluation a step, made as its choice says."""
    return multistep.updates(course.nodes, steps(course, choices))


def steps(course: Course, choices: Sequence[Choice]) -> list[StepWeights]:
    """The choices' weights; early steps use the values there are, and nothing comes to correct the last step."""
    corrected = [i for i, choice in enumerate(choices[:-1]) if choice.corrector]
    found = iter(_weights(course, choices, [*((i, i) for i in range(len(choices))), *((i, i + 1) for i in corrected)]))
    predictors = [_relaxed(next(found), choice.relaxation) for choice in choices]
    correctors = dict(zip(corrected, found, strict=True))
    return [StepWeights(choice.target, predictors[i], correctors.get(i, ())) for i, choice in enumerate(choices)]


def _relaxed(weights: tuple[float, ...], relaxation: tuple[float, ...]) -> tuple[float, ...]:
    """The weights with parts of their sum, the whole step, added."""
    whole = sum(weights)
    return tuple(w + whole * r for w, r in zip_longest(weights, relaxation[: len(weights)], fillvalue=0.0))


def _weights(course: Course, choices: Sequence[Choice], wanted: Sequence[tuple[int, int]]) -> list[tuple[float, ...]]:
    """K int l_j dw, l_j the Lagrange polynomials, for each wanted (step, node of its newest value), newest first.

    Integrated over log-SNR for "data" and "noise", dw = w d lambda or -w d lambda, and over w itself for "velocity".
    All at once, [wanted, point, j, k]: compiling takes the time of few tensor operations, not of their sizes.
    """
    nodes, made = course.nodes, [choices[i] for i, _ in wanted]
    log_snr = torch.tensor([node.log_snr for node in nodes], dtype=torch.float64)
    step, newest = torch.tensor(wanted).T
    oldest = (step + 1 - torch.tensor([choice.order for choice in made])).clamp(min=0)
    index = newest[:, None] - torch.arange(int((newest - oldest).max()) + 1)
    used = index >= oldest[:, None]
    values = log_snr[index.clamp(min=0)]

    ends = torch.tensor(
        [[multistep.scale(choice.target, nodes[i + 1])] for (i, _), choice in zip(wanted, made, strict=True)],
        dtype=torch.float64,
    )
    noise, velocity = (torch.tensor([[choice.target == each] for choice in made]) for each in ("noise", "velocity"))
    start, length = log_snr[step, None], log_snr.diff()[step, None]
    at = start + length * ABSCISSAE
    rate = length * torch.where(noise, -torch.exp(-at), torch.exp(at))
    if bool(velocity.any()):
        angle = torch.atan(torch.exp(-log_snr))
        turn = angle.diff()[step, None]
        at = torch.where(velocity, -torch.log(torch.tan(angle[step, None] + turn * ABSCISSAE)), at)
        rate = torch.where(velocity, turn, rate)
    measure = ends * QUADRATURE * rate

    for variable in {choice.variable for choice in made}:
        rows = torch.tensor([choice.variable == variable for choice in made])
        at[rows], values[rows] = (VARIABLES[variable](course.path, x[rows]) for x in (at, values))
    others = used[:, None, :] & ~torch.eye(index.shape[1], dtype=torch.bool)  # k != j, where there is a value k
    gaps = torch.where(others, values[:, :, None] - values[:, None, :], 1.0)
    factors = (at[:, :, None, None] - values[:, None, None, :]) / gaps[:, None]
    lagrange = torch.where(others[:, None], factors, 1.0).prod(dim=3)
    table = (measure[:, :, None] * lagrange).sum(dim=1).tolist()
    return [tuple(row[:count]) for row, count in zip(table, used.sum(dim=1).tolist(), strict=True)]
