"""`make demo`: plain and steered digits through the real server, judged by a network that steering never sees."""

import json
import time
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

from deploy.pictures import side_by_side
from deploy.process import running_server
from steering.problems import energy_distance
from tiltserve import Client, Samples

HERE = Path(__file__).parent
LABEL = 7
SAMPLES, PER_REQUEST = 64, 16
BETA = 1.0
Floats = NDArray[np.float32]
console = Console()


@dataclass(frozen=True)
class Judged:
    """What the judge and the reward say of some images: predicted labels, features and rewards, a row each."""

    labels: NDArray[np.int64]
    features: Floats
    rewards: Floats

    def __getitem__(self, rows: NDArray[np.int64]) -> "Judged":
        return Judged(self.labels[rows], self.features[rows], self.rewards[rows])

    @property
    def share(self) -> float:
        """Share that the judge reads as the wanted digit."""
        return float((self.labels == LABEL).mean())

    @property
    def mean_reward(self) -> float:
        return float(self.rewards.mean())


class Server:
    """The few calls the demo makes."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def judge(self, x: Floats) -> Judged:
        """Read images [n, 1, 28, 28] with the judge and score them with the classifier, 512 a call."""
        parts = []
        for rows in np.array_split(x, -(-len(x) // 512)):
            read = self._client.infer("judge", {"x": rows})
            reward = self._client.score("classifier", rows, label=LABEL)
            parts.append((read["log_probabilities"].argmax(1), read["features"], reward))
        labels, features, rewards = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Judged(labels, features, rewards)

    def draw(self, title: str, seed: int, **wanted: Any) -> list[Samples]:
        """SAMPLES digits in requests of PER_REQUEST, side by side, with a progress bar."""
        columns = TextColumn("{task.description:8}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            bar = progress.add_task(title, total=SAMPLES)

            def one(request: int) -> Samples:
                drawn = self._client.sample("digits", PER_REQUEST, seed=seed + request, **wanted)
                progress.advance(bar, PER_REQUEST)
                return drawn

            with ThreadPoolExecutor(max_workers=4) as pool:
                return list(pool.map(one, range(SAMPLES // PER_REQUEST)))


def main(
    models: Annotated[Path, typer.Option(help="model repository with digits, classifier and judge")] = HERE / "models",
    out: Annotated[Path, typer.Option(help="folder for samples.png and summary.json")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw 64 plain and 64 steered digits and judge them."""
    console.print("starting the server ...")
    with running_server(models, replicas=2) as running, Client(running.grpc) as client:
        server = Server(client)
        start = time.perf_counter()
        plain = server.draw("plain", seed)
        steered = server.draw("steered", seed + 1000, reward="classifier", label=LABEL, beta=BETA, particles=32)
        seconds = time.perf_counter() - start
        console.print("judging ...")
        summary, rows = judged(server, models, plain, steered, seed)
    summary["seconds"] = round(seconds, 1)
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    panels = [(f"plain: {summary['plain']['share']:.0%} read as {LABEL}", _images(plain))]
    panels += [(f"steered toward {LABEL}: {summary['steered']['share']:.0%}", _images(steered))]
    side_by_side(panels).save(out / "samples.png")
    headings = (f"{SAMPLES} digits", f"read as {LABEL}", "reward", "distance", "network rows", "reward rows")
    table = Table(*(Column(heading, no_wrap=True) for heading in headings))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(
        "reward: mean log-probability; distance: energy distance to real ones in the judge's features; rows: per sample"
    )
    console.print(f"{seconds:.1f} s for {2 * SAMPLES} samples; wrote {out / 'samples.png'} and {out / 'summary.json'}")


def judged(
    server: Server, models: Path, plain: list[Samples], steered: list[Samples], seed: int
) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """The summary, and the table's rows: drawn samples, the exact tilt, best-of-N and real digits."""
    rng = np.random.default_rng(seed)
    network_rows = [sum(d.network_rows for d in each) / SAMPLES for each in (plain, steered)]
    reward_rows = sum(d.reward_rows for d in steered) / SAMPLES
    results = {"plain": server.judge(_images(plain)), "steered": server.judge(_images(steered))}
    # the exact tilted law: the model's own samples, resampled with weights exp(r / beta)
    bank = server.judge(np.load(models / "digits" / "1" / "bank.npz")["x"])
    weights = np.exp((bank.rewards - bank.rewards.max()) / BETA)
    weights /= weights.sum()
    tilt = bank[rng.choice(len(weights), 4 * SAMPLES, p=weights)]
    best_of = max(1, round(reward_rows))
    chosen = [max(rng.choice(len(weights), best_of), key=bank.rewards.__getitem__) for _ in range(SAMPLES)]
    results["best-of-N"] = bank[np.array(chosen)]
    held_out = np.load(HERE / "demo_data" / "held_out.npz")
    images = held_out["images"][held_out["labels"] == LABEL]
    real = server.judge((images[:, None] / np.float32(127.5) - 1).astype(np.float32))
    distance = {name: _distance(each.features, real.features) for name, each in results.items()}
    distance |= {"exact tilt": _distance(tilt.features, real.features), "floor": _floor(real.features, rng)}
    ceiling = {"share": float(weights @ (bank.labels == LABEL)), "mean_reward": float(weights @ bank.rewards)}
    summary: dict[str, Any] = {
        **{
            name: {"share": r.share, "mean_reward": r.mean_reward} for name, r in results.items() if name != "best-of-N"
        },
        "network_rows_per_sample": {"plain": network_rows[0], "steered": network_rows[1]},
        "reward_rows_per_sample": reward_rows,
        "bank_reward_rows": float(len(weights)),
        "ceiling": ceiling,
        "best_of_n": {
            "n": best_of,
            "share": results["best-of-N"].share,
            "mean_reward": results["best-of-N"].mean_reward,
        },
        "distance_to_real": {
            name.replace(" ", "_").replace("-", "_").lower(): value for name, value in distance.items()
        },
    }
    rows = [
        _row("plain", results["plain"], distance["plain"], network_rows[0], 0),
        _row("steered", results["steered"], distance["steered"], network_rows[1], reward_rows),
        _row(f"best of {best_of}", results["best-of-N"], distance["best-of-N"], best_of * network_rows[0], best_of),
        (
            "exact tilt",
            f"{ceiling['share']:.3f}",
            f"{ceiling['mean_reward']:.3f}",
            f"{distance['exact tilt']:.3f}",
            "",
            "",
        ),
        ("real (floor)", f"{real.share:.3f}", f"{real.mean_reward:.3f}", f"{distance['floor']:.3f}", "", ""),
    ]
    return summary, rows


def _row(name: str, of: Judged, distance: float, network_rows: float, reward_rows: float) -> tuple[str, ...]:
    return (
        name,
        f"{of.share:.3f}",
        f"{of.mean_reward:.3f}",
        f"{distance:.3f}",
        f"{network_rows:.0f}",
        f"{reward_rows:.0f}",
    )


def _images(drawn: list[Samples]) -> Floats:
    return np.concatenate([each.samples for each in drawn])


def _distance(features: Floats, real: Floats) -> float:
    """Energy distance in the judge's features, unbiased: near 0, of either sign, for samples of one law."""
    return energy_distance(torch.from_numpy(features).double(), torch.from_numpy(real).double())


def _floor(real: Floats, rng: np.random.Generator) -> float:
    """Mean size of the distance between SAMPLES real digits and the other real ones, over 20 splits."""
    splits = (rng.permutation(len(real)) for _ in range(20))
    return float(np.mean([abs(_distance(real[order[:SAMPLES]], real[order[SAMPLES:]])) for order in splits]))


if __name__ == "__main__":
    typer.run(main)
