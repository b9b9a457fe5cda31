"""Log-likelihood by the probability flow (Song et al. 2021, arXiv:2011.13456, eq. 39; Chen et al. 2018).

In y = x / alpha and tau = log rho, rho = sigma / alpha, the flow and the density along it are

    dy / dtau = y - D,   d log q(y) / dtau = tr J - d,   J = dD / dy

so log q at rho_min is log q at rho_max + d log(rho_max / rho_min) - int tr J dtau. Both are integrated together, from
data to noise, by the classical Runge-Kutta method of order 4, one step for each interval of the plan between nodes with
a log-SNR; nothing else of its solver is used. The state is kept as z = y / sqrt(1 + rho^2), of one scale at all levels:

    dz / dtau = (y / (1 + rho^2) - D) / sqrt(1 + rho^2)

In tau the integrand changes on a scale of one, whatever the level. On mixtures with standard deviations of 0.2 to 0.6,
with vp_cosine, the root mean square error is 4e-3 nats per dimension after 20 steps of grid "logsnr", 3e-5 after 60 and
1e-6 after 120; with those of 0.05 it is 1e-2, 2e-4 and 1e-4. Steps uniform in arctan(rho) leave more than 0.1.

tr J is Skilling's and Hutchinson's estimate v'Jv, v of random signs, the same along a sample's whole trajectory, or
exact from d unit vectors. v'J is a central difference: two network rows for each v, and no derivative of the network.
"""

import math
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.numerics.noise import START, Draw, Noise
from steering.plans.plan import Course, Node
from steering.sampling.rows import Rows, metered
from steering.sampling.sampler import Problem, evaluate

LN2 = math.log(2)
TOGETHER = 64
"""Most states of a sample in one request: bounds the memory of exact traces."""
REFUSED = (torch.float16, torch.bfloat16)

Law = Literal["data", "sampler"]


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Log densities in nats.

    Attributes:
        log_density: [n] log p of each sample.
        standard_error: [n] over the probes; 0 with exact traces, NaN with a single probe, which shows none.
        offset: [n] the part of `log_density` that extrapolates it from t_min to t = 0; 0 for law "sampler".
        network_rows: rows evaluated, over all samples.
    """

    log_density: Float64[Tensor, " n"]
    standard_error: Float64[Tensor, " n"]
    offset: Float64[Tensor, " n"]
    network_rows: int


def bits_per_dimension(log_density: Tensor, event: tuple[int, ...], bin_width: float = 1.0) -> Tensor:
    """-log2 P / d for data rounded to bins, P = p bin_width^d: 2 / 256 for bytes scaled to [-1, 1].

    For dequantised data x + bin_width u, u uniform, this bounds the bits of a lossless code from above on average.
    """
    return -log_density / (LN2 * math.prod(event)) - math.log2(bin_width)


def log_likelihood(
    problem: Problem, x: Tensor, noise: Noise, *, probes: int = 4, exact: bool = False, law: Law = "data"
) -> Generator[Rows, Tensor, Likelihood]:
    """Log density of samples x [n, *event], under the problem's conditions.

    Two laws can be meant, and differ at both ends of the path.

    "data": the law of x_0 the network has learnt. At t_max it is taken for a Gaussian, read off the network there; what
    that leaves out, third cumulants, goes as 1 / rho_max^3. (N(0, sigma_max^2) would be off by x_0 / rho_max, 0.01 nats
    per dimension where rho_max is 100.) The flow then gives the density q of x_0 + rho_min eps, and one step of the
    heat equation, dq / d(rho^2) = lap q / 2, that of x_0:

        log p(x) = log q(x) - (tr J - d + |D - x|^2 / rho_min^2) / 2 + O(rho_min^4)

    This last term is `offset`; subtract it for log q, the better number where the term is not small against d, as on
    images whose finest detail is below rho_min.

    "sampler": the law of what the probability flow draws from N(0, sigma_max^2), of states at t_min, as `sample`
    returns them. It exists under guidance too, where D is no posterior mean and belongs to no law of data.

    The density is that of x given the condition. The condition itself has none: no flow leads to it, and what is
    discrete has probabilities instead.

    Args:
        x: floating point; whole numbers have probabilities and no density, until they are dequantised.
        noise: gives each sample its probes, by seed and index.
        probes: sign vectors per sample; 4 (1 + 2 probes) rows per step.
        exact: the trace itself, of 4 (1 + 2 d) rows per step.

    Raises:
        ValueError: dtypes of 16 bits, whose rounding drowns the differences; guidance under law "data"; wrong shapes.
    """
    _check(problem, x, noise, probes, law)
    n, d = len(x), math.prod(problem.event)
    nodes = tuple(sorted((node for node in problem.plan.nodes if math.isfinite(node.log_snr)), key=lambda node: node.t))
    low, high = nodes[0], nodes[-1]
    if exact:
        directions = torch.eye(d, dtype=torch.float64)[:, None].expand(d, n, d)
    else:
        signs = noise.uniform(START, Draw.PROBES, probes * d).reshape(n, probes, d) < 0.5
        directions = torch.where(signs, -1.0, 1.0).to(torch.float64).movedim(1, 0)
    flow = _Flow(problem, directions, exact)
    y = x.to(torch.float64) if problem.mean is None else x.to(torch.float64) - problem.mean
    y = y.flatten(1) / (low.alpha if law == "sampler" else 1.0)
    meter: Counter[str] = Counter()
    end, trace = yield from metered(flow.climb(nodes, y), meter)
    if law == "sampler":
        prior = -((end * end).sum(-1) / high.rho**2 + d * math.log(2 * math.pi * (high.rho * low.alpha) ** 2)) / 2
        offsets = torch.zeros_like(trace)
    else:
        prior = yield from metered(flow.summit(high, end), meter)
        offsets = yield from metered(flow.cooling(low, y), meter)
    estimates = (prior + d * math.log(high.rho / low.rho))[:, None] - trace + offsets
    if exact:
        error = torch.zeros_like(prior)
    else:
        error = estimates.std(-1) / math.sqrt(probes) if probes > 1 else torch.full_like(prior, torch.nan)
    return Likelihood(estimates.mean(-1), error, offsets.mean(-1), meter["network"])


@dataclass(frozen=True, eq=False)
class _Flow:
    """The probability flow in y with the trace of D's Jacobian along directions [k, n, d]."""

    problem: Problem
    directions: Float64[Tensor, "k n d"]
    exact: bool

    def climb(
        self, nodes: tuple[Node, ...], y: Float64[Tensor, "n d"]
    ) -> Generator[Rows, Tensor, tuple[Float64[Tensor, "n d"], Float64[Tensor, "n k"]]]:
        """Along ascending nodes: y at the last one, and int tr J dtau on the way."""
        z, trace = y / _scale(nodes[0]), torch.zeros(())
        for s, m, t in zip(nodes, Course(self.problem.plan.path, nodes).inside(0.5), nodes[1:], strict=False):
            h = s.log_snr - t.log_snr
            k1, j1 = yield from self.slope(s, z)
            k2, j2 = yield from self.slope(m, z + h / 2 * k1)
            k3, j3 = yield from self.slope(m, z + h / 2 * k2)
            k4, j4 = yield from self.slope(t, z + h * k3)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            trace = trace + h / 6 * (j1 + 2 * j2 + 2 * j3 + j4)
        return z * _scale(nodes[-1]), trace

    def slope(
        self, node: Node, z: Float64[Tensor, "n d"]
    ) -> Generator[Rows, Tensor, tuple[Float64[Tensor, "n d"], Float64[Tensor, "n k"]]]:
        """dz / dtau and tr J."""
        scale = _scale(node)
        denoised, trace = yield from self.look(node, z * scale)
        return (z / scale - denoised) / scale, trace

    def look(
        self, node: Node, y: Float64[Tensor, "n d"]
    ) -> Generator[Rows, Tensor, tuple[Float64[Tensor, "n d"], Float64[Tensor, "n k"]]]:
        """D at y, and tr J by central differences over eps^(1/3) of y's own scale: the least error of both kinds."""
        width = torch.finfo(self.problem.dtype).eps ** (1 / 3)
        reach = width * torch.sqrt((y * y).sum(-1) / y.shape[1] + node.rho**2)
        steps = [reach[:, None] * v for v in self.directions]
        denoised, *sides = yield from self.denoised(node, [y, *(y + s for s in steps), *(y - s for s in steps)])
        ups, downs = sides[: len(steps)], sides[len(steps) :]
        slopes = [
            (v * (up - down)).sum(-1) / (2 * reach) for v, up, down in zip(self.directions, ups, downs, strict=True)
        ]
        trace = torch.stack(slopes, dim=-1)
        return denoised, trace.sum(-1, keepdim=True) if self.exact else trace

    def denoised(
        self, node: Node, points: list[Float64[Tensor, "n d"]]
    ) -> Generator[Rows, Tensor, list[Float64[Tensor, "n d"]]]:
        """D at several states of every sample."""
        rule, dtype, found = self.problem.plan.denoise(node.t), self.problem.dtype, list[Tensor]()
        for first in range(0, len(points), TOGETHER):
            some = points[first : first + TOGETHER]
            x = (torch.cat(some) * node.alpha).reshape(-1, *self.problem.event).to(dtype)
            denoised = yield from evaluate(self.problem.repeated(len(some)), rule, x)
            found += denoised.to(torch.float64).flatten(1).chunk(len(some))
        return found

    def summit(self, node: Node, y: Float64[Tensor, "n d"]) -> Generator[Rows, Tensor, Float64[Tensor, " n"]]:
        """log q(y) of a Gaussian law, N(m, S): y - D = rho^2 S^-1 (y - m) and J = 1 - rho^2 S^-1 =: K.

        m = D(0) / (1 - k) and log det(1 - K) = d log(1 - k), k = tr K / d: both lack only (K - k)^2.
        """
        d = y.shape[1]
        at_zero, trace = yield from self.look(node, torch.zeros_like(y))
        (denoised,) = yield from self.denoised(node, [y])
        kept = 1 - (trace.mean(-1) / d).clamp(0, 1 - 1e-6)
        square = ((y - at_zero / kept[:, None]) * (y - denoised)).sum(-1)
        return -(square / node.rho**2 + d * (math.log(2 * math.pi * node.rho**2) - torch.log(kept))) / 2

    def cooling(self, node: Node, y: Float64[Tensor, "n d"]) -> Generator[Rows, Tensor, Float64[Tensor, "n k"]]:
        """What one step of the heat equation back to rho = 0 adds to log q(y)."""
        denoised, trace = yield from self.look(node, y)
        drawn = (denoised - y) / node.rho
        return -(trace - y.shape[1] + (drawn * drawn).sum(-1)[:, None]) / 2


def _scale(node: Node) -> float:
    return math.hypot(1, node.rho)


def _check(problem: Problem, x: Tensor, noise: Noise, probes: int, law: str) -> None:
    if problem.dtype in REFUSED:
        raise ValueError(f"dtype: expected float32 or float64, whose differences resolve a trace, got {problem.dtype}")
    if not x.is_floating_point():
        raise ValueError(f"x: expected floating point, since whole numbers have no density (dequantise), got {x.dtype}")
    if sum(math.isfinite(node.log_snr) for node in problem.plan.nodes) < 2:
        raise ValueError("plan: expected two or more nodes with data and noise (alpha and sigma above 0), got fewer")
    n = len(noise.indices)
    if tuple(x.shape) != (n, *problem.event):
        raise ValueError(f"x: expected shape {[n, *problem.event]}, got {list(x.shape)}")
    if not isinstance(probes, int) or probes < 1:
        raise ValueError(f"probes: expected an integer >= 1, got {probes!r}")
    if law not in get_args(Law):
        raise ValueError(f"law: expected one of {', '.join(get_args(Law))}, got {law!r}")
    if law == "data" and problem.guidance != 1:
        raise ValueError(
            f"guidance: expected 1 for law 'data', since a guided D is no posterior mean, got {problem.guidance}; "
            "law 'sampler' is that of the guided flow"
        )
