"""The kinetic energy E int |u|^2 dt of a path (Shaul et al. 2023, arXiv:2306.06626), with the model's own errors.

u = alpha' x_0 + sigma' eps on average over what a state may come from, so that the denoiser's mean square error at
every noise level is all that is needed; see `steering.paths.kinetic`, which also has the least energy of any path.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.diagnostics import field
from steering.numerics.noise import Noise
from steering.paths import DenoisingError, KineticOptimal, kinetic_energy
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem


@dataclass(frozen=True)
class Kinetic:
    """Energies per dimension, between the highest and the lowest of the levels.

    Attributes:
        energy: of the model's path, whose noise is taken for it as it is: large where sigma(t_max) is.
        least: of the kinetic-optimal path to unit noise, in unit time.
        error: the denoiser's errors they were computed from.
    """

    energy: float
    least: float
    error: DenoisingError


def kinetic(problem: Problem, data: Tensor, noise: Noise, times: Sequence[float]) -> Generator[Rows, Tensor, Kinetic]:
    """From the errors on noised data at several path times; one row for each of the data and times.

    A path that takes another time than 1 is run through in unit time: its energy is multiplied by what it takes.
    """
    clean = field.flat(problem, data)
    levels = []
    for t in times:
        at = field.node_at(problem, t)
        x = field.rounded(problem, field.noised(problem, data, noise, at)[None])
        found = yield from field.denoised(problem, x, t)
        levels.append((at.log_snr, float((found[0] - clean).square().mean())))
    log_snr, mse = zip(*sorted(levels), strict=True)
    error = DenoisingError(log_snr, mse, float(clean.square().mean()))
    path = problem.plan.path
    ends = path.time_of_log_snr(torch.tensor([log_snr[0], log_snr[-1]], dtype=torch.float64))
    duration = float(ends[0] - ends[1])
    return Kinetic(duration * kinetic_energy(path, error), kinetic_energy(KineticOptimal(error=error), error), error)
