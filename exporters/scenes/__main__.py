"""`python -m exporters.scenes --data DIR --out deploy/scene_models`: render, train, export, calibrate and measure.

Everything is seeded. Training resumes from DIR/denoiser.pt, so it may be interrupted. On one CPU core rendering takes a
minute, 1,000 steps of training 2.5, the rest one.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from exporters.bank import draw_bank
from exporters.calibrate import calibrate_model
from exporters.export import export_model
from exporters.network import OnnxNetwork
from exporters.scenes import data, judging, train
from exporters.scenes.family import KINDS
from exporters.scenes.networks import NO_KIND, SIGMA_DATA, Redness
from exporters.scenes.render import anywhere
from protos.card import Card, Condition, Defaults, dump_card

log = logging.getLogger("exporters.scenes")

LOW, HIGH = train.LEVELS
CARD = Card(
    name="scenes",
    path={"kind": "edm", "sigma_min": LOW, "sigma_max": HIGH},
    prediction="x0",
    preconditioning="edm",
    sigma_data=SIGMA_DATA,
    t_range=train.LEVELS,
    event_shape=(3, 32, 32),
    inputs={"x": "x", "t": "t", "time": "log(sigma)/4"},  # type: ignore[arg-type] # pydantic reads it
    output="raw",
    conditions={
        "kind": Condition(dtype="int64", null=NO_KIND),
        "camera": Condition(dtype="float32", shape=(3,), null=0.0, min=-1, max=1),
    },
    defaults=Defaults(solver="dpmpp_2m", steps=20),
)
REDNESS = Card(name="redness", score_output="reward")
STEPS = 10000
CALIBRATING = 256
"""Samples that the calibration is measured on, each from another camera."""


def main(
    work: Annotated[Path, typer.Option("--data", help="pictures and checkpoint; made if missing")],
    out: Annotated[Path, typer.Option("--out", help="model repository")] = Path("deploy/scene_models"),
    steps: Annotated[int, typer.Option("--steps", min=1, help="batches of 48 pictures")] = STEPS,
    members: Annotated[int, typer.Option("--members", min=12, help="training members of each kind")] = data.MEMBERS,
    demo: Annotated[Path | None, typer.Option("--demo", help="report's folder [default: OUT/../demo_data]")] = None,
) -> None:
    """Train the denoiser of chairs and mugs that is told the camera; export it with card and calibration, and a reward
    beside it."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("exporters").setLevel(logging.INFO)
    torch.set_num_threads(1)
    demo = demo or out.parent / "demo_data"
    pictures = data.drawn(work / "pictures.pt", members)
    denoiser = train.train_denoiser(pictures, work / "denoiser.pt", steps=steps)
    parity = export_model(
        denoiser, out / "scenes", CARD, examples=asked(64, torch.Generator()), outputs=["raw"], probe=asked
    )
    pictured = {"x": pictures.x(torch.arange(64))}
    export_model(Redness(), out / "redness", REDNESS, examples=pictured, outputs=["reward"])
    network = OnnxNetwork(out / "scenes" / "1" / "model.onnx", CARD)
    condition = told(CALIBRATING, torch.Generator().manual_seed(0))
    samples = draw_bank(network, samples=CALIBRATING, condition=condition)
    calibration = calibrate_model(network, samples, condition)
    dump_card(CARD.model_copy(update={"calibration": calibration}), out / "scenes" / "card.yaml")
    report = {
        "steps": steps,
        "training": {"split": "train", "kinds": KINDS, "members": members, "views": data.VIEWS},
        "unseen": {"split": "unseen", "members": data.UNSEEN, "views": len(data.reference_cameras())},
        "parity": asdict(parity),
        "distance": {kind: measured(network, kind) for kind in KINDS},
    }
    demo.mkdir(parents=True, exist_ok=True)
    (demo / "scenes.json").write_text(json.dumps(report, indent=2) + "\n")
    typer.echo(json.dumps(report, indent=2))


def told(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Objects of both kinds from random cameras."""
    return {"kind": torch.arange(n) % len(KINDS), "camera": anywhere(n, generator)}


def asked(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Inputs of the graph, of any of what it may be told."""
    sigma = train.levels(n, generator)
    noised = (SIGMA_DATA * torch.randn(n, 3, 32, 32, generator=generator)) * (1 + sigma.reshape(-1, 1, 1, 1))
    known = torch.rand(n, 1, generator=generator) < 0.8
    return {
        "x": noised / (sigma**2 + SIGMA_DATA**2).sqrt().reshape(-1, 1, 1, 1),
        "t": sigma.log() / 4,
        "kind": torch.randint(NO_KIND + 1, (n,), generator=generator),
        "camera": torch.where(known, anywhere(n, generator), 0.0),
    }


def measured(network: OnnxNetwork, kind: str) -> dict[str, dict[str, float]]:
    """The floor, and how far drawn pictures are from the nearest unseen member at their camera: 8 of each camera."""
    references, camera = data.unseen(kind), data.reference_cameras()
    condition = {"kind": torch.full((8 * len(camera),), KINDS.index(kind)), "camera": camera.repeat(8, 1)}
    drawn = draw_bank(network, samples=8 * len(camera), condition=condition).unflatten(0, (8, len(camera)))
    each = [judging.distance(views, references).each for views in drawn]
    return {"floor": asdict(judging.floor(references)), "drawn": {"each": sum(each) / len(each)}}


if __name__ == "__main__":
    typer.run(main)
