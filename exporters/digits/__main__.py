"""`python -m exporters.digits --data DIR --out deploy/models --steps N`: train, export, calibrate and measure.

Everything is seeded. The denoiser's training resumes from DIR/denoiser.pt, so it may be interrupted, and run again with
more steps; the classifiers are kept in DIR too. On two CPU cores 1,000 steps of the denoiser take about 9 minutes, a
classifier 1.5 minutes, the bank 6.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import torch
import typer
from torch import Tensor, nn

from exporters.bank import SIZE, draw_bank, write_bank
from exporters.calibrate import calibrate_model
from exporters.digits import data, judging, train
from exporters.digits.networks import DigitClassifier, DigitDenoiser, DigitJudge
from exporters.export import export_model
from exporters.network import OnnxNetwork, path_of
from protos.card import Card, Range, dump_card

log = logging.getLogger("exporters.digits")
Net = TypeVar("Net", bound=nn.Module)

CARD = Card(
    name="digits",
    path={"kind": "vp_cosine"},
    prediction="v",
    t_range=(0.001, 0.999),
    event_shape=(1, 28, 28),
    output="v",
)
CLASSIFIER = Card(name="classifier", arguments={"label": Range(min=0, max=9)})
STEPS = 5000
EPOCHS = 100
EXAMPLES = 64


class Figures:
    """Figures by name, and the seconds each part took."""

    def __init__(self) -> None:
        self.figures: dict[str, object] = {"threads": torch.get_num_threads(), "cores": os.cpu_count()}
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        log.info("%s ...", name)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)

    def text(self) -> str:
        return json.dumps(self.figures | {"seconds": self.seconds}, indent=2)


def main(
    folder: Annotated[Path, typer.Option("--data", help="archive and checkpoints; made if missing")],
    out: Annotated[Path, typer.Option("--out", help="model repository")] = Path("deploy/models"),
    steps: Annotated[int, typer.Option("--steps", min=1, help="denoiser batches of 128 images")] = STEPS,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="passes of each classifier over its images")] = EPOCHS,
    bank: Annotated[int, typer.Option("--bank", min=2, help="samples in the bank")] = SIZE,
    demo: Annotated[Path | None, typer.Option("--demo", help="reference data [default: OUT/../demo_data]")] = None,
) -> None:
    """Train the digit denoiser, the reward classifier and the judge; export them with card, calibration and bank."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("exporters").setLevel(logging.INFO)
    demo = demo or out.parent / "demo_data"
    report = Figures()
    with report.part("data"):
        splits = data.split(data.load(data.download(folder)))
        write_held_out(demo / "held_out.npz", splits.held_out)
    with report.part("classifiers"):
        classifier = kept(folder / "classifier.pt", DigitClassifier, splits.reward, epochs, seed=1)
        judge = kept(folder / "judge.pt", DigitJudge, splits.judge, epochs, seed=2)
    with report.part("denoiser"):
        path = path_of(CARD)
        denoiser = train.train_denoiser(splits.denoiser, folder / "denoiser.pt", steps=steps, path=path)
    with report.part("export"):
        report.figures["parity"] = export_all(out, denoiser, classifier, judge, splits.held_out)
    network = OnnxNetwork(out / "digits" / "1" / "model.onnx", CARD)
    with report.part("bank"):
        samples = draw_bank(network, samples=bank)
        write_bank(out / "digits" / "1" / "model.onnx", samples)
    with report.part("calibration"):
        calibration = calibrate_model(network, samples)
        dump_card(CARD.model_copy(update={"calibration": calibration}), out / "digits" / "card.yaml")
    report.figures |= measured(classifier, judge, splits.held_out, samples) | {"steps": steps, "epochs": epochs}
    (demo / "report.json").write_text(report.text() + "\n")
    typer.echo(report.text())


def kept(file: Path, build: Callable[[], Net], digits: data.Digits, epochs: int, seed: int) -> Net:
    """A trained classifier, from `file` if it is there."""
    torch.manual_seed(seed)
    network = build()
    if file.exists():
        network.load_state_dict(torch.load(file, weights_only=True))
        return network.eval()
    train.train_classifier(network, digits, epochs=epochs, seed=seed)
    torch.save(network.state_dict(), file)
    return network


def export_all(
    out: Path, denoiser: DigitDenoiser, classifier: DigitClassifier, judge: DigitJudge, examples: data.Digits
) -> dict[str, object]:
    """Export the three models; their parity reports by name."""
    x, label = examples.images[:EXAMPLES], examples.labels[:EXAMPLES]
    t = torch.linspace(0.1, 0.9, EXAMPLES)
    reports = {
        "digits": export_model(denoiser, out / "digits", CARD, examples={"x": x, "t": t}, outputs=["v"]),
        "classifier": export_model(
            classifier,
            out / "classifier",
            CLASSIFIER,
            examples={"x": x, "label": label},
            outputs=["reward", "log_probabilities"],
        ),
        "judge": export_model(judge, out / "judge", None, examples={"x": x}, outputs=["log_probabilities", "features"]),
    }
    return {name: asdict(parity) for name, parity in reports.items()}


def write_held_out(file: Path, digits: data.Digits) -> None:
    """The held-out digits as `images` uint8 [n, 28, 28] and `labels` uint8 [n]."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = ((digits.images[:, 0] + 1) * 127.5).round().to(torch.uint8)
    np.savez_compressed(file, images=pixels.numpy(), labels=digits.labels.to(torch.uint8).numpy())


def measured(
    classifier: DigitClassifier, judge: DigitJudge, held_out: data.Digits, samples: Tensor
) -> dict[str, object]:
    """Accuracies on held-out digits, and what the judge makes of real digits and of the bank."""
    return {
        "accuracy": {"classifier": judging.accuracy(classifier, held_out), "judge": judging.accuracy(judge, held_out)},
        "judge": {
            "held_out": judging.read(judge, held_out.images).as_json(),
            "bank": judging.read(judge, samples).as_json(),
        },
    }


if __name__ == "__main__":
    typer.run(main)
