"""Research engineer: scenes of voxels that a served model finds likely, plain and steered toward a black-box reward.

.venv/bin/python examples/distill3d.py                          # starts a server of deploy/scene_models (make demo-3d)
.venv/bin/python examples/distill3d.py --url 127.0.0.1:8001 --kinds mug --mode cds

The renderer runs here, the prior on the server, which sees rendered views alone. Whatever is random is a function of
the seed and the iteration, so a run that was interrupted is resumed from its checkpoint to the same bytes.
"""

import argparse
import contextlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from deploy.pictures import side_by_side, stacked
from deploy.process import running_server
from exporters.scenes.data import UNSEEN, reference_cameras, unseen
from exporters.scenes.family import GRID, KINDS, Field, voxels
from exporters.scenes.judging import distance, floor
from exporters.scenes.networks import SIGMA_DATA
from exporters.scenes.render import cameras, render
from tiltserve import Client, Distillation, Gradient
from tiltserve.losses import as_loss, asked

MODELS = Path(__file__).resolve().parents[1] / "deploy" / "scene_models"
FRAMES, SHOWN = 24, 6
SMOOTH = 2e-4 * 32 * 32
"""Weight of the density's total variation."""
console = Console()


class Scene:
    """A field of voxels and its optimiser.

    Attributes:
        iteration: how many steps were taken.
    """

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        fog = 2.5 - 6 * voxels().norm(dim=-1)
        self.density = (fog + 0.1 * torch.randn(GRID, GRID, GRID, generator=generator)).requires_grad_()
        self.colour = (0.3 * torch.randn(3, GRID, GRID, GRID, generator=generator)).requires_grad_()
        self.optimiser = torch.optim.Adam([self.density, self.colour], betas=(0.9, 0.99))
        self.iteration = 0

    @property
    def field(self) -> Field:
        return Field(6 * F.softplus(self.density), torch.sigmoid(self.colour))

    def step(self, loss: Tensor, rate: float) -> None:
        """Down the gradient of a loss, and toward densities without noise."""
        self.optimiser.param_groups[0]["lr"] = rate
        solid = 0.2 * F.softplus(self.density)
        rough = sum(solid.diff(dim=axis).abs().mean() for axis in range(3))
        self.optimiser.zero_grad()
        (loss + SMOOTH * rough).backward()
        self.optimiser.step()
        self.iteration += 1

    def state(self) -> dict[str, Any]:
        fields = {"density": self.density.detach(), "colour": self.colour.detach()}
        return {**fields, "optimiser": self.optimiser.state_dict(), "iteration": self.iteration}

    def load(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            self.density.copy_(state["density"])
            self.colour.copy_(state["colour"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.iteration = state["iteration"]


@dataclass(frozen=True)
class Run:
    """One scene to be made; `asked` is what the server is told for all of its views."""

    name: str
    kind: str
    asked: dict[str, Any]
    iterations: int
    views: int
    seed: int
    rate: float

    @property
    def settings(self) -> str:
        """What decides the scene, but for the server's model."""
        return repr((self.kind, sorted(self.asked.items()), self.iterations, self.views, self.seed, self.rate))


def views_of(run: Run, iteration: int) -> Tensor:
    """The cameras of an iteration, [views, 3]: some of the twelve that scenes are judged from. There are few, so that
    what steering learns of the model's law under each is learned once."""
    generator = torch.Generator().manual_seed(run.seed * 1_000_003 + iteration)
    around = reference_cameras()
    return around[torch.randperm(len(around), generator=generator)[: run.views]]


def made(run: Run, client: Client, file: Path, every: int, told: Any) -> tuple[Scene, str]:
    """A scene, begun or gone on with from its checkpoint, and the server's fingerprint of what it was made with.

    Args:
        every: iterations between checkpoints.
        told: called with the answer to each iteration.

    Raises:
        SystemExit: the checkpoint is of other settings.
    """
    scene, fingerprint = Scene(run.seed), ""
    if file.exists():
        saved = torch.load(file, weights_only=True)
        if saved["settings"] != run.settings:
            raise SystemExit(f"error: expected {file} to be of these settings, got {saved['settings']}; choose --out")
        scene.load(saved)
        fingerprint = saved["fingerprint"]
    with client.distillation("scenes", **run.asked) as session:
        while scene.iteration < run.iterations:
            answer = one_step(scene, run, session)
            if fingerprint not in ("", answer.fingerprint):
                console.print(f"{run.name}: the server's model is another one now; the scene will be another one too")
            fingerprint = answer.fingerprint
            told(answer)
            if scene.iteration % every == 0 or scene.iteration == run.iterations:
                torch.save(
                    {**scene.state(), "settings": run.settings, "fingerprint": fingerprint}, file.with_suffix(".new")
                )
                file.with_suffix(".new").replace(file)  # an interruption leaves a whole one
    return scene, fingerprint


def one_step(scene: Scene, run: Run, session: Distillation) -> Gradient:
    """Render, ask, step. `tiltserve.distill_loss` is `asked` and `as_loss` in one; here the answer is wanted too."""
    camera = views_of(run, scene.iteration)
    views = render(scene.field, camera)
    answer = asked(views, session, iteration=scene.iteration, camera=camera)
    scene.step(as_loss(views, answer), run.rate * (1 - 0.9 * scene.iteration / run.iterations))
    return answer


def shown(scene: Scene, camera: Tensor, side: int) -> NDArray[np.uint8]:
    """Pictures [n, side, side, 3] of bytes."""
    with torch.no_grad():
        parts = [render(scene.field, each[None], side) for each in camera]
    bytes_ = ((torch.cat(parts) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    found: NDArray[np.uint8] = bytes_.permute(0, 2, 3, 1).numpy()
    return found


def turntable(scenes: Mapping[str, Scene], file: Path) -> None:
    """All scenes beside each other, turning."""
    around = cameras(torch.arange(FRAMES) * 360.0 / FRAMES, torch.full((FRAMES,), 20.0))
    turning = np.concatenate([shown(scene, around, side=96) for scene in scenes.values()], axis=2)
    frames = [Image.fromarray(each) for each in turning]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=80, loop=0)


def contact_sheet(scenes: Mapping[str, Scene], file: Path) -> None:
    """Each scene from around."""
    around = cameras(torch.arange(SHOWN) * 360.0 / SHOWN + 20, torch.full((SHOWN,), 25.0))
    panels = [(name, shown(scene, around, side=64)) for name, scene in scenes.items()]
    rows = [side_by_side(panels[at : at + 2], columns=SHOWN, scale=1) for at in range(0, len(panels), 2)]
    stacked(rows).quantize(128).save(file, optimize=True)


def judged(run: Run, scene: Scene, client: Client, references: Tensor, rows: int) -> tuple[str, ...]:
    """A row of the table."""
    with torch.no_grad():
        views = torch.cat([render(scene.field, each[None]) for each in reference_cameras()])
    reward = float(client.score("redness", views.numpy()).mean())
    away, best = distance(views, references), floor(references, min(40, len(references)))
    return run.name, f"{reward:.2f}", f"{away.one:.3f}", f"{best.one:.3f}", f"{rows}"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", help="of a server of deploy/scene_models [default: one is started]")
    parser.add_argument("--out", type=Path, default=Path("demo/3d"), help="checkpoints and pictures")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--views", type=int, default=8, help="views of each iteration, 1 to 12")
    parser.add_argument("--mode", default="sds", help="sds, cds or ism")
    parser.add_argument("--reward", default="redness", help="what the steered scenes are steered toward; '' for none")
    parser.add_argument("--beta", type=float, default=0.3)
    parser.add_argument("--draws", type=int, default=128, help="of the model's law at each camera, for steering")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=50, help="iterations between checkpoints")
    parser.add_argument("--members", type=int, default=UNSEEN, help="unseen members that scenes are compared with")
    given = parser.parse_args()
    if not 1 <= given.views <= len(reference_cameras()):
        parser.error(f"--views: expected 1 to {len(reference_cameras())}, got {given.views}")
    for name, least in (("iterations", 1), ("every", 1), ("members", 2)):
        if getattr(given, name) < least:
            parser.error(f"--{name}: expected at least {least}, got {getattr(given, name)}")
    return given


def runs(given: argparse.Namespace) -> list[Run]:
    """Each kind, plain and steered."""
    schedule = (("preset", "coarse"), ("scale", SIGMA_DATA), ("i_end", given.iterations))
    plain = {"mode": given.mode, "seed": given.seed, "schedule": dict(schedule)}
    steered = {"reward": given.reward, "beta": given.beta, "residual_draws": given.draws}
    variants = {"plain": {}, **({f"toward {given.reward}": steered} if given.reward else {})}
    return [
        Run(
            f"{kind}, {name}", kind, {**plain, "kind": KINDS.index(kind), **more}, given.iterations, given.views,
            given.seed, given.rate,
        )
        for kind in given.kinds
        for name, more in variants.items()
    ]  # fmt: skip


@contextlib.contextmanager
def serving(url: str | None) -> Iterator[Client]:
    """A client of the server, which is started where there is none."""
    if url is not None:
        with Client(url, timeout=600) as client:
            yield client
        return
    console.print("starting the server ...")
    with running_server(MODELS) as running, Client(running.grpc, timeout=600) as client:
        yield client


def main() -> None:
    given, rows, drawn = options(), dict[str, int](), dict[str, float]()
    stopping = threading.Event()
    torch.set_num_threads(1)  # two scenes are rendered at a time, and the server computes too
    given.out.mkdir(parents=True, exist_ok=True)
    columns = TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with serving(given.url) as client, Progress(*columns, console=console) as progress:

        def one(run: Run) -> Scene:
            bar, said = progress.add_task(run.name, total=run.iterations), set[str]()

            def told(answer: Gradient) -> None:
                if stopping.is_set():
                    raise SystemExit
                rows[run.name] = rows.get(run.name, 0) + answer.network_rows
                drawn[run.name] = answer.setup_rows / run.views
                progress.advance(bar)
                for warning in {*answer.warnings} - said:
                    progress.console.print(f"{run.name}: {warning}")
                said.update(answer.warnings)

            file = given.out / f"{run.name.replace(', ', '-').replace(' ', '-')}.pt"
            scene, _ = made(run, client, file, given.every, told)
            progress.update(bar, completed=run.iterations)
            return scene

        wanted = runs(given)
        with ThreadPoolExecutor(max_workers=2) as pool:
            try:
                scenes = dict(zip((run.name for run in wanted), pool.map(one, wanted), strict=True))
            except BaseException:  # an interruption; the checkpoints are there
                stopping.set()
                pool.shutdown(cancel_futures=True)
                raise
        references = {kind: unseen(kind, given.members) for kind in given.kinds}
        table = Table("scene", "redness", "distance", "floor", "network rows")
        for run in wanted:
            table.add_row(*judged(run, scenes[run.name], client, references[run.kind], rows.get(run.name, 0)))
    contact_sheet(scenes, given.out / "scenes.png")
    turntable(scenes, given.out / "scenes.gif")
    console.print(table)
    console.print("distance: to the nearest single chair or mug that the model never saw, in 12 views; floor: of those")
    if setup := max(drawn.values(), default=0):
        console.print(f"steering also learned each camera's law once, by {setup:.0f} network rows; the server keeps it")
    console.print(f"wrote {given.out / 'scenes.png'}, {given.out / 'scenes.gif'} and checkpoints")


if __name__ == "__main__":
    main()
