"""Steered emoji under a prompt and guidance: share and distance beside the exact tilt, best-of-N and rivals.

    make bench ARGS="steered_emoji --task lion --task blue"

The exact tilt is `--plain` plain samples of the same prompt and guidance, reweighted. Shares are read by the judge,
which never steers; distances are between its features of the samples and of drawings that are what was wanted. Rows are
network rows a sample, two a stage under guidance; draws of the residual posterior are made once for a prompt, and are
not counted among them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from tokenizers import Tokenizer
from torch import Tensor

import steering
from exporters.emoji.data import Pictures, pictures
from exporters.emoji.vocabulary import COLOURS, STYLES, SUBJECTS, THINGS, Subject, meaning, weights
from exporters.network import OnnxNetwork, open_session
from protos.card import load_card
from steering import baselines, posteriors
from steering.numerics.weights import effective_size, softmax
from steering.problems import energy_distance
from steering.sampling.sampler import Problem, Steering
from steering.targets.rewards import linear, quadratic

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "deploy" / "text_models"
REAL = 256


class Model:
    """The emoji model's networks, as they are served."""

    def __init__(self, steps: int, guidance: float) -> None:
        card = load_card(MODELS / "emoji.unet" / "card.yaml")
        self.network = OnnxNetwork(MODELS / "emoji.unet" / "1" / "model.onnx", card)
        self.text, self.matcher, self.judge = (
            open_session(MODELS / name / "1" / "model.onnx") for name in ("emoji.text", "matcher", "judge")
        )
        self.words = Tokenizer.from_file(str(MODELS / "emoji" / "1" / "tokenizer.json"))
        self.words.enable_padding(length=12)
        self.event, self.guidance, self.steps = card.event_shape, guidance, steps

    def tokens(self, text: str) -> Tensor:
        return torch.tensor([self.words.encode(text).ids])

    def encoded(self, text: str) -> dict[str, Tensor]:
        (told,) = self.text.run(None, {"input_ids": self.tokens(text).numpy()})
        return {"encoder_hidden_states": torch.from_numpy(told)}

    def plan(self, solver: str) -> steering.Plan:
        return steering.plan(solver, path=self.network.path, steps=self.steps, prediction="v", end="denoise")

    def law(self, prompt: str, solver: str) -> Problem:
        return Problem(
            plan=self.plan(solver),
            event=self.event,
            condition=self.encoded(prompt),
            guidance=self.guidance,
            null=self.encoded(""),
        )

    def draw(self, prompt: str, solver: str, n: int, seed: int, steer: Steering | None) -> tuple[Tensor, Any]:
        return steering.run(
            self.plan(solver), self.network, (n, *self.event), seed, steer, condition=self.encoded(prompt),
            guidance=self.guidance, null=self.encoded(""), report=True, tile=32,
        )  # fmt: skip

    def fits(self, text: str, x: Tensor) -> Tensor:
        """The served reward: the log-probability that a text fits [n]."""
        tokens = self.tokens(text).expand(len(x), -1)
        return torch.from_numpy(self.matcher.run(None, {"x": x.numpy(), "text": tokens.numpy()})[0])

    def read(self, x: Tensor) -> tuple[list[Subject], Tensor]:
        """What the judge reads, and its features."""
        things, colours, styles, features = self.judge.run(None, {"x": x.clamp(-1, 1).numpy()})
        best = zip(*(each.argmax(1).tolist() for each in (things, colours, styles)), strict=True)
        subjects = [Subject(THINGS[i], list(COLOURS)[j] if THINGS[i].coloured else None, STYLES[k]) for i, j, k in best]
        return subjects, torch.from_numpy(features).double()


@dataclass(frozen=True)
class Task:
    """A prompt, a reward, and what the judge should then read."""

    prompt: str
    wanted: str
    reward: Callable[[Tensor], Tensor]


def tasks(model: Model, shown: Pictures) -> dict[str, Task]:
    """By name."""
    blue = torch.full(model.event, -0.5 / 32**2)
    blue[2] = 1 / 32**2
    like = next(i for i, each in enumerate(SUBJECTS) if (each.name, each.style) == ("fox", "noto"))
    return {
        "lion": Task("an animal", "a lion", partial(model.fits, "a lion")),
        "heart": Task("a heart", "a purple heart", partial(model.fits, "a purple heart")),
        "fluent": Task("a food", "a pizza in fluent style", partial(model.fits, "a pizza in fluent style")),
        "blue": Task("a car", "a blue car", partial(linear, direction=blue, scale=20.0)),
        "fox": Task("an animal", "a fox", partial(quadratic, center=shown.x[like, 1], scale=0.02)),
    }


@dataclass(frozen=True)
class Known:
    """What is known of a task's law before anything is steered: plain samples, and draws for the residual posterior."""

    plain: Tensor
    draws: posteriors.Draws


Make = Callable[[Task, Known], Steering | None]
METHODS: dict[str, tuple[str, Make]] = {
    "plain": ("dpmpp_2m", lambda task, known: None),
    "best of 4": ("dpmpp_2m", lambda task, known: baselines.BestOf(task.reward, 4)),
    "svdd": ("sde_dpmpp_2m", lambda task, known: baselines.Svdd(task.reward, candidates=4)),
    "gaussian": ("dpmpp_2m", lambda task, known: steering.Doob(task.reward, posterior=posteriors.gaussian())),
    "residuals": (
        "dpmpp_2m",
        lambda task, known: steering.Doob(task.reward, posterior=posteriors.fitting(known.draws)),
    ),
    "residuals-sde": (
        "sde_dpmpp_2m",
        lambda task, known: steering.Doob(task.reward, posterior=posteriors.fitting(known.draws)),
    ),
}


def main(
    names: Annotated[list[str] | None, typer.Option("--task", "-t", help="lion, heart, fluent, blue, fox.")] = None,
    chosen: Annotated[list[str] | None, typer.Option("--method", "-m")] = None,
    seed: int = 0,
    samples: Annotated[int, typer.Option(help="Per task and method.")] = 64,
    plain: Annotated[int, typer.Option(help="Plain samples that the exact tilt is made of.")] = 512,
    draws: Annotated[int, typer.Option(help="Of the residual posterior.")] = 256,
    steps: int = 12,
    guidance: float = 3.0,
    scales: Annotated[
        list[float] | None, typer.Option("--scale", help="Also residuals times this s, not 5**.5.")
    ] = None,
) -> None:
    """Print a table per task."""
    torch.set_num_threads(1)
    model, shown = Model(steps, guidance), pictures(np.load(ROOT / "deploy" / "demo_data" / "emoji.npz")["drawings"])
    laws: dict[str, Known] = {}
    methods = METHODS | {f"s = {scale:g}": ("dpmpp_2m", partial(scaled, scale=scale)) for scale in scales or ()}
    table = tasks(model, shown)
    for name in names or list(table):
        task = table[name]
        if task.prompt not in laws:
            drawn, _ = model.draw(task.prompt, "dpmpp_2m", plain, seed + 1000, None)
            recorded = steering.solve(posteriors.record(model.law(task.prompt, "sde_dpmpp_2m"), draws), model.network)
            laws[task.prompt] = Known(drawn, recorded)
        used = {each: methods[each] for each in methods if chosen is None or each in chosen or each not in METHODS}
        compare(model, name, task, laws[task.prompt], real(task, shown), used, samples, seed)


def scaled(task: Task, known: Known, scale: float) -> Steering:
    """By residuals, all of them times one number."""
    fitting = posteriors.residuals(known.draws)
    whole = replace(fitting, scale=(scale,) * len(fitting.scale))
    return steering.Doob(task.reward, posterior=whole)


def real(task: Task, shown: Pictures) -> Tensor:
    """Drawings that are what is wanted, as often as the model was shown them."""
    chances = weights() * torch.tensor([meaning(task.wanted).fits(subject) for subject in SUBJECTS])
    generator = torch.Generator().manual_seed(0)
    return shown.batch(torch.multinomial(chances, REAL, replacement=True, generator=generator), generator)


def compare(
    model: Model,
    name: str,
    task: Task,
    known: Known,
    wanted: Tensor,
    methods: Mapping[str, tuple[str, Make]],
    samples: int,
    seed: int,
) -> None:
    """The table of one task."""
    generator = torch.Generator().manual_seed(seed)
    _, mine = model.read(wanted)

    def share(read: list[Subject]) -> float:
        return sum(map(meaning(task.wanted).fits, read)) / len(read)

    scores = task.reward(known.plain).double()
    tilt = softmax(scores)
    read, features = model.read(known.plain)
    right = torch.tensor([meaning(task.wanted).fits(each) for each in read]).double()
    again = torch.multinomial(tilt, 4 * samples, replacement=True, generator=generator)
    distance = energy_distance(features[again], mine)
    print(
        f"\n{name}: {task.prompt!r} toward {task.wanted!r}; exact tilt (of {effective_size(tilt):.0f} effective plain "
        f"samples) share {float(tilt @ right):.3f}, reward {float(tilt @ scores):.3f}, distance to {len(mine)} real "
        f"ones {distance:.3f}\nmethod           share   reward  distance     rows  seconds"
    )
    for method, (solver, make) in methods.items():
        begin = time.perf_counter()
        x, report = model.draw(task.prompt, solver, samples, seed, make(task, known))
        seconds = time.perf_counter() - begin
        read, features = model.read(x)
        distance = energy_distance(features, mine)
        print(
            f"{method:15} {share(read):6.3f} {float(task.reward(x).mean()):8.3f} {distance:9.3f} "
            f"{report.network_rows / samples:8.1f} {seconds:8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
