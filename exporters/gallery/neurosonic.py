"""Speech from EEG by conditional flow matching, as NeuroSonic has it: a velocity v(x, t, c) that carries a
noise-corrupted acoustic state to the clean one, given the EEG c.

Here x = x1 + (1 - t) s n, of which dx/dt = -s n; the network learns v = E[-s n | x, c]. Speech and EEG are synthetic
and jointly Gaussian: 8 frames of 4 bands, which 8 frames of 3 electrodes tell something of. Then all is known in
closed form. With x1 | c ~ N(m(c), S), S = U diag(l) U':

    v(x, t, c) = -(1 - t) s^2 (S + (1 - t)^2 s^2)^-1 (x - m)
    x(1) = m + U diag(sqrt(l / (l + s^2))) U' (x(0) - m)

The second line is the flow from t = 0 to 1; it carries N(m, S + s^2) to N(m, S).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from exporters.dynamics import export_dynamics
from exporters.gallery.fitting import fitted
from exporters.gallery.recipe import Figure, Recipe, at_most
from exporters.gallery.solving import Model
from protos.card import Card, Condition
from protos.dynamics import Dynamics, Gives, Roles, Solving

FRAMES, BANDS, ELECTRODES = 8, 4, 3
NOISE = 1.0
"""s."""
WIDTH, HEADS, BLOCKS = 48, 4, 3
STEPS = 3000


@dataclass(frozen=True)
class Joint:
    """Speech x1 = A z + B e and EEG c = C z + D e', all of one Gaussian, flattened.

    Attributes:
        gain: [32, 24], the mean of x1 given c is gain @ c.
        covariance: [32, 32], S of x1 given c.
    """

    speech: Float[Tensor, "32 k"]
    eeg: Float[Tensor, "24 k"]
    gain: Float[Tensor, "32 24"]
    covariance: Float[Tensor, "32 32"]

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x1 [n, 8, 4] and c [n, 8, 3], float32."""
        z = torch.randn(n, self.speech.shape[1], generator=generator, dtype=torch.float64)
        x1, c = z @ self.speech.T, z @ self.eeg.T
        return x1.reshape(n, FRAMES, BANDS).float(), c.reshape(n, FRAMES, ELECTRODES).float()

    def mean(self, c: Float[Tensor, "n 8 3"]) -> Float[Tensor, "n 8 4"]:
        return (c.flatten(1).to(torch.float64) @ self.gain.T).reshape(-1, FRAMES, BANDS)


def joint() -> Joint:
    """Frames that resemble their neighbours, in EEG as in speech; electrodes hear all bands, and noise."""
    generator = torch.Generator().manual_seed(7)
    hidden, own = FRAMES * BANDS, FRAMES * ELECTRODES
    lag = torch.arange(FRAMES, dtype=torch.float64)
    smooth = torch.linalg.cholesky(torch.exp(-((lag[:, None] - lag) ** 2) / 8) + 1e-3 * torch.eye(FRAMES)).contiguous()
    speech = torch.kron(smooth, torch.eye(BANDS, dtype=torch.float64))
    heard = torch.randn(ELECTRODES, BANDS, generator=generator, dtype=torch.float64) / math.sqrt(BANDS)
    eeg = torch.kron(torch.eye(FRAMES, dtype=torch.float64), heard) @ speech
    speech = torch.cat([speech, torch.zeros(hidden, own, dtype=torch.float64)], dim=1)
    eeg = torch.cat([eeg, 0.3 * torch.eye(own, dtype=torch.float64)], dim=1)
    across, within = speech @ eeg.T, eeg @ eeg.T
    gain = torch.linalg.solve(within, across.T).T
    return Joint(speech, eeg, gain, speech @ speech.T - gain @ across.T)


class Exact(nn.Module):
    """The velocity of the Gaussian case: `(x [B, 8, 4], t [B], eeg [B, 8, 3]) -> v [B, 8, 4]`, float64."""

    gain: Tensor
    axes: Tensor
    spread: Tensor

    def __init__(self, law: Joint) -> None:
        super().__init__()
        spread, axes = torch.linalg.eigh(law.covariance)
        for name, value in (("gain", law.gain), ("axes", axes), ("spread", spread)):
            self.register_buffer(name, value)

    def forward(self, x: Tensor, t: Float[Tensor, " b"], eeg: Tensor) -> Tensor:
        left = (1 - t[:, None]) * NOISE
        off = (x.flatten(1) - eeg.flatten(1) @ self.gain.T) @ self.axes
        return (-left * NOISE * off / (self.spread + left**2) @ self.axes.T).reshape(x.shape)

    def carried(self, x: Tensor, eeg: Tensor) -> Tensor:
        """x(1) of x(0) = x."""
        mean = eeg.flatten(1) @ self.gain.T
        shrink = torch.sqrt(self.spread / (self.spread + NOISE**2))
        return (mean + (x.flatten(1) - mean) @ self.axes * shrink @ self.axes.T).reshape(x.shape)


class Block(nn.Module):
    """Attention and perceptron, each scaled, shifted and gated by the time (AdaLN-zero)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.gates = nn.Linear(WIDTH, 6 * WIDTH)
        nn.init.zeros_(self.gates.weight)
        nn.init.zeros_(self.gates.bias)

    def forward(self, x: Float[Tensor, "b l w"], time: Float[Tensor, "b w"]) -> Float[Tensor, "b l w"]:
        a, b, c, d, e, f = self.gates(time)[:, None].chunk(6, dim=-1)
        rows, length, _ = x.shape
        y = F.layer_norm(x, (WIDTH,)) * (1 + a) + b
        q, k, v = self.qkv(y).reshape(rows, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, length, WIDTH)
        x = x + c * self.out(mixed)
        return x + f * self.perceptron(F.layer_norm(x, (WIDTH,)) * (1 + d) + e)


class Speech(nn.Module):
    """The gated transformer: a token a frame of sound and a token a frame of EEG, `(x, t, eeg) -> v [B, 8, 4]`."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.sound, self.eeg = nn.Linear(BANDS, WIDTH), nn.Linear(ELECTRODES, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(1, 2 * FRAMES, WIDTH))
        self.time = nn.Sequential(nn.Linear(16, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.last = nn.Linear(WIDTH, BANDS)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, 4, 8)), persistent=False)

    def forward(self, x: Float[Tensor, "b 8 4"], t: Float[Tensor, " b"], eeg: Float[Tensor, "b 8 3"]) -> Tensor:
        phase = t[:, None] * self.frequencies
        time = self.time(torch.cat([phase.sin(), phase.cos()], dim=1))
        tokens = torch.cat([self.sound(x), self.eeg(eeg)], dim=1) + self.place
        for block in self.blocks:
            tokens = block(tokens, time)
        return self.last(F.layer_norm(tokens[:, :FRAMES], (WIDTH,)))


def trained(law: Joint, steps: int) -> Speech:
    """By flow matching: |v - (x1 - x0)|^2 on the straight line from x0 = x1 + s n."""
    torch.manual_seed(0)

    def loss(network: Speech, generator: torch.Generator) -> Tensor:
        x1, eeg = law.draw(128, generator)
        n, t = torch.randn(x1.shape, generator=generator), torch.rand(len(x1), generator=generator)
        return F.mse_loss(network(x1 + (1 - t[:, None, None]) * NOISE * n, t, eeg), -NOISE * n)

    return fitted(Speech(), loss, steps=steps, peak=2e-3, name="neurosonic")


def _card(name: str, dtype: Literal["float32", "float64"]) -> Card:
    return Card(
        name=name,
        dynamics=Dynamics(
            kind="ode", state=(FRAMES, BANDS), inputs=Roles(y="x", t="t"), outputs=Gives(drift="v"),
            solver=Solving(name="tsit5", rtol=1e-4 if dtype == "float32" else 1e-8),
        ),
        conditions={"eeg": Condition(dtype=dtype, shape=(FRAMES, ELECTRODES))},
    )  # fmt: skip


CARD, EXACT = _card("neurosonic", "float32"), _card("neurosonic-exact", "float64")


def build(repository: Path, effort: float) -> None:
    law = joint()
    x, eeg = law.draw(16, torch.Generator().manual_seed(1))
    examples = {"x": x, "t": torch.linspace(0, 1, 16), "eeg": eeg}
    export_dynamics(trained(law, round(effort * STEPS)), repository / CARD.name, CARD, examples=examples)
    double = {name: value.double() for name, value in examples.items()}
    export_dynamics(Exact(law), repository / EXACT.name, EXACT, examples=double, dtype=torch.float64)


def corrupted(law: Joint, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """x(0) = x1 + s n [n, 8, 4] and the EEG, float64."""
    generator = torch.Generator().manual_seed(seed)
    x1, eeg = law.draw(n, generator)
    return x1.double() + NOISE * torch.randn(x1.shape, generator=generator, dtype=torch.float64), eeg.double()


def check(repository: Path) -> list[Figure]:
    """The closed-form field's flow against its closed form; the trained one against both."""
    law, exact, net = joint(), Model(repository, EXACT.name), Model(repository, CARD.name)
    flow = Exact(law)
    x0, eeg = corrupted(law, 400, 9)
    want = flow.carried(x0, eeg)
    few = exact.solve(x0[:8], [0.0, 1.0], rtol=1e-10, atol=1e-12, eeg=eeg[:8]).y[:, -1]
    heun = [
        (exact.solve(x0[:8], [0.0, 1.0], solver="heun", dt=dt, eeg=eeg[:8]).y[:, -1] - want[:8]).norm()
        for dt in (1 / 64, 1 / 128)
    ]
    drawn = net.solve(x0, [0.0, 1.0], solver="heun", dt=1 / 20, eeg=eeg).y[:, -1]
    mean = law.mean(eeg)
    off, spread = (drawn - mean).flatten(1), law.covariance
    covariance = off.T @ off / len(off)
    floor = (want - mean).flatten(1)
    floor_error = (floor.T @ floor / len(floor) - spread).norm() / spread.norm()
    return [
        at_most("the exact field's flow against its closed form", (few - want[:8]).abs().max(), 1e-8),
        at_most("order of Heun's method on it, less 2", abs(float((heun[0] / heun[1]).log2()) - 2), 0.1),
        at_most("trained: rms distance of each sample from where it should come, relative to the spread of speech",
                (drawn - want).norm() / (want - mean).norm(), 0.25),
        at_most("trained: mean given the EEG, relative to speech",
                off.mean(0).norm() / mean.flatten(1).norm(dim=1).mean(), 0.1),
        at_most("trained: covariance given the EEG, relative, less that of as many exact samples",
                (covariance - spread).norm() / spread.norm() - floor_error, 0.15),
    ]  # fmt: skip


RECIPE = Recipe(
    name="neurosonic",
    paper="NeuroSonic: speech from EEG by conditional flow matching",
    replaced="speech and EEG by synthetic, jointly Gaussian frames, so that the conditional law is known",
    models=(CARD.name, EXACT.name),
    build=build,
    check=check,
    trained=True,
)
