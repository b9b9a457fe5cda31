"""`make demo-text`: pictures of prompts through the real server, plain and steered, judged by a network that steering
never sees; best-of-N and the exact tilt beside them."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from tokenizers import Tokenizer

from deploy.pictures import side_by_side, stacked
from deploy.process import running_server
from exporters.emoji.data import Pictures, pictures
from exporters.emoji.vocabulary import COLOURS, STYLES, SUBJECTS, THINGS, Subject, meaning, weights
from steering.problems import energy_distance
from steering.targets.rewards import linear, quadratic
from tiltserve import Client, Samples

HERE = Path(__file__).parent
PROMPTS = ("a red heart", "a blue car", "a smiling face", "a cat in noto style", "a pizza", "a green butterfly")
SHOWN, PER_REQUEST = 8, 16
BEST_OF = 4
OPEN = 1.0
"""Guidance of prompts that leave open what steering is to decide: more of it would blend what they may be."""
REAL = 256
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
console = Console()


@dataclass(frozen=True)
class Wish:
    """Something to steer a prompt's pictures toward.

    Attributes:
        name: for people; `wanted`: what the judge should then read.
        keywords: of `Client.sample`.
        score: the same reward of pictures [n, 3, h, w] of -1..1, for the plain ones that the exact tilt is made of.
    """

    name: str
    prompt: str
    wanted: str
    keywords: dict[str, Any]
    score: Callable[[Floats], Floats]
    beta: float = 1.0


@dataclass(frozen=True)
class Judged:
    """Pictures uint8 [n, h, w, 3], what the judge reads in them, its features [n, d], and the wish's reward [n]."""

    images: Bytes
    read: list[Subject]
    features: Floats
    rewards: Floats

    def chosen(self, rows: NDArray[np.int64]) -> "Judged":
        """Some of them, in that order."""
        read = [self.read[row] for row in rows]
        return Judged(self.images[rows], read, self.features[rows], self.rewards[rows])

    def share(self, wanted: str) -> float:
        """Share that the judge reads as wanted."""
        fits = meaning(wanted).fits
        return sum(map(fits, self.read)) / len(self.read)


class Server:
    """The few calls the demo makes."""

    def __init__(self, client: Client, samples: int) -> None:
        self._client, self._samples = client, samples

    def draw(self, title: str, seed: int, count: int | None = None, **wanted: Any) -> list[Samples]:
        """Pictures in requests of PER_REQUEST, side by side, with a progress bar."""
        count = count or self._samples
        columns = TextColumn("{task.description:42}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            bar = progress.add_task(title, total=count)

            def one(first: int) -> Samples:
                some = min(PER_REQUEST, count - first)
                drawn = self._client.sample("emoji", some, seed=seed + first, **wanted)
                progress.advance(bar, some)
                return drawn

            with ThreadPoolExecutor(max_workers=4) as pool:
                return list(pool.map(one, range(0, count, PER_REQUEST)))

    def judge(self, images: Bytes, score: Callable[[Floats], Floats]) -> Judged:
        """Read pictures with the judge and score them."""
        x = _floats(images)
        parts = [self._client.infer("judge", {"x": rows}) for rows in np.array_split(x, -(-len(x) // 256))]
        best = [np.concatenate([part[name].argmax(1) for part in parts]) for name in ("things", "colours", "styles")]
        read = [_subject(*numbers) for numbers in zip(*(each.tolist() for each in best), strict=True)]
        return Judged(images, read, np.concatenate([part["features"] for part in parts]), score(x))

    def matches(self, text: list[int]) -> Callable[[Floats], Floats]:
        """The served reward: the log-probability that a text fits."""
        return lambda x: self._client.score("matcher", x, text=np.array(text))


def main(
    models: Annotated[Path, typer.Option(help="model repository with emoji, matcher, judge")] = HERE / "text_models",
    out: Annotated[Path, typer.Option(help="folder for text.png and text.json")] = Path("demo"),
    samples: Annotated[int, typer.Option(min=8, help="pictures of each kind")] = 64,
    plain: Annotated[int, typer.Option(min=16, help="plain pictures that the exact tilt is made of")] = 256,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw pictures of prompts, plain and steered, and judge them."""
    shown = pictures(np.load(HERE / "demo_data" / "emoji.npz")["drawings"])
    console.print("starting the server ...")
    with running_server(models, replicas=1) as running, Client(running.grpc) as client:
        server = Server(client, samples)
        start = time.perf_counter()
        first = [(prompt, _images(server.draw(prompt, seed, SHOWN, prompt=prompt))) for prompt in PROMPTS]
        unguided = [
            (
                f"{prompt}, guidance 1",
                _images(server.draw(f"{prompt}, guidance 1", seed, SHOWN, prompt=prompt, guidance=1)),
            )
            for prompt in PROMPTS[:2]
        ]
        rows = [side_by_side(first[at : at + 3], columns=4, scale=2) for at in range(0, len(first), 3)]
        rows.append(side_by_side(unguided, columns=4, scale=2))
        summary: dict[str, Any] = {}
        banks: dict[str, tuple[Bytes, float]] = {}
        for wish in wishes(server, models, shown):
            if wish.prompt not in banks:
                drawn = server.draw(f"{wish.prompt}: plain", seed + 1000, plain, prompt=wish.prompt, guidance=OPEN)
                banks[wish.prompt] = _images(drawn), sum(each.network_rows for each in drawn) / plain
            title = f"{wish.prompt}: {wish.name}"
            steered = server.draw(
                title, seed + 2000, prompt=wish.prompt, guidance=OPEN, beta=wish.beta, **wish.keywords
            )
            summary[title], panels = compared(server, wish, banks[wish.prompt], steered, shown, seed)
            rows.append(side_by_side(panels, columns=4, scale=2))
        seconds = time.perf_counter() - start
    out.mkdir(parents=True, exist_ok=True)
    (out / "text.json").write_text(json.dumps(summary | {"seconds": round(seconds, 1)}, indent=2) + "\n")
    stacked(rows).quantize(128).save(out / "text.png", optimize=True)
    for title, kinds in summary.items():
        console.print(_table(title, kinds))
    console.print("share: read by the judge as wanted; distance: energy distance to real ones in the judge's features")
    console.print(f"{seconds:.1f} s; wrote {out / 'text.png'} and {out / 'text.json'}")


def wishes(server: Server, models: Path, shown: Pictures) -> list[Wish]:
    """Toward another text, a colour, and a picture."""
    words = Tokenizer.from_file(str(models / "emoji" / "1" / "tokenizer.json"))
    words.enable_padding(length=12)
    text = words.encode("a blue heart").ids
    tint = _towards("green")
    like = next(i for i, s in enumerate(SUBJECTS) if (s.name, s.style) == ("cool face", "noto"))
    picture = shown.x[like, 1].numpy()
    return [
        Wish(
            "toward the text “a blue heart”", "a heart", "a blue heart",
            {"reward": "matcher", "text": np.array(text)}, server.matches(text),
        ),
        Wish(
            "toward a picture of a cool face", "a face", "a cool face",
            {"reward": "quadratic", "center": picture, "scale": 0.02}, _of(quadratic, picture, 0.02),
        ),
        Wish(
            "toward green", "a heart", "a green heart",
            {"reward": "linear", "direction": tint, "scale": 20.0}, _of(linear, tint, 20.0),
        ),
    ]  # fmt: skip


def compared(
    server: Server, wish: Wish, bank: tuple[Bytes, float], steered: list[Samples], shown: Pictures, seed: int
) -> tuple[dict[str, Any], list[tuple[str, Bytes]]]:
    """Share, distance and rows of plain, steered, best-of-N and exactly tilted pictures, and panels of some."""
    rng = np.random.default_rng(seed)
    plain, each = server.judge(bank[0], wish.score), bank[1]
    count = sum(len(_images([drawn])) for drawn in steered)
    spent = sum(drawn.network_rows for drawn in steered) / count
    weights = np.exp((plain.rewards - plain.rewards.max()) / wish.beta)
    weights /= weights.sum()
    best = [max(rng.choice(len(weights), BEST_OF), key=plain.rewards.__getitem__) for _ in range(count)]
    kinds = {
        "plain": (plain.chosen(np.arange(min(count, len(weights)))), each),
        "steered": (server.judge(_images(steered), wish.score), spent),
        f"best of {BEST_OF}": (plain.chosen(np.array(best)), BEST_OF * each),
        "exact tilt": (plain.chosen(rng.choice(len(weights), count, p=weights)), len(weights) * each / count),
    }
    real = server.judge(_bytes(_real(wish, shown)), wish.score)
    summary: dict[str, Any] = {
        name: {
            "share": judged.share(wish.wanted),
            "reward": float(judged.rewards.mean()),
            "distance": _distance(judged.features, real.features),
            "network_rows": rows,
        }
        for name, (judged, rows) in kinds.items()
    }
    summary["real"] = {"share": real.share(wish.wanted), "reward": float(real.rewards.mean())}
    summary["effective_plain"] = float(1 / (weights**2).sum())
    titles = {"plain": f"“{wish.prompt}”, plain", "steered": wish.name}
    panels = [
        (f"{titles.get(name, name)}: {judged.share(wish.wanted):.0%}", judged.images[:SHOWN])
        for name, (judged, _) in kinds.items()
    ]
    return summary, panels


def _real(wish: Wish, shown: Pictures) -> Floats:
    """Drawings that fit what is wanted, as often as the model was shown them."""
    fits = meaning(wish.wanted).fits
    chances = weights() * torch.tensor([fits(subject) for subject in SUBJECTS])
    generator = torch.Generator().manual_seed(0)
    which = torch.multinomial(chances, REAL, replacement=True, generator=generator)
    return shown.batch(which, generator).numpy()


def _towards(colour: str) -> Floats:
    """A direction of pictures [3, h, w]: the mean of one channel less the mean of the others."""
    channels = {"red": 0, "green": 1, "blue": 2}
    direction = np.full((3, 32, 32), -0.5 / 32**2, np.float32)
    direction[channels[colour]] = 1 / 32**2
    return direction


def _of(reward: Callable[..., torch.Tensor], to: Floats, scale: float) -> Callable[[Floats], Floats]:
    return lambda x: reward(torch.from_numpy(x), torch.from_numpy(to), scale).numpy()


def _subject(thing: int, colour: int, style: int) -> Subject:
    found = THINGS[thing]
    return Subject(found, list(COLOURS)[colour] if found.coloured else None, STYLES[style])


def _images(drawn: list[Samples]) -> Bytes:
    return np.concatenate([each.images for each in drawn])


def _floats(images: Bytes) -> Floats:
    return (images.transpose(0, 3, 1, 2) / np.float32(127.5) - 1).astype(np.float32)


def _bytes(x: Floats) -> Bytes:
    return np.rint((x.transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8)


def _distance(features: Floats, real: Floats) -> float:
    """Energy distance in the judge's features, unbiased: near 0, of either sign, for samples of one law."""
    return energy_distance(torch.from_numpy(features).double(), torch.from_numpy(real).double())


def _table(title: str, kinds: dict[str, Any]) -> Table:
    headings = (title, "share", "reward", "distance", "network rows")
    table = Table(*(Column(heading, min_width=10) for heading in headings))
    for name, each in kinds.items():
        if isinstance(each, dict):
            figures = [f"{each[key]:.3f}" if key in each else "" for key in ("share", "reward", "distance")]
            table.add_row(name, *figures, f"{each['network_rows']:.0f}" if "network_rows" in each else "")
    return table


if __name__ == "__main__":
    typer.run(main)
