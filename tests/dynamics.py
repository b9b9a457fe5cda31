"""Small models of dynamics whose trajectories are known, exported as a user's are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporters.dynamics import Beside, export_dynamics
from exporters.export import export_model
from protos.card import Card, dump_card


class Decay(nn.Module):
    """dz/dt = -rate z, of two numbers."""

    def forward(self, z: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        return -rate[:, None] * z + 0 * t[:, None]


class Blowing(nn.Module):
    """dz/dt = z^2, which is infinite at t = 1/z(0)."""

    def forward(self, z: Tensor) -> Tensor:
        return z * z


class Encoder(nn.Module):
    """The first state of a record [3]: its ends."""

    def forward(self, record: Tensor) -> Tensor:
        return torch.stack([record[:, 0], record[:, 2]], dim=1)


class Decoder(nn.Module):
    """What is seen of a state: sum, difference and product."""

    def forward(self, state: Tensor) -> Tensor:
        a, b = state[:, 0], state[:, 1]
        return torch.stack([a + b, a - b, a * b], dim=1)


def write(
    root: Path,
    name: str,
    network: nn.Module,
    examples: Mapping[str, Tensor],
    outputs: list[str],
    dynamics: Mapping[str, Any],
    conditions: Mapping[str, Any] | None = None,
) -> Path:
    """A model's folder: its graph and its card."""
    folder = root / name
    export_model(network, folder, None, examples=dict(examples), outputs=outputs)
    card = Card.model_validate({"name": name, "dynamics": dict(dynamics), "conditions": dict(conditions or {})})
    dump_card(card, folder / "card.yaml")
    return folder


def write_decay(root: Path, name: str = "decay", dtype: torch.dtype = torch.float32, *, coded: bool = False) -> Path:
    """`Decay` in a precision; coded: with an encoder, a decoder and a graph of whole steps."""
    dynamics = {"kind": "ode", "state": [2], "inputs": {"y": "z", "t": "t"}, "outputs": {"drift": "f"}}
    rate = {"dtype": str(dtype).removeprefix("torch."), "null": 1.0, "min": 0.0}
    card = Card.model_validate({"name": name, "dynamics": dynamics, "conditions": {"rate": rate}})
    encoder = Beside(Encoder(), {"record": torch.randn(3, 3)}) if coded else None
    decoder = Beside(Decoder(), {"state": torch.randn(3, 2)}) if coded else None
    export_dynamics(Decay(), root / name, card, dtype=dtype, encoder=encoder, decoder=decoder, step=coded)
    return root / name


def write_blowing(root: Path) -> Path:
    """`Blowing` in float64."""
    dynamics = {"kind": "ode", "state": [1], "inputs": {"y": "z"}, "outputs": {"drift": "f"}}
    return write(root, "blowing", Blowing(), {"z": torch.rand(3, 1, dtype=torch.float64)}, ["f"], dynamics)


class Turning(nn.Module):
    """dz/dt: turned by 2 a second, shrunk by 1/10: z = exp(-t / 10) (cos(p + 2 t), sin(p + 2 t))."""

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return torch.stack([-0.1 * z[:, 0] - 2 * z[:, 1], 2 * z[:, 0] - 0.1 * z[:, 1]], dim=1) + 0 * t[:, None]


class Height(nn.Module):
    """A number whose sign is that of the second coordinate."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z[:, 1])


class Stiff(nn.Module):
    """Robertson's kinetics, the standard stiff problem."""

    def forward(self, y: Tensor) -> Tensor:
        slow, back, fast = 0.04 * y[:, 0], 1e4 * y[:, 1] * y[:, 2], 3e7 * y[:, 1] * y[:, 1]
        return torch.stack([back - slow, slow - back - fast, fast], dim=1)


class Saddle(nn.Module):
    """dz/dt = (z_0, -z_1)."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([z[:, 0], -z[:, 1]], dim=1)


class Hunting(nn.Module):
    """Lotka and Volterra: hares z_0, foxes z_1, rates [3] and death."""

    def forward(self, z: Tensor, rates: Tensor, death: Tensor) -> Tensor:
        hares, foxes = z[:, 0], z[:, 1]
        return torch.stack([hares * (rates[:, 0] - rates[:, 1] * foxes), foxes * (rates[:, 2] * hares - death)], dim=1)


def write_turning(root: Path) -> None:
    """`Turning` in float64, and `Height` beside it as a plain model."""
    z, t = torch.randn(3, 2, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    dynamics = {"kind": "ode", "state": [2], "inputs": {"y": "z", "t": "t"}, "outputs": {"drift": "f"}}
    write(root, "turning", Turning(), {"z": z, "t": t}, ["f"], dynamics)
    export_model(Height(), root / "height", None, examples={"z": z}, outputs=["h"])


def write_plain_ode(root: Path, name: str, network: nn.Module, size: int, **conditions: tuple[int, ...]) -> Path:
    """A float64 field of a state [size] under conditions of these shapes, without time."""
    examples = {"z" if name != "stiff" else "y": torch.rand(3, size, dtype=torch.float64)}
    state = next(iter(examples))
    examples |= {each: torch.rand(3, *shape, dtype=torch.float64) for each, shape in conditions.items()}
    dynamics = {"kind": "ode", "state": [size], "inputs": {"y": state}, "outputs": {"drift": "f"}}
    said = {each: {"dtype": "float64", "shape": [*shape], "null": 0.0} for each, shape in conditions.items()}
    return write(root, name, network, examples, ["f"], dynamics, said)


class Wells(nn.Module):
    """A double well in the first of two numbers, pushed by the second, which is slow: drift, and noise of 0.6."""

    def forward(self, z: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
        first = 4 * (z[:, 0] - z[:, 0] ** 3) + push * z[:, 1]
        return torch.stack([first, -0.5 * z[:, 1]], dim=1), 0.6 + 0 * z


class Wiener(nn.Module):
    """Ornstein and Uhlenbeck's process, of two numbers; NaN where the first is beyond 6."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(z[:, :1] > 6, torch.nan, -z), 1 + 0 * z


class First(nn.Module):
    """The first number of a state."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, 0]


def write_wells(root: Path) -> None:
    """`Wells` and `Wiener` in float32, and `First` beside them as a plain model."""
    z = torch.randn(3, 2)
    both = {"kind": "sde", "state": [2], "inputs": {"y": "z"}, "outputs": {"drift": "f", "diffusion": "g"}}
    both["solver"] = {"name": "euler_maruyama", "dt": 0.1}
    push = {"dtype": "float32", "null": 0.0}
    write(root, "wells", Wells(), {"z": z, "push": torch.rand(3)}, ["f", "g"], both, {"push": push})
    write(root, "wiener", Wiener(), {"z": z}, ["f", "g"], both)
    export_model(First(), root / "first", None, examples={"z": z}, outputs=["reward"])
