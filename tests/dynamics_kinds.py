"""Small models of the other kinds of dynamics: an SDE of each form, a CDE, maps and a fixed point."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.dynamics import write

DOUBLE = torch.float64


class Ornstein(nn.Module):
    """dz = -rate z dt + dW, of two numbers."""

    def forward(self, z: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        return -rate[:, None] * z, torch.ones_like(z)


class Growth(nn.Module):
    """dz / z = dt / 2 + 2 dW."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 + 0 * z, 2.0 + 0 * z


class Mixed(nn.Module):
    """dz = (z_2 dW_1, z_1 dW_2), and NaN beyond |z| = 1e6."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        lost = torch.where(z.abs() > 1e6, torch.nan, 0.0)
        zero = torch.zeros_like(z[:, 0])
        rows = [torch.stack([z[:, 1], zero], 1), torch.stack([zero, z[:, 0]], 1)]
        return lost - 0.5 * z, torch.stack(rows, 1)


class Turned(nn.Module):
    """dz turns z by what the second channel changes."""

    def forward(self, z: Tensor, dx: Tensor) -> Tensor:
        return torch.stack([-z[:, 1], z[:, 0]], 1) * dx[:, 1:2]


class Cell(nn.Module):
    """h_next = h exp(-dt) + x."""

    def forward(self, h: Tensor, x: Tensor, dt: Tensor) -> Tensor:
        return h * torch.exp(-dt) + x


class Leaking(nn.Module):
    """Mass goes to the next cell, and grows by 1 part in 1000 which it must not."""

    def forward(self, c: Tensor) -> Tensor:
        return 0.5005 * (c + torch.cat([c[:, 1:], c[:, :1]], 1))


class Equilibrium(nn.Module):
    """z = A z + x, of spectral radius 0.9."""

    a: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("a", torch.tensor([[0.5, 0.4], [0.4, 0.5]], dtype=DOUBLE))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.stack([(z * self.a[k]).sum(-1) for k in range(2)], 1) + x


def numbers(*shape: int) -> Tensor:
    return torch.rand(3, *shape, dtype=DOUBLE)


def write_sdes(root: Path) -> None:
    both = {"drift": "f", "diffusion": "g"}
    card: dict[str, Any] = {"kind": "sde", "state": [2], "inputs": {"y": "z"}, "outputs": both}
    rate = {"rate": {"dtype": "float64", "null": 1.0}}
    write(
        root, "ornstein", Ornstein(), {"z": numbers(2), "rate": numbers()}, ["f", "g"],
        {**card, "noise": "additive", "solver": {"dt": 0.05}}, rate,
    )  # fmt: skip
    write(root, "growth", Growth(), {"z": numbers(2)}, ["f", "g"], {**card, "noise": "diagonal", "form": "geometric"})
    write(root, "mixed", Mixed(), {"z": numbers(2)}, ["f", "g"], {**card, "noise": "general"})


def write_cde(root: Path, name: str = "turned", interpolation: str = "hermite") -> None:
    control = {"input": "dx", "interpolation": interpolation, "channels": 2}
    card = {"kind": "cde", "state": [2], "inputs": {"y": "z"}, "outputs": {"drift": "f"}, "control": control}
    write(root, name, Turned(), {"z": numbers(2), "dx": numbers(2)}, ["f"], card)


def write_maps(root: Path) -> None:
    card: dict[str, Any] = {
        "kind": "map", "state": [2], "inputs": {"y": "h", "dt": "dt"}, "outputs": {"next": "out"},
        "control": {"input": "x", "channels": 2},
    }  # fmt: skip
    write(root, "cell", Cell(), {"h": numbers(2), "x": numbers(2), "dt": numbers(1)}, ["out"], card)
    card = {
        "kind": "map", "state": [6], "inputs": {"y": "c"}, "outputs": {"next": "out"},
        "conserve": {"weights": "area.npy"}, "solver": {"dt": 1.0},
    }  # fmt: skip
    folder = write(root, "leaking", Leaking(), {"c": numbers(6)}, ["out"], card)
    np.save(folder / "1" / "area.npy", np.linspace(1, 2, 6))


def write_equilibrium(root: Path) -> None:
    card = {"kind": "fixed_point", "state": [2], "inputs": {"y": "z"}, "outputs": {"next": "out"}}
    shape = {"x": {"dtype": "float64", "shape": [2]}}
    write(root, "equilibrium", Equilibrium(), {"z": numbers(2), "x": numbers(2)}, ["out"], card, shape)
