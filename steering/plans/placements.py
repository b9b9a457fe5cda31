"""Grids that other libraries place their nodes by: the levels at which the network is asked, one a step.

Other grids are about where a plan's nodes lie, both ends of the path included. These say where the network is asked,
and the plan goes on from the last of them to D, or to the path's end. Written as

    leading(1)            a placement, some with numbers
    leading(1)/karras     its first and last level, and as many between them, spaced otherwise

On a path of N trained steps, n = 0 is the cleanest of them (Lin et al. 2023, arXiv:2305.08891, table 2, and what
diffusers' schedulers make of it):

    leading(o)            n = i floor(N / steps) + o,             i = steps - 1 .. 0
    leading_inner(o)      n = i floor(L / (steps + 1)) + o,       i = steps .. 1
    linspace              N - 1 .. 0 in equal parts, both included, with fractions
    linspace_whole        the same, rounded
    linspace_inner        L - 1 .. 0 in one part more, rounded, without the 0
    linspace_open         N - 1 .. 0 in one part more, with fractions, without the 0
    simple                n = N - 1 - floor(i N / steps)
    beta_steps(a, b)      (N - 1) times the quantiles of a beta distribution, rounded, from 1 in equal parts
    trailing              n = round(N - i N / steps) - 1,         i = 0 .. steps - 1
    lcm(k)                of n = j floor(N / k) - 1, j = k .. 1, every (k / steps)-th, from the noisiest

L is the number of steps up to the path's t_max. On a path in which time is the noise level's share, as that of
rectified flow, with shift(s) = k s / (1 + (k - 1) s) (Esser et al. 2024, arXiv:2403.03206, eq. 23):

    flow(k, N)            shift of 1 .. shift(1 / N), both included: shifted twice at its end, as diffusers has it
    flow_once(k, N)       shift of 1 .. 1 / N, both included
    flow_inner(k, N)      shift of 1 - 1 / N .. 0, without the 0
    flow_outer(k, N)      shift of 1 .. 1 / N, without the last
    flow_even(k)          shift of 1 .. 1 / steps, both included
    flow_even(k, e)       the same, stretched so that the last is e

On any path:

    levels                from the path's t_max to its t_min: for the respacings
    rounds(N)             of N levels of Karras et al.'s grid, n = i floor(N / steps), i = steps - 1 .. 0

The respacings are karras(p), uniform in rho^(1/p) (Karras et al. 2022, arXiv:2206.00364, eq. 5), exponential, uniform
in log rho, beta(a, b), rho at the quantiles of a beta distribution (Lee et al. 2024, arXiv:2407.12173), and lu, uniform
in the log-SNR, which is `exponential` (Lu et al. 2022, arXiv:2206.00927). On flows they space sigma instead of rho.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import PlanError
from steering.paths import Path
from steering.paths.discrete import VPDiscrete
from steering.paths.flows import RectifiedFlow

Nodes = Float64[Tensor, " steps"]


@dataclass(frozen=True)
class Number:
    """A number in a grid's brackets: its default, None where it must be given, and its range."""

    default: float | None
    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True)
class Placement:
    """Path times [steps] for a path, a number of steps and its numbers."""

    times: Callable[..., Nodes]
    numbers: tuple[Number, ...] = ()


@dataclass(frozen=True)
class Respacing:
    """So many levels from the first to the last, both included; which are > 0."""

    levels: Callable[..., Nodes]
    numbers: tuple[Number, ...] = ()


@dataclass(frozen=True)
class Placed:
    """A placement with its numbers, and perhaps a respacing with its own."""

    text: str
    placement: Placement
    numbers: tuple[float, ...]
    respacing: Respacing | None = None
    others: tuple[float, ...] = ()

    def asked(self, path: Path, steps: int) -> Nodes:
        """The path times [steps] at which the network is asked, from noise to data.

        Raises:
            PlanError: a placement for another kind of path.
        """
        try:
            times = self.placement.times(path, steps, *self.numbers)
        except _NotHereError as error:
            raise PlanError(f"grid {self.text!r}: {error}") from None
        if self.respacing is None:
            return times
        flow = isinstance(path, RectifiedFlow)
        ends = times[[0, -1]]
        first, last = (path.sigma(ends) if flow else torch.exp(-path.log_snr(ends))).tolist()
        if steps == 1:
            return times[:1]
        levels = self.respacing.levels(first, last, steps, *self.others)
        log_snr = torch.log1p(-levels) - torch.log(levels) if flow else -torch.log(levels)
        inner = path.time_of_log_snr(log_snr)
        return torch.cat([times[:1], inner[1:-1], times[-1:]])


class _NotHereError(Exception):
    """What a placement expects of a path."""


def _table(path: Path) -> int:
    """N of a path of trained steps."""
    if not isinstance(path, VPDiscrete):
        raise _NotHereError(f"expected a path of N trained steps (vp_betas, vp_discrete), got {type(path).__name__}")
    return path.steps


def _at(n: Tensor | Sequence[float], count: int) -> Nodes:
    """Times of trained steps n."""
    return (torch.as_tensor(n, dtype=torch.float64) + 1) / count


def _line(first: float, last: float, count: int) -> Nodes:
    return torch.linspace(first, last, count, dtype=torch.float64)


def _falling(count: int) -> Nodes:
    """count - 1 .. 0."""
    return torch.arange(count - 1, -1, -1, dtype=torch.float64)


def _ratio(trained: int, parts: int) -> int:
    if trained < parts:
        raise _NotHereError(f"expected at most {trained} steps, got {parts}")
    return trained // parts


def _leading(path: Path, steps: int, offset: float) -> Nodes:
    trained = _table(path)
    return _at(_falling(steps) * _ratio(trained, steps) + offset, trained)


def _leading_inner(path: Path, steps: int, offset: float) -> Nodes:
    trained = _table(path)
    return _at((_falling(steps) + 1) * _ratio(_up_to(path, trained), steps + 1) + offset, trained)


def _up_to(path: Path, trained: int) -> int:
    """Trained steps up to the path's t_max."""
    return round(path.t_max * trained)


def _linspace(path: Path, steps: int) -> Nodes:
    trained = _table(path)
    return _at(_line(0, trained - 1, steps).flip(0), trained)


def _linspace_whole(path: Path, steps: int) -> Nodes:
    trained = _table(path)
    return _at(_line(0, trained - 1, steps).round().flip(0), trained)


def _linspace_inner(path: Path, steps: int) -> Nodes:
    trained = _table(path)
    return _at(_line(0, _up_to(path, trained) - 1, steps + 1).round().flip(0)[:-1], trained)


def _linspace_open(path: Path, steps: int) -> Nodes:
    trained = _table(path)
    return _at(_line(0, trained - 1, steps + 1).flip(0)[:-1], trained)


def _simple(path: Path, steps: int) -> Nodes:
    trained = _table(path)
    return _at(trained - 1 - torch.arange(steps, dtype=torch.float64).mul(trained / steps).floor(), trained)


def _beta_steps(path: Path, steps: int, a: float, b: float) -> Nodes:
    trained = _table(path)
    shares = 1 - torch.arange(steps, dtype=torch.float64) / steps
    return _at((_quantiles(shares, a, b) * (trained - 1)).round(), trained)


def _trailing(path: Path, steps: int) -> Nodes:
    trained = _table(path)
    return _at((trained - torch.arange(steps, dtype=torch.float64) * (trained / steps)).round() - 1, trained)


def _lcm(path: Path, steps: int, rounds: float) -> Nodes:
    trained = _table(path)
    count, ratio = int(rounds), _ratio(trained, int(rounds))
    if steps > count:
        raise _NotHereError(f"expected at most {count} steps, got {steps}")
    chosen = torch.arange(steps, dtype=torch.float64).mul(count / steps).floor()
    return _at((count - chosen) * ratio - 1, trained)


def _shift(s: Nodes, k: float) -> Nodes:
    return k * s / (1 + (k - 1) * s)


def _straight(path: Path, sigma: Nodes) -> Nodes:
    """Times of a rectified flow at levels sigma."""
    if not isinstance(path, RectifiedFlow):
        raise _NotHereError(f"expected a rectified flow, got {type(path).__name__}")
    return sigma / (path.shift - (path.shift - 1) * sigma)


def _flow(path: Path, steps: int, k: float, trained: float) -> Nodes:
    last = k / trained / (1 + (k - 1) / trained)
    return _straight(path, _shift(_line(1, last, steps), k))


def _flow_once(path: Path, steps: int, k: float, trained: float) -> Nodes:
    return _straight(path, _shift(_line(1, 1 / trained, steps), k))


def _flow_inner(path: Path, steps: int, k: float, trained: float) -> Nodes:
    return _straight(path, _shift(_line(1 - 1 / trained, 0, steps + 1)[:-1], k))


def _flow_outer(path: Path, steps: int, k: float, trained: float) -> Nodes:
    return _straight(path, _shift(_line(1, 1 / trained, steps + 1)[:-1], k)).clamp(max=path.t_max)


def _flow_even(path: Path, steps: int, k: float, last: float) -> Nodes:
    sigma = _shift(_line(1, 1 / steps, steps), k)
    if last > 0:
        sigma = 1 - (1 - sigma) * (1 - last) / (1 - sigma[-1]) if steps > 1 else sigma
    return _straight(path, sigma)


def _levels(path: Path, steps: int) -> Nodes:
    return _line(path.t_max, path.t_min, max(steps, 2))


def _rounds(path: Path, steps: int, count: float) -> Nodes:
    first, last = (math.exp(-level) for level in path.levels)
    chosen = int(count) - 1 - (_falling(steps) * _ratio(int(count), steps)).to(torch.int64)
    return path.time_of_log_snr(-torch.log(_karras(first, last, int(count), 7.0)[chosen]))


_OFFSET = Number(0.0, 0.0, 1000.0, whole=True)
_SHIFT = Number(1.0, 0.01, 100.0)
_SHAPE = Number(0.6, 0.1, 20.0)
_TRAINED = Number(1000.0, 2.0, 100_000.0, whole=True)
PLACEMENTS: Mapping[str, Placement] = {
    "leading": Placement(_leading, (_OFFSET,)),
    "leading_inner": Placement(_leading_inner, (_OFFSET,)),
    "linspace": Placement(_linspace),
    "linspace_whole": Placement(_linspace_whole),
    "linspace_inner": Placement(_linspace_inner),
    "linspace_open": Placement(_linspace_open),
    "simple": Placement(_simple),
    "beta_steps": Placement(_beta_steps, (_SHAPE, _SHAPE)),
    "trailing": Placement(_trailing),
    "lcm": Placement(_lcm, (Number(50.0, 1.0, 1000.0, whole=True),)),
    "flow": Placement(_flow, (_SHIFT, _TRAINED)),
    "flow_once": Placement(_flow_once, (_SHIFT, _TRAINED)),
    "flow_inner": Placement(_flow_inner, (_SHIFT, _TRAINED)),
    "flow_outer": Placement(_flow_outer, (_SHIFT, _TRAINED)),
    "flow_even": Placement(_flow_even, (_SHIFT, Number(0.0, 0.0, 0.99))),
    "levels": Placement(_levels),
    "rounds": Placement(_rounds, (Number(40.0, 2.0, 1000.0, whole=True),)),
}


def _karras(first: float, last: float, count: int, power: float) -> Nodes:
    return _line(first ** (1 / power), last ** (1 / power), count) ** power


def _exponential(first: float, last: float, count: int) -> Nodes:
    return torch.exp(_line(math.log(first), math.log(last), count))


def _beta(first: float, last: float, count: int, a: float, b: float) -> Nodes:
    return last + _quantiles(_line(1, 0, count), a, b) * (first - last)


HALVINGS, TERMS = 60, 80
"""Of a quantile, and of the continued fraction, which for shapes up to 20 has converged long before."""


def _quantiles(shares: Nodes, a: float, b: float) -> Nodes:
    """Quantiles of the beta distribution: its distribution function, an integral, inverted by halving."""
    low, high = torch.zeros_like(shares), torch.ones_like(shares)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = _below(middle, a, b) < shares
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    found = (low + high) / 2
    return torch.where(shares <= 0, 0.0, torch.where(shares >= 1, 1.0, found))


def _below(x: Nodes, a: float, b: float) -> Nodes:
    """The regularised incomplete beta function I_x(a, b), 0 < x < 1: by its continued fraction (DLMF 8.17.22), on the
    side of the mean where it converges fast."""
    far = x > (a + 1) / (a + b + 2)
    return torch.where(far, 1 - _near(torch.where(far, 1 - x, 0.5), b, a), _near(torch.where(far, 0.5, x), a, b))


def _near(x: Nodes, a: float, b: float) -> Nodes:
    """I_x(a, b), the fraction evaluated from below."""
    fraction = torch.ones_like(x)
    for m in range(TERMS, 0, -1):
        half = m // 2
        if m % 2:
            d = -(a + half) * (a + b + half) / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            d = half * (b - half) / ((a + 2 * half - 1) * (a + 2 * half))
        fraction = 1 + d * x / fraction
    logs = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return torch.exp(a * torch.log(x) + b * torch.log1p(-x) + logs) / a / fraction


RESPACINGS: Mapping[str, Respacing] = {
    "karras": Respacing(_karras, (Number(7.0, 1.0, 100.0),)),
    "exponential": Respacing(_exponential),
    "beta": Respacing(_beta, (_SHAPE, _SHAPE)),
    "lu": Respacing(_exponential),
}


def parse(text: str) -> Placed | None:
    """A placement, or None where the name is none; raises `PlanError` for wrong numbers or an unknown respacing."""
    first, slash, second = text.partition("/")
    name, given = _split(first)
    if name not in PLACEMENTS:
        return None
    placement = PLACEMENTS[name]
    numbers = _numbers(text, name, given, placement.numbers)
    if not slash:
        if name == "levels":
            raise PlanError(f"grid {text!r}: expected a respacing, such as levels/karras, got none")
        return Placed(text, placement, numbers)
    other, given = _split(second)
    if other not in RESPACINGS:
        raise PlanError(f"grid {text!r}: expected one of {', '.join(RESPACINGS)} after the slash, got {other!r}")
    respacing = RESPACINGS[other]
    return Placed(text, placement, numbers, respacing, _numbers(text, other, given, respacing.numbers))


def _split(part: str) -> tuple[str, str | None]:
    """A name, and what is in its brackets."""
    name, bracket, rest = part.partition("(")
    if not bracket:
        return name, None
    return (name, rest[:-1]) if rest.endswith(")") else (part, None)


def _numbers(text: str, name: str, given: str | None, wanted: Sequence[Number]) -> tuple[float, ...]:
    found = [] if given is None else given.split(",")
    if len(found) > len(wanted):
        most = f"at most {len(wanted)} number{'s' * (len(wanted) > 1)}" if wanted else "no number"
        raise PlanError(f"grid {text!r}: {name} takes {most}, got ({given})")
    numbers = []
    for place, each in enumerate(wanted):
        number: float | None = each.default
        if place < len(found):
            try:
                number = float(found[place])
            except ValueError:
                number = math.nan
        if number is None or not each.low <= number <= each.high or (each.whole and number % 1):
            kind = "a whole number" if each.whole else "a number"
            raise PlanError(f"grid {text!r}: expected {kind} in {each.low:g}..{each.high:g}, got ({given})")
        numbers.append(number)
    return tuple(numbers)


def names() -> list[str]:
    """The placements as errors and documents list them."""
    return [f"{name}({', '.join('number' for _ in each.numbers)})" if each.numbers else name
            for name, each in PLACEMENTS.items()]  # fmt: skip
