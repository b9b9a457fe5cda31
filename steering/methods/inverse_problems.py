"""Inpainting and linear inverse problems y = A x by projection (DDNM, Wang et al. 2023, arXiv:2212.00490, algorithm 1).

Every denoised estimate is moved to the nearest one that explains the measurement,

    D <- D + A^+ (y - A D)

and the first state to mean alpha A^+ y. The measured part of D is then constant, which most solvers integrate exactly:
that part of the state is alpha y + sigma eps, with one eps all along, and fresh noise where the plan draws some. This
makes it the replacement method of Song et al. 2021 (arXiv:2011.13456, appendix I.2) and RePaint (Lugmayr et al. 2022,
arXiv:2201.09865), which write the diffused measurement into the state. Samples meet y to within sigma at t_min.

What is not measured does not follow the posterior given y: it moves by the score given the measured part as noisy as
the state. Noise drawn on the way brings it closer, as Langevin steps would (in RePaint, jumps back). Two
coordinates of variance 1 and correlation 0.8, one measured as 1, the other's posterior N(0.8, 0.36), vp_cosine:

    dpmpp_2m, eta 0: N(0.35, 0.67)    eta 1: N(0.50, 0.54)    eta 2: N(0.66, 0.43)    eta 3: N(0.73, 0.39)
    heun, churn 20: N(0.56, 0.50)     80: N(0.69, 0.42)       400: N(0.77, 0.37)
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steering.errors import SteeringError
from steering.numerics.noise import Noise
from steering.numerics.tiles import product
from steering.plans.plan import Stage
from steering.sampling.rows import Rows
from steering.sampling.sampler import Guided, Problem, Tilt, Tilting

Linear = Callable[[Tensor], Tensor]
ROUNDING = 1e-3
"""Relative difference of A A^+ y to y that may be rounding, also of an operator that works in float32."""


@dataclass(frozen=True, eq=False)
class Project(Tilting):
    """Steering toward samples with A x = y.

    Attributes:
        values: y, [n, *measured], or [1, *measured] for all samples.
        apply: A, [B, *event] -> [B, *measured], row by row.
        pseudo_inverse: A^+, [B, *measured] -> [B, *event]; the adjoint only where A A^T is the identity.
    """

    values: Tensor
    apply: Linear
    pseudo_inverse: Linear

    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, "Projected"]:
        """Refuses values no x explains, and so most wrong pseudo-inverses."""
        yield from ()
        values = self.values.to(problem.dtype)
        known = self.pseudo_inverse(values)
        if tuple(known.shape) != (len(values), *problem.event):
            wanted = [len(values), *problem.event]
            raise SteeringError(f"pseudo_inverse: expected values of shape {wanted}, got {list(known.shape)}")
        again = self.apply(known)
        tolerance = ROUNDING * (1 + float(values.abs().max()))
        if again.shape != values.shape or not bool(((again - values).abs() <= tolerance).all()):
            raise SteeringError("values: expected y = A A^+ y, got other values from apply(pseudo_inverse(values))")
        return Projected(self, values, known)


@dataclass(frozen=True, eq=False)
class Projected(Tilt):
    """`Project`, prepared: y and A^+ y in the problem's dtype."""

    project: Project
    values: Tensor
    known: Tensor

    def start_shift(self) -> Tensor:
        """A^+ y, [n, *event] or [1, *event]."""
        return self.known

    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        """Implements `Tilt.steer`."""
        yield from ()
        if len(self.values) not in (1, len(x)):
            raise SteeringError(f"steering: expected values for 1 or {len(x)} samples, got {len(self.values)}")
        residual = self.values - self.project.apply(denoised)
        return Guided(denoised + self.project.pseudo_inverse(residual))


def inpaint(mask: Tensor, values: Tensor) -> Project:
    """Keep `values` [n, *event] or [1, *event] where `mask` [*event] is true, and fill in the rest."""
    if mask.dtype != torch.bool or mask.shape != values.shape[1:]:
        raise ValueError(f"mask: expected bool {list(values.shape[1:])}, got {mask.dtype} {list(mask.shape)}")

    def keep(x: Tensor) -> Tensor:
        return torch.where(mask, x, 0.0)

    return Project(keep(values), keep, keep)


def linear(matrix: Float[Tensor, "m d"], values: Float[Tensor, "n m"], event: tuple[int, ...]) -> Project:
    """Meet `values` = x A^T for flattened samples x [n, d]; A^+ is computed, in float64."""
    if matrix.ndim != 2 or matrix.shape[1] != math.prod(event) or values.shape[1:] != matrix.shape[:1]:
        raise ValueError(
            f"expected a matrix [m, {math.prod(event)}] and values [n, m], "
            f"got {list(matrix.shape)} and {list(values.shape)}"
        )
    forward: Float64[Tensor, "m d"] = matrix.to(torch.float64)
    backward: Float64[Tensor, "d m"] = torch.linalg.pinv(forward)

    def times(factor: Tensor, rows: Tensor) -> Tensor:
        return product(rows.to(torch.float64), factor.T).to(rows.dtype)

    return Project(
        values,
        lambda x: times(forward, x.flatten(1)),
        lambda y: times(backward, y).reshape(-1, *event),
    )
