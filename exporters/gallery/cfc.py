"""Closed-form continuous-time cells: Hasani et al., "Closed-form continuous-time neural networks" (Nature Machine
Intelligence 4, 2022), equation 2: a recurrent cell that is told how much time has gone by, without a solver.

    h(t + dt) = tanh(g) (1 - s) + tanh(h) s,    s = sigmoid(a dt + b)

with g, h, a, b heads of one backbone on [observation, state]. It is served as a map with `dt`: a step from one
observation to the next, however far; observations are the control of a request. The limits are exact: at dt = 0 the
gate is sigmoid(b), and where dt grows the state goes to tanh(h) if a > 0 and to tanh(g) if a < 0.
"""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from exporters.dynamics import Beside, export_dynamics
from exporters.gallery import vowels
from exporters.gallery.fitting import fitted
from exporters.gallery.recipe import Figure, Recipe, at_least, at_most
from exporters.gallery.solving import Model
from exporters.gallery.vowels import CHANNELS, FRAMES, SPEAKERS, Series
from protos.card import Card
from protos.dynamics import Control, Dynamics, Gives, Roles
from steering.dynamics.control import control

STATE, WIDTH = 32, 64
UNIT = 4.0
"""Frames that the cell takes for one unit of time."""
STEPS = 800


class Cell(nn.Module):
    """`(h [B, 32], dt [B, 1] in frames, x [B, 12]) -> next [B, 32]`: x is what is observed at the step's end."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(CHANNELS + STATE, WIDTH)
        self.g, self.h, self.a, self.b = (nn.Linear(WIDTH, STATE) for _ in range(4))

    def forward(
        self, h: Float[Tensor, "b 32"], dt: Float[Tensor, "b 1"], x: Float[Tensor, "b 12"]
    ) -> Float[Tensor, "b 32"]:
        y = torch.tanh(self.backbone(torch.cat([x, h], dim=1)))
        s = torch.sigmoid(self.a(y) * dt / UNIT + self.b(y))
        return torch.tanh(self.g(y)) * (1 - s) + torch.tanh(self.h(y)) * s


class Recurrent(nn.Module):
    """The cell over a whole series, and the speaker of its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell()
        self.decoder = nn.Linear(STATE, SPEAKERS)

    def forward(self, series: Series) -> Float[Tensor, "b 9"]:
        h = torch.zeros(len(series), STATE)
        at = series.times * (FRAMES - 1)
        for frame in range(1, FRAMES):
            dt = at[:, frame : frame + 1] - at[:, frame - 1 : frame]
            h = torch.where(dt > 0, self.cell(h, dt, series.values[:, frame]), h)  # past the last frame nothing happens
        return self.decoder(h)


def trained(series: Series, steps: int) -> Recurrent:
    """By the cross-entropy of batches of 64."""
    torch.manual_seed(0)

    def loss(network: Recurrent, generator: torch.Generator) -> Tensor:
        batch = series[torch.randint(len(series), (64,), generator=generator)]
        return F.cross_entropy(network(batch), batch.speakers)

    return fitted(Recurrent(), loss, steps=steps, peak=5e-3, name="cfc")


CARD = Card(
    name="cfc",
    dynamics=Dynamics(
        kind="map", state=(STATE,), inputs=Roles(y="h", dt="dt"), outputs=Gives(next="next"),
        control=Control(input="x", channels=CHANNELS),
    ),
)  # fmt: skip


def build(repository: Path, effort: float) -> None:
    # each utterance eight times, with other frames dropped
    series = vowels.irregular(vowels.utterances("TRAIN") * 8, vowels.DROPPED, seed=0)
    network = trained(series, round(effort * STEPS))
    generator = torch.Generator().manual_seed(1)
    h, dt = torch.tanh(torch.randn(16, STATE, generator=generator)), 1 + 4 * torch.rand(16, 1, generator=generator)
    export_dynamics(
        network.cell, repository / CARD.name, CARD,
        examples={"h": h, "dt": dt, "x": series.values[:16, 3]},
        decoder=Beside(network.decoder, {"h": h}),
    )  # fmt: skip


def states(model: Model, series: Series) -> Float[Tensor, "n 29 32"]:
    """The cell's states at all frames, from 0 at the first."""
    at = (series.times * (FRAMES - 1)).double()
    new = torch.cat([torch.ones(len(at), 1, dtype=torch.bool), at.diff(dim=1) > 0], dim=1)
    seen = control(torch.where(new, at, torch.nan), series.values.double())
    return model.solve(torch.zeros(len(at), STATE), at, solver="map", control=seen).y


def check(repository: Path) -> list[Figure]:
    """The graph against the paper's formula in float64, its limits, and a series against the training's own loop."""
    model = Model(repository, CARD.name)
    weights = model.weights()
    generator = torch.Generator().manual_seed(2)
    h, x = torch.tanh(torch.randn(64, STATE, generator=generator)), torch.randn(64, CHANNELS, generator=generator)
    dt = 10 * torch.rand(64, 1, generator=generator)
    cell = Cell()
    cell.load_state_dict(weights, strict=False)  # it has a few constants besides
    cell.double()
    ask = lambda dt: model.field(h, torch.zeros(64), dt=dt, dx=x)["next"]  # noqa: E731
    cell.requires_grad_(False)
    y = torch.tanh(cell.backbone(torch.cat([x, h], dim=1).double()))
    g, later, a, b = (head(y) for head in (cell.g, cell.h, cell.a, cell.b))
    at_0 = torch.tanh(g) * (1 - torch.sigmoid(b)) + torch.tanh(later) * torch.sigmoid(b)
    clear = a.abs() > 1e-3
    limit = torch.where(a > 0, torch.tanh(later), torch.tanh(g))
    series = vowels.some_series(12)
    solved = states(model, series)
    by_hand, step = torch.zeros(12, STATE, dtype=torch.float64), series.times.double() * (FRAMES - 1)
    for frame in range(1, FRAMES):
        moved = step[:, frame : frame + 1] - step[:, frame - 1 : frame]
        by_hand = torch.where(moved > 0, cell(by_hand, moved, series.values[:, frame].double()), by_hand)
    return [
        at_most("the graph against the formula in float64",
                (ask(dt) - cell(h.double(), dt.double(), x.double())).abs().max(), 2e-6),
        at_most("at dt = 0", (ask(torch.zeros(64, 1)) - at_0).abs().max(), 2e-6),
        at_most("at dt = 1e6", ((ask(torch.full((64, 1), 1e6)) - limit) * clear).abs().max(), 2e-6),
        at_most("a series' last state against the same by hand", (solved[:, -1] - by_hand).abs().max(), 1e-5),
    ]  # fmt: skip


def judge(repository: Path) -> list[Figure]:
    """Speakers named of the test's 370 utterances, half of whose frames are dropped, beside the nearest mean frame."""
    series = vowels.irregular(vowels.utterances("TEST"), vowels.DROPPED, seed=1)
    known = vowels.irregular(vowels.utterances("TRAIN"), vowels.DROPPED, seed=0)
    model = Model(repository, CARD.name)
    named = model.beside("decoder.onnx", h=states(model, series)[:, -1]).argmax(1)
    base = vowels.share(vowels.nearest_mean(known, series), series)
    return [at_least(f"share of speakers named (nearest mean frame: {base:.3f})", vowels.share(named, series), 0.93)]


RECIPE = Recipe(
    name="cfc",
    paper="Closed-form continuous-time networks, CfC (Hasani et al. 2022)",
    replaced="data by JapaneseVowels with half of the frames dropped",
    models=(CARD.name,),
    build=build,
    check=check,
    judge=judge,
    trained=True,
)
