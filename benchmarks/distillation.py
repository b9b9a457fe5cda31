"""Gradients of distillation: their formulas, voxels under exact priors, scenes under a learned prior, plain and tilted.

    make bench ARGS="distillation"
    make bench ARGS="distillation voxels --server"

`formulas`: plain and tilted gradients beside the closed forms of a Gaussian. `voxels`: six views of a voxel grid whose
priors are exact mixtures; rows differ in nothing but the gradient, and the controls give sds more rows, decaying steps
or other levels. `learned`: scenes under the shipped denoiser of chairs and mugs, how far from the nearest single member
that training never saw, at equal network rows, beside the distance of such members to one another. `tilted`: scenes
under that prior times exp(reward / beta).

With `--server` voxels and learned scenes are optimised through a server that is started for it. On an idle core
`formulas` takes a second, `voxels` 4 minutes, `learned` 5 and `tilted` 2; `--quick` a fifth of that.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer

import steering
from benchmarks._distillation import formulas, scenes, voxels
from benchmarks._distillation.priors import Offline, Prior, Served
from deploy.process import running_server
from exporters.export import export_model
from exporters.network import OnnxNetwork
from exporters.scenes import data, judging
from exporters.scenes.family import KINDS
from protos.card import Card, Condition, load_card
from tiltserve import Client

MODEL = Path(__file__).resolve().parents[1] / "deploy" / "scene_models" / "scenes"


class Table(StrEnum):
    """What is printed."""

    FORMULAS = "formulas"
    VOXELS = "voxels"
    LEARNED = "learned"
    TILTED = "tilted"


@contextlib.contextmanager
def mixtures(server: bool) -> Iterator[Callable[[voxels.Setting], Prior]]:
    """The exact priors of voxels, in this process or served."""
    if not server:
        yield voxels.offline
        return
    with tempfile.TemporaryDirectory() as folder:
        for setting in voxels.SETTINGS:
            export(setting, Path(folder))
        with running_server(Path(folder)) as running, Client(running.grpc) as client:
            yield lambda setting: Served(client, name_of(setting))


def name_of(setting: voxels.Setting) -> str:
    return f"voxels_{round(100 * setting.width):03d}"


def export(setting: voxels.Setting, root: Path) -> None:
    """A mixture as a model folder."""
    card = Card(
        name=name_of(setting),
        path={"kind": "edm", "sigma_min": voxels.PATH.t_min, "sigma_max": voxels.PATH.t_max},
        prediction="x0",
        t_range=(voxels.PATH.t_min, voxels.PATH.t_max),
        event_shape=(voxels.GRID**2,),
        inputs={"x": "x", "t": "t", "time": "t"},  # type: ignore[arg-type] # pydantic reads it
        output="denoised",
        conditions={"view": Condition(dtype="int64", min=0, max=voxels.VIEWS - 1)},
    )
    examples = {
        "x": torch.randn(4, voxels.GRID**2),
        "t": torch.tensor([0.05, 0.4, 2.0, 5.0]),
        "view": torch.tensor([0, 2, 4, 5]),
    }
    network = voxels.Mixture(setting.width).requires_grad_(False)
    export_model(network, root / card.name, card, examples=examples, outputs=["denoised"])


def exact(server: bool, seeds: int, settings: int) -> None:
    """The voxel tables, and what is claimed of them."""
    with mixtures(server) as prior:
        chosen = voxels.SETTINGS[:settings]
        found = voxels.table(prior, chosen, (*voxels.ROWS, *voxels.CONTROLS), seeds)
        print()
        for setting in chosen[:3]:
            cds, sds = (found[setting.name, name].error for name in ("cds", voxels.CONTROLS[0].name))
            holds = cds < 0.5 * sds
            claim(f"{setting.name}: cds under half of sds at equal rows and steps", holds, f"{cds:.3f}, {sds:.3f}")
            low, high = 0.5 * setting.last, 2 * setting.last
            claim(f"{setting.name}: cds ends where its noise does", low <= cds <= high, f"{cds:.3f} of {setting.last}")
        again = voxels.optimised(prior(chosen[0]), chosen[0], voxels.ROWS[2], 0)
        claim(
            "an optimisation has the same bytes again",
            torch.equal(again.voxels, found[chosen[0].name, "cds"].voxels),
            "cds",
        )


def claim(text: str, holds: bool, seen: str) -> None:
    print(f"{'PASS' if holds else 'FAIL'}  {text}: {seen}", flush=True)


@contextlib.contextmanager
def learned_prior(server: bool) -> Iterator[Prior]:
    card = load_card(MODEL / "card.yaml")
    if not server:
        network = OnnxNetwork(MODEL / "1" / "model.onnx", card, threads=1)
        assert card.prediction is not None
        yield Offline(network, network.path, card.prediction, card.preconditioning, card.sigma_data)
        return
    with running_server(MODEL.parent) as running, Client(running.grpc) as client:
        yield Served(client, card.name)


def learned(server: bool, rows: int, kinds: list[str]) -> None:
    with learned_prior(server) as prior:
        for kind in kinds:
            references = data.unseen(kind)
            floor = judging.floor(references)
            print(f"\n{kind}: floor {floor.one:.3f} (one member), {floor.each:.3f} (each view's own)", flush=True)
            scenes.judged(prior, kind, references, rows, scenes.WAYS, refine=False)
            scenes.judged(prior, kind, references, rows // 2, scenes.REFINING, refine=True)


def main(
    tables: Annotated[list[Table] | None, typer.Argument(help="Which to print; all of them if none is named.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, half of the voxels, a third of the rows.")] = False,
    server: Annotated[bool, typer.Option("--server", help="Through a server, but for formulas and tilted.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Of voxels.")] = 4,
    kind: Annotated[list[str] | None, typer.Option(help="chair or mug; both if absent.")] = None,
) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    for table in tables or list(Table):
        if table is Table.FORMULAS:
            worst = formulas.table()
            claim("float64 gradients are the closed forms", worst < 1e-12, f"{worst:.1e}")
        elif table is Table.VOXELS:
            exact(server, 1 if quick else seeds, 2 if quick else len(voxels.SETTINGS))
        elif table is Table.LEARNED:
            learned(server, scenes.ROWS // 3 if quick else scenes.ROWS, kind or list(KINDS[:1] if quick else KINDS))
        else:
            with learned_prior(False) as prior:
                iterations = scenes.TILTED // 3 if quick else scenes.TILTED
                curve = load_card(MODEL / "card.yaml").calibration
                assert curve is not None
                measured = steering.Calibration(tuple(curve.t), tuple(curve.mse))
                for each in kind or list(KINDS[:1]):
                    members = 60 if quick else scenes.BANK
                    scenes.tilted(prior, each, data.unseen(each), iterations, measured, members)


if __name__ == "__main__":
    typer.run(main)
