"""Voxels under exact priors of their projections: six views, four objects, and a prior whose width is known.

The prior of a view is the mixture sum_k N(A_v y_k, s^2) / 4 of the objects y_k seen from there, so a good scene is one
of the four from all sides. Whatever is compared differs in nothing but the gradient that is asked for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks._distillation.priors import Offline, Prior, Wish
from steering import paths
from steering.distillation import Settings, Times

GRID, OBJECTS, VIEWS = 12, 4, 6
PATH = paths.edm(sigma_min=0.01, sigma_max=20.0)
"""Its time is rho."""
STEP = 0.05
ITERATIONS = 400
APART = 1.25
"""rho1 / rho2."""
TAIL = 50
"""Last iterations, over which voxels are watched for jitter."""


def objects() -> Float[Tensor, "4 grid grid grid"]:
    """Blobs of +1 in a field of -1, each about another place."""
    g = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, GRID)
    at = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    made = []
    for _ in range(OBJECTS):
        whole = torch.full((GRID, GRID, GRID), -1.0)
        for _ in range(3):
            centre, half = torch.rand(3, generator=g) * 1.2 - 0.6, torch.rand(3, generator=g) * 0.35 + 0.2
            whole[((at - centre).abs() < half).all(dim=-1)] = 1.0
        made.append(whole)
    return torch.stack(made)


def seen(voxels: Float[Tensor, "*n grid grid grid"]) -> Float[Tensor, "*n views pixels"]:
    """Means along the rays from six sides."""
    sides = [voxels.mean(dim=axis) for axis in (-3, -2, -1)]
    return torch.stack([*sides, *(side.flip(-1) for side in sides)], dim=-3).flatten(-2)


class Mixture(nn.Module):
    """The denoiser of the views' mixtures: `(x [B, pixels], t [B], view [B]) -> E[x_0 | x_0 + t eps = x]`."""

    means: Tensor

    def __init__(self, width: float) -> None:
        super().__init__()
        self.square = width * width
        self.register_buffer("means", seen(objects()).transpose(0, 1).contiguous())

    def forward(self, x: Tensor, t: Tensor, view: Tensor) -> Tensor:
        """Implements `nn.Module`."""
        means, square = self.means[view], (t * t)[:, None]
        distance = (x[:, None] - means).square().sum(dim=2)
        weights = torch.softmax(-0.5 * distance / (self.square + square), dim=1)
        mean = (weights[:, :, None] * means).sum(dim=1)
        return (self.square * x + square * mean) / (self.square + square)


@dataclass(frozen=True)
class Setting:
    """Attributes:
    width: s of the prior.
    first, last: rho2 at the first iteration and at the last.
    random: voxels begin at random, and not at an object beside noise of 0.3.
    """

    name: str
    width: float
    first: float
    last: float
    random: bool


SETTINGS = (
    Setting("refine, s .4, rho .5 -> .05", 0.4, 0.5, 0.05, False),
    Setting("refine, s 1, rho .5 -> .05", 1.0, 0.5, 0.05, False),
    Setting("whole, s .4, rho 4 -> .05", 0.4, 4.0, 0.05, True),
    Setting("sharp, s .05, rho 4 -> .1", 0.05, 4.0, 0.1, True),
)


@dataclass(frozen=True)
class Row:
    """One gradient that is compared.

    Attributes:
        iterations: how often it is asked.
        decay: steps fall to 0 in a straight line.
        between: levels are drawn anew in between these, instead of falling.
    """

    name: str
    settings: Settings
    iterations: int = ITERATIONS
    decay: bool = False
    between: tuple[float, float] | None = None


ROWS = (
    Row("sds", Settings(mode="sds")),
    Row("sds, one noise for ever", Settings(mode="sds", noise="fixed")),
    Row("cds", Settings(mode="cds")),
    Row("ism", Settings(mode="ism", stride=1000.0)),
)
CONTROLS = (
    Row("sds, 2 noises: cds's rows", Settings(mode="sds", noises=2)),
    Row("sds, 800, steps decay", Settings(mode="sds"), 2 * ITERATIONS, decay=True),
    Row("sds, 800, decay, 8 noises", Settings(mode="sds", noises=8), 2 * ITERATIONS, decay=True),
    Row("cds, steps decay", Settings(mode="cds"), decay=True),
    Row("sds, rho in .5..4, decay", Settings(mode="sds"), decay=True, between=(0.5, 4.0)),
)


def level(setting: Setting, row: Row, i: int, seed: int) -> float:
    """rho2 at an iteration."""
    if row.between is not None:
        low, high = row.between
        drawn = torch.rand((), generator=torch.Generator().manual_seed(seed * 100_003 + i))
        return low + (high - low) * float(drawn)
    return setting.first + (setting.last - setting.first) * math.sqrt(i / row.iterations)


@dataclass(frozen=True)
class Found:
    """Attributes:
    error: root mean square to the nearest object in all views together.
    jitter: mean standard deviation of a voxel over the last iterations.
    """

    error: float
    jitter: float
    rows: int
    voxels: Tensor


def optimised(prior: Prior, setting: Setting, row: Row, seed: int) -> Found:
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(GRID, GRID, GRID, generator=g)
    x = (noise if setting.random else objects()[seed % OBJECTS] + 0.3 * noise).requires_grad_()
    optimiser = torch.optim.Adam([x], lr=STEP)
    goals, view, rows = seen(objects()), {"view": torch.arange(VIEWS)}, 0
    tail = []
    for i in range(row.iterations):
        if row.decay:
            optimiser.param_groups[0]["lr"] = STEP * (1 - i / row.iterations)
        rho = level(setting, row, i, seed)
        times = Times(torch.tensor(APART * rho), torch.tensor(rho) if row.settings.kind.two else None)
        views = seen(x)
        got = prior(views, view, Wish(replace(row.settings, times=times)), i, seed)
        optimiser.zero_grad()
        (got.gradient * views).sum().backward()
        optimiser.step()
        rows += got.network_rows
        if i >= row.iterations - TAIL:
            tail.append(x.detach().clone())
    errors = (seen(x.detach()) - goals).square().mean(dim=(1, 2)).sqrt()
    return Found(float(errors.min()), float(torch.stack(tail).std(dim=0).mean()), rows, x.detach())


def offline(setting: Setting) -> Offline:
    return Offline(Mixture(setting.width).requires_grad_(False), PATH)


def table(
    prior: Callable[[Setting], Prior], settings: Sequence[Setting], rows: Sequence[Row], seeds: int
) -> dict[tuple[str, str], Found]:
    """Prints the mean over seeds of each row in each setting, and returns it; voxels are those of seed 0."""
    found: dict[tuple[str, str], Found] = {}
    for setting in settings:
        asked = prior(setting)
        print(f"\n{setting.name:40} error   jitter  network rows")
        for row in rows:
            each = [optimised(asked, setting, row, seed) for seed in range(seeds)]
            mean = Found(
                sum(one.error for one in each) / seeds, sum(one.jitter for one in each) / seeds, each[0].rows,
                each[0].voxels,
            )  # fmt: skip
            found[setting.name, row.name] = mean
            print(f"  {row.name:36} {mean.error:7.4f} {mean.jitter:8.4f} {mean.rows:8}", flush=True)
    return found
