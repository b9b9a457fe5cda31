"""A scene of voxels under a learned prior of pictures: how far it ends from the nearest member that nobody has seen."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import steering
from benchmarks._distillation.priors import Prior, Wish
from exporters.scenes import data, judging
from exporters.scenes.family import GRID, KINDS, Field, member, voxels
from exporters.scenes.render import ELEVATIONS, cameras, render
from steering import Calibration
from steering.distillation import Settings, schedule
from steering.posteriors import bank, gaussian, neighbours

STEP = 0.05
SMOOTH = 2e-4
"""Weight of the absolute differences between neighbouring voxels' densities."""


class Scene:
    """Densities and colours of 32^3 voxels, a soft ball of grey at first."""

    def __init__(self, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        radius = voxels().norm(dim=-1)
        self.density = (2.5 - 6 * radius + 0.1 * torch.randn(GRID, GRID, GRID, generator=g)).requires_grad_()
        self.colour = (0.3 * torch.randn(3, GRID, GRID, GRID, generator=g)).requires_grad_()

    @classmethod
    def near(cls, kind: str, number: int, seed: int) -> "Scene":
        """A training member with its edges and colours spoilt, to be refined."""
        scene, field = cls(seed), member("train", kind, number)
        g = torch.Generator().manual_seed(seed)
        soft = F.avg_pool3d(field.density[None, None], 3, 1, 1)[0, 0]
        with torch.no_grad():
            scene.density.copy_(torch.log(torch.expm1((soft / 6).clamp(min=1e-3))))
            colour = (0.85 * field.colour + 0.1 + 0.05 * torch.randn(field.colour.shape, generator=g)).clamp(0.02, 0.98)
            scene.colour.copy_(torch.logit(colour))
        return scene

    @property
    def field(self) -> Field:
        return Field(F.softplus(self.density) * 6, torch.sigmoid(self.colour))

    def roughness(self) -> Tensor:
        each = F.softplus(self.density) * 0.2
        return sum((each.diff(dim=axis).abs().mean() for axis in range(3)), torch.zeros(()))


@dataclass(frozen=True)
class Run:
    """How a scene is optimised.

    Attributes:
        wish: what gradients are asked with at an iteration, from the indices of the reference cameras if these are
            used.
        known: whether the prior is told the camera.
        fixed: how many of the twelve reference cameras a step uses; 0 for random ones.
    """

    kind: str
    iterations: int
    wish: Callable[[int, list[int]], Wish]
    views: int = 4
    known: bool = True
    fixed: bool = False
    decay: bool = False
    seed: int = 0
    start: Callable[[], Scene] | None = None


@dataclass(frozen=True)
class Outcome:
    one: float
    each: float
    rows: int
    reward_rows: int
    seconds: float
    pictures: Tensor


def optimised(prior: Prior, run: Run, references: Tensor) -> Outcome:
    """The scene after all iterations, seen from the reference cameras."""
    begin, g = time.monotonic(), torch.Generator().manual_seed(100 + run.seed)
    scene = run.start() if run.start is not None else Scene(run.seed)
    optimiser = torch.optim.Adam([scene.density, scene.colour], lr=STEP, betas=(0.9, 0.99))
    rows = rewards = 0
    around = data.reference_cameras()
    for i in range(run.iterations):
        if run.decay:
            optimiser.param_groups[0]["lr"] = STEP * (1 - i / run.iterations)
        chosen = torch.randperm(len(around), generator=g)[: run.views].tolist()
        camera = around[chosen] if run.fixed else seen_from(run.views, g)
        x = render(scene.field, camera)
        told = camera if run.known else torch.zeros_like(camera)
        condition = {"kind": torch.full((run.views,), KINDS.index(run.kind)), "camera": told}
        got = prior(x, condition, run.wish(i, chosen), i, run.seed)
        loss = (got.gradient * x).sum() + SMOOTH * x.shape[2] * x.shape[3] * scene.roughness()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rows, rewards = rows + got.network_rows, rewards + got.reward_rows
    with torch.no_grad():
        pictures = torch.cat([render(scene.field, each) for each in around.split(4)])
    found = judging.distance(pictures, references)
    return Outcome(found.one, found.each, rows, rewards, time.monotonic() - begin, pictures)


def seen_from(views: int, g: torch.Generator) -> Tensor:
    """Cameras evenly around, but for a turn of all and a jitter of each."""
    low, high = ELEVATIONS
    turn = 360 * torch.rand((), generator=g) + torch.arange(views) * 360 / views
    jitter = math.degrees(0.3) * torch.randn(views, generator=g)
    return cameras(turn + jitter, low + (high - low) * torch.rand(views, generator=g))


ROWS = 1200
"""Network rows of a run from nothing: 300 iterations of 4 views by sds."""
SCALE = 0.55
"""The standard deviation of the prior's pictures, in which its levels are counted."""


@dataclass(frozen=True)
class Way:
    """One way to ask for gradients.

    Attributes:
        each: network rows of a view in an iteration.
        later: what takes over after `until` (0..1) of the rows, where noise is below the prior's width.
    """

    name: str
    settings: Settings
    each: int
    known: bool = True
    decay: bool = False
    later: tuple[float, Settings, int] | None = None


SDS, CDS = Settings(mode="sds"), Settings(mode="cds")
WAYS = (
    Way("sds", SDS, 1),
    Way("sds, steps decay", SDS, 1, decay=True),
    Way("sds, camera unknown", SDS, 1, known=False),
    Way("cds", CDS, 2),
    Way("cds, new noise at every iteration", Settings(mode="cds", noise="iteration"), 2),
    Way("ism, one step of inversion", Settings(mode="ism", stride=1000.0), 3),
    Way("sds, then cds below the width", SDS, 1, later=(0.7, CDS, 2)),
)
REFINING = (Way("sds", SDS, 1), Way("cds", CDS, 2), Way("ism, one step of inversion", WAYS[5].settings, 3))


def judged(prior: Prior, kind: str, references: Tensor, rows: int, ways: Sequence[Way], refine: bool) -> None:
    """Prints how far every way comes with so many network rows, from nothing or from a spoilt member."""
    start = partial(Scene.near, kind, 1, 0) if refine else None
    what = f"{kind}, a spoilt member refined" if refine else f"{kind} from nothing"
    print(f"\n{what:44}     one    each   rows", flush=True)
    if start is not None:
        before = optimised(prior, Run(kind, 0, lambda i, views: Wish(SDS), start=start), references)
        print(f"  {'before':44}{before.one:7.3f} {before.each:7.3f}", flush=True)
    for way in ways:
        first, iterations = rows // (4 * way.each), rows // (4 * way.each)
        later = None
        if way.later is not None:
            share, later, each = way.later
            first = round(rows * share / (4 * way.each))
            iterations = first + round(rows * (1 - share) / (4 * each))
        times = schedule("refine" if refine else "coarse", scale=SCALE, i_end=iterations)
        early = replace(way.settings, times=times)
        late = early if later is None else replace(later, times=times)
        wish = partial(_switched, Wish(early), Wish(late), first)
        run = Run(kind, iterations, wish, known=way.known, decay=way.decay, start=start)
        got = optimised(prior, run, references)
        print(f"  {way.name:44}{got.one:7.3f} {got.each:7.3f} {got.rows:6}", flush=True)


def _switched(early: Wish, late: Wish, at: int, i: int, views: list[int]) -> Wish:
    return early if i < at else late


BANK, BETA, TILTED = 200, 0.3, 260
"""Training members in the bank of each camera; temperature; iterations of eight views."""


def redness(x: Tensor) -> Tensor:
    """How much redder than green and blue a picture [B, 3, h, w] in -1..1 is."""
    return 20 * (x[:, 0] - 0.5 * (x[:, 1] + x[:, 2])).mean(dim=(1, 2))


def _tilting(settings: Settings, methods: Sequence[steering.Doob], i: int, chosen: list[int]) -> Wish:
    return Wish(settings, steer=[methods[k] for k in chosen])


def tilted(
    prior: Prior, kind: str, references: Tensor, iterations: int, measured: Calibration, members: int = BANK
) -> None:
    """Prints the reward of scenes and their distance to the family: plain, tilted, and with weighted noises.

    `measured` is the error of the prior's D. Without it a bank under conditions takes candidates as wide as data where
    its samples do not reach, and tilts far too much.

    A camera's bank is what training members look like from there: it costs renders, where the model's own samples would
    cost 12 x 20 x members network rows. Members that scenes are compared with are others.
    """
    around = data.reference_cameras()
    fields = [member("train", kind, number) for number in range(members)]
    seen = torch.stack([render(field, around) for field in fields])
    methods = {
        name: [
            steering.Doob(
                redness, BETA, posterior=bank(seen[:, k]).with_local(local(seen[:, k]).calibrated(measured)), key=k
            )
            for k in range(len(around))
        ]
        for name, local in (("gaussian", lambda x: gaussian()), ("neighbours", neighbours))
    }
    rewards = torch.stack([redness(seen[:, k]) for k in range(len(around))], dim=1)
    whole = rewards.mean(dim=1)
    print(f"\n{kind}, tilted toward red, beta {BETA}             reward   one    each   rows  reward rows")
    print(f"  {'members, mean':36}{float(whole.mean()):9.2f}")
    print(
        f"  {'members, tilted view by view':36}{float((torch.softmax(rewards / BETA, 0) * rewards).sum(0).mean()):9.2f}"
    )
    print(f"  {'members, the reddest':36}{float(whole.max()):9.2f}", flush=True)
    times = schedule("coarse", scale=SCALE, i_end=iterations)
    plain = Settings(mode="sds", times=times)
    weighs = Settings(mode="reward_sds", times=times, noises=4)
    ways: list[tuple[str, int, Callable[[int, list[int]], Wish]]] = [
        ("sds", 8, lambda i, chosen: Wish(plain)),
        ("sds, noises weighted by reward", 2, lambda i, chosen: Wish(weighs, ("redness", redness), BETA)),
        *((f"sds, tilted, bank to {name}", 8, partial(_tilting, plain, each)) for name, each in methods.items()),
    ]
    for name, views, wish in ways:
        got = optimised(prior, Run(kind, iterations, wish, views=views, fixed=True), references)
        reward = float(redness(got.pictures).mean())
        print(f"  {name:36}{reward:9.2f}{got.one:7.3f}{got.each:7.3f} {got.rows:6} {got.reward_rows:12}", flush=True)
