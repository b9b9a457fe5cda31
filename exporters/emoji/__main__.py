"""`python -m exporters.emoji --data DIR --out deploy/text_models`: fetch, train, import, export and measure.

Everything is seeded. Training resumes from DIR/painter.pt, so it may be interrupted, and run again with more steps; the
two readers are kept in DIR too. On one CPU core 1,000 steps take about 13 minutes, both readers 2.
"""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import torch
import typer
from torch import Tensor, nn

from exporters.diffusers.source import read
from exporters.diffusers.writing import Wishes, Written, prepare
from exporters.emoji import data, folder, judging, train
from exporters.emoji.networks import Judge, Matcher, tokenizer, tokens
from exporters.emoji.vocabulary import SUBJECTS
from exporters.export import export_model
from protos.card import Card, Defaults, dump_card, load_card

log = logging.getLogger("exporters.emoji")
Net = TypeVar("Net", bound=nn.Module)

NAME = "emoji"
MATCHER = Card(name="matcher", score_output="reward", prompt={"text": "input_ids"})
DEFAULTS = Defaults(solver="dpmpp_2m", steps=12, guidance=3.0)
STEPS = 5000
READER_STEPS = 800


class Watcher:
    """Says on the log what is imported."""

    def begin(self, name: str) -> None:
        log.info("%s ...", name)

    def done(self, written: Written) -> None:
        log.info("%s: %s, worst error %.1e", written.name, written.what, written.error)


def main(
    work: Annotated[Path, typer.Option("--data", help="archives, checkpoints, the diffusers folder; made if missing")],
    out: Annotated[Path, typer.Option("--out", help="model repository")] = Path("deploy/text_models"),
    steps: Annotated[int, typer.Option("--steps", min=1, help="batches of 32 pictures")] = STEPS,
    readers: Annotated[int, typer.Option("--readers", min=1, help="batches of 96 for reward and judge")] = READER_STEPS,
    demo: Annotated[Path | None, typer.Option("--demo", help="reference data [default: OUT/../demo_data]")] = None,
) -> None:
    """Train the emoji model, the reward that reads texts, and the judge; import and export them."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("exporters").setLevel(logging.INFO)
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    demo = demo or out.parent / "demo_data"
    drawn = data.drawings(work)
    demo.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(demo / "emoji.npz", drawings=drawn)
    pictures = data.pictures(drawn)
    matcher = kept(work / "matcher.pt", Matcher, lambda: train.train_matcher(pictures, steps=readers, seed=1))
    judge = kept(work / "judge.pt", Judge, lambda: train.train_judge(pictures, steps=readers, seed=2))
    painter = train.train_painter(pictures, work / "painter.pt", steps=steps)
    bring(folder.write(painter, work / NAME), out)
    parity = export_readers(out, matcher, judge, pictures)
    report = {"steps": steps, "readers": readers, "parity": parity} | judging.measured(
        painter, matcher, judge, pictures
    )
    (demo / "emoji_report.json").write_text(json.dumps(report, indent=2) + "\n")
    typer.echo(json.dumps(report, indent=2))


def kept(file: Path, build: Callable[[], Net], trained: Callable[[], Net]) -> Net:
    """A trained reader, from `file` if it is there."""
    if file.exists():
        network = build()
        network.load_state_dict(torch.load(file, weights_only=True))
        return network.eval()
    network = trained()
    torch.save(network.state_dict(), file)
    return network


def bring(source: Path, out: Path) -> None:
    """Import a diffusers folder as `NAME`, as `tiltserve import` does; its card then says how to draw from it."""
    prepare(read(source), NAME, Wishes(replace=True)).write(out, Watcher())
    card = out / NAME / "card.yaml"
    dump_card(load_card(card).model_copy(update={"defaults": DEFAULTS}), card)


def export_readers(out: Path, matcher: Matcher, judge: Judge, pictures: data.Pictures) -> dict[str, object]:
    """Export reward and judge; their parity reports by name. They are compared on noisy drawings: on noise alone, which
    nobody asks them about, their normalised layers blow rounding up."""
    words = tokenizer()

    def drawn(rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        which = torch.randint(len(SUBJECTS), (rows,), generator=generator)
        x = pictures.batch(which, generator)
        text = tokens(words, [f"a {SUBJECTS[i].name}" for i in which.tolist()])
        return {"x": x + 0.3 * torch.randn(x.shape, generator=generator), "text": text}

    def seen(rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": drawn(rows, generator)["x"]}

    generator = torch.Generator().manual_seed(0)
    told = export_model(
        matcher, out / "matcher", MATCHER, examples=drawn(32, generator), outputs=["reward"], probe=drawn
    )
    read = export_model(
        judge, out / "judge", None, examples=seen(32, generator), probe=seen,
        outputs=["things", "colours", "styles", "features"],
    )  # fmt: skip
    return {"matcher": asdict(told), "judge": asdict(read)}


if __name__ == "__main__":
    typer.run(main)
