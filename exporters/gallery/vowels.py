"""JapaneseVowels (Kudo, Toyama, Shimbo 1999): real speech, 12 cepstral coefficients a frame, who of nine men speaks.

The series come out of the wheel of sktime 0.40.1 (BSD-3-Clause), which pip fetches; sktime itself is not imported.
Frames are dropped at random, each series by itself, so that what is left is irregular in time.
"""

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

PACKAGE = "sktime==0.40.1"
FOLDER = Path("data/gallery")
"""Where the wheel is kept, seen from the checkout."""
FRAMES, CHANNELS, SPEAKERS = 29, 12, 9
DROPPED = 0.5
"""Share of frames that are taken away."""


@dataclass(frozen=True)
class Series:
    """Series at irregular times.

    Attributes:
        times: increasing in [0, 1], 1 is frame 28; past the last frame the last time is repeated.
        values: normalised; past the last frame the last value is repeated.
    """

    times: Float[Tensor, "n 29"]
    values: Float[Tensor, "n 29 12"]
    speakers: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.speakers)

    def __getitem__(self, rows: Tensor) -> "Series":
        return Series(self.times[rows], self.values[rows], self.speakers[rows])


def fetched(folder: Path) -> Path:
    """The wheel in `folder`, fetched by pip if it is not there."""
    found = sorted(folder.glob("sktime-0.40.1-*.whl"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
        subprocess.run(command, check=True)
        found = sorted(folder.glob("sktime-0.40.1-*.whl"))
    return found[0]


def utterances(part: Literal["TRAIN", "TEST"]) -> list[tuple[Tensor, int]]:
    """As `read`, of the wheel in `FOLDER`."""
    return read(fetched(FOLDER), part)


def read(wheel: Path, part: str) -> list[tuple[Tensor, int]]:
    """Every utterance [frames, 12] of "TRAIN" (270) or "TEST" (370), with its speaker 0..8."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"sktime/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts").decode()
    lines = [line for line in text.split("@data", 1)[1].splitlines() if line.strip()]
    return [_utterance(line) for line in lines]


def _utterance(line: str) -> tuple[Tensor, int]:
    *channels, speaker = line.strip().split(":")
    values = torch.tensor([[float(value) for value in channel.split(",")] for channel in channels])
    return values.T.contiguous(), int(speaker) - 1


def irregular(utterances: list[tuple[Tensor, int]], dropped: float, seed: int) -> Series:
    """Each utterance with so much of its frames dropped, the first and the last never."""
    generator = torch.Generator().manual_seed(seed)
    times, values = torch.zeros(len(utterances), FRAMES), torch.zeros(len(utterances), FRAMES, CHANNELS)
    for row, (frames, _) in enumerate(utterances):
        kept = torch.rand(len(frames), generator=generator) >= dropped
        kept[[0, -1]] = True
        at = torch.nonzero(kept)[:, 0]
        times[row], values[row] = at[-1] / (FRAMES - 1), frames[-1]
        times[row, : len(at)], values[row, : len(at)] = at / (FRAMES - 1), frames[at]
    return Series(times, values, torch.tensor([speaker for _, speaker in utterances]))


def straight(times: Float[Tensor, "b 29"], values: Float[Tensor, "b 29 c"], t: Float[Tensor, " b"]) -> Tensor:
    """The series at times t, straight between frames, constant outside: [b, c]. Exact at the frames, and plain
    arithmetic, so that it may be a part of a graph."""
    ahead, width = t[:, None] - times[:, :-1], times[:, 1:] - times[:, :-1]
    share = (ahead / width.clamp_min(1e-6)).clamp(0, 1)
    return values[:, 0] + (share[..., None] * (values[:, 1:] - values[:, :-1])).sum(1)


def nearest_mean(known: Series, asked: Series) -> Int[Tensor, " n"]:
    """The baseline: whose mean frame lies nearest to a series' own, in units of how means of one speaker spread."""
    means = known.values.mean(1)
    centres = torch.stack([means[known.speakers == speaker].mean(0) for speaker in range(SPEAKERS)])
    spread = (means - centres[known.speakers]).std(0)
    return torch.cdist(asked.values.mean(1) / spread, centres / spread).argmin(1)


def share(named: Int[Tensor, " n"], series: Series) -> float:
    return float((named == series.speakers).double().mean())


def some_series(n: int) -> Series:
    """Random series, which stand for data where none are fetched."""
    generator = torch.Generator().manual_seed(3)
    frames = [torch.randn(12 + i % 18, CHANNELS, generator=generator) for i in range(n)]
    return irregular([(each, 0) for each in frames], DROPPED, seed=4)
