"""The three stable forms of neural SDEs on irregular series: Oh, Lim, Kim, "Stable Neural Stochastic Differential
Equations in Analyzing Irregular Time Series Data" (ICLR 2024), equations 4 to 6.

With zbar = zeta(z, t, X(t)) of state, time and observed series X:

    langevin   dz   = gamma(zbar) dt    + sigma(t) dW
    linear     dz   = gamma(zbar, t) dt + sigma(t) z dW
    geometric  dz/z = gamma(zbar, t) dt + sigma(t) dW       the sign of each coordinate stays

The series is a condition of the request, its interpolation a part of the graph, so that a row needs nothing but its own
inputs. An encoder makes the state of the first frame, a decoder the speaker of the last state.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from exporters.dynamics import Beside, export_dynamics
from exporters.gallery import vowels
from exporters.gallery.fitting import fitted
from exporters.gallery.recipe import Figure, Recipe, at_least
from exporters.gallery.solving import Model
from exporters.gallery.vowels import CHANNELS, FRAMES, SPEAKERS, Series, straight
from protos.card import Card, Condition
from protos.dynamics import Dynamics, Gives, Roles, Solving

Form = Literal["langevin", "linear", "geometric"]
FORMS: tuple[Form, ...] = ("langevin", "linear", "geometric")
STATE, WIDTH, NODES = 16, 48, 20
"""Dimensions of the state and of the layers; Euler-Maruyama steps of the training, of 1/20 each."""
STEPS = 600


class Encoder(nn.Module):
    """`frame [B, 12] -> z [B, 16]`: the state of the first frame."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(CHANNELS, STATE)

    def forward(self, frame: Float[Tensor, "b 12"]) -> Float[Tensor, "b 16"]:
        return self.first(frame)


class Decoder(nn.Module):
    """`(z [B, 16]) -> logits [B, 9]`: who speaks; of a geometric state, log |z| is read."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.last = nn.Linear(STATE, SPEAKERS)

    def forward(self, z: Float[Tensor, "b 16"]) -> Float[Tensor, "b 9"]:
        return self.last(torch.log(z.abs() + 1e-6) if self.form == "geometric" else z)


class Vector(nn.Module):
    """Drift and sigma: `(z [B, 16], t [B], series, times) -> (drift, sigma) [B, 16]`; sigma of t alone."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.zeta = nn.Linear(STATE + CHANNELS, WIDTH)
        timed = 0 if form == "langevin" else 1
        self.gamma = nn.Sequential(nn.Linear(WIDTH + timed, WIDTH), nn.SiLU(), nn.Linear(WIDTH, STATE))
        self.sigma = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, STATE), nn.Sigmoid())

    def forward(
        self, z: Float[Tensor, "b 16"], t: Float[Tensor, " b"], series: Tensor, times: Tensor
    ) -> tuple[Float[Tensor, "b 16"], Float[Tensor, "b 16"]]:
        seen = torch.tanh(z) if self.form != "geometric" else torch.tanh(torch.log(z.abs() + 1e-6)) * torch.sign(z)
        bar = torch.tanh(self.zeta(torch.cat([seen, straight(times, series, t)], dim=1)))
        drift = self.gamma(bar if self.form == "langevin" else torch.cat([bar, t[:, None]], dim=1))
        return 4 * torch.tanh(drift), 0.3 * self.sigma(t[:, None])


class Classifier(nn.Module):
    """Encoder, field and decoder together, integrated as they are trained."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.encoder, self.vector, self.decoder = Encoder(), Vector(form), Decoder(form)

    def forward(self, series: Series, noise: Float[Tensor, "20 b 16"]) -> Float[Tensor, "b 9"]:
        z, dt = self.encoder(series.values[:, 0]), 1 / NODES
        for node in range(NODES):
            t = torch.full((len(series),), node * dt)
            drift, sigma = self.vector(z, t, series.values, series.times)
            moved = sigma * noise[node] * dt**0.5
            grown = moved - sigma**2 * dt / 2  # log of what the noise alone multiplies z by, after Ito
            if self.form == "langevin":
                z = z + drift * dt + moved
            elif self.form == "linear":
                z = (z + drift * dt) * torch.exp(grown)
            else:
                z = z * torch.exp(drift * dt + grown)
        return self.decoder(z)


def trained(form: Form, series: Series, steps: int) -> Classifier:
    """A classifier of speakers, by the cross-entropy of batches of 64 with fresh noise."""
    torch.manual_seed(FORMS.index(form))

    def loss(network: Classifier, generator: torch.Generator) -> Tensor:
        batch = series[torch.randint(len(series), (64,), generator=generator)]
        noise = torch.randn(NODES, len(batch), STATE, generator=generator)
        return F.cross_entropy(network(batch, noise), batch.speakers)

    return fitted(Classifier(form), loss, steps=steps, peak=1e-2, name=f"stable-{form}")


def card(form: Form) -> Card:
    return Card(
        name=f"stable-{form}",
        dynamics=Dynamics(
            kind="sde", state=(STATE,), inputs=Roles(y="z", t="t"), outputs=Gives(drift="drift", diffusion="sigma"),
            noise="additive" if form == "langevin" else "diagonal", form=form, calculus="ito",
            solver=Solving(name="euler_maruyama", dt=1 / NODES),
        ),
        conditions={
            "series": Condition(dtype="float32", shape=(FRAMES, CHANNELS)),
            "times": Condition(dtype="float32", shape=(FRAMES,)),
        },
    )  # fmt: skip


def build(repository: Path, effort: float) -> None:
    series = vowels.irregular(vowels.utterances("TRAIN"), vowels.DROPPED, seed=0)
    for form in FORMS:
        network = trained(form, series, round(effort * STEPS))
        some = series[torch.arange(16)]
        with torch.no_grad():
            z = network.encoder(some.values[:, 0])
        export_dynamics(
            network.vector, repository / f"stable-{form}", card(form),
            examples={"z": z, "t": torch.linspace(0, 1, 16), "series": some.values, "times": some.times},
            encoder=Beside(network.encoder, {"frame": some.values[:, 0]}), decoder=Beside(network.decoder, {"z": z}),
        )  # fmt: skip


def logits(model: Model, series: Series, paths: int = 1, seed: int = 0) -> Float[Tensor, "paths n 9"]:
    """What paths of their own noise say of who speaks."""
    z = model.beside("encoder.onnx", frame=series.values[:, 0]).double().repeat(paths, 1)
    condition = {"series": series.values.repeat(paths, 1, 1), "times": series.times.repeat(paths, 1)}
    end = model.solve(z, [0.0, 1.0], seed=seed, **condition).y[:, -1]
    return model.beside("decoder.onnx", z=end).reshape(paths, len(series), SPEAKERS)


def check(repository: Path) -> list[Figure]:
    """What the three forms keep, on any series: signs, and bounded states at times far beyond the training's."""
    series, figures = vowels.some_series(24), []
    condition = {"series": series.values, "times": series.times}
    for form in FORMS:
        model = Model(repository, f"stable-{form}")
        z = model.beside("encoder.onnx", frame=series.values[:, 0]).double()
        solved = model.solve(z, [0.0, 0.5, 1.0], **condition).y
        figures.append(at_least(f"{form}: share of states that are finite", solved.isfinite().double().mean(), 1))
        if form == "geometric":
            kept = (torch.sign(solved) == torch.sign(z)[:, None]).double().mean()
            figures.append(at_least("geometric: share of signs that are kept", kept, 1))
    return figures


def judge(repository: Path) -> list[Figure]:
    """Speakers named of the test's 370 utterances, half of whose frames are dropped, beside the nearest mean frame."""
    series = vowels.irregular(vowels.utterances("TEST"), vowels.DROPPED, seed=1)
    known = vowels.irregular(vowels.utterances("TRAIN"), vowels.DROPPED, seed=0)
    base = vowels.share(vowels.nearest_mean(known, series), series)
    figures = []
    for form in FORMS:
        named = logits(Model(repository, f"stable-{form}"), series, paths=4).softmax(-1).mean(0).argmax(1)
        figures.append(
            at_least(
                f"{form}: share of speakers named by four paths (nearest mean frame: {base:.3f})",
                vowels.share(named, series),
                base,
            )
        )
    return figures


RECIPE = Recipe(
    name="stable",
    paper="Stable neural SDEs in analyzing irregular time series (Oh, Lim, Kim 2024): LSDE, LNSDE and GSDE",
    replaced="data by JapaneseVowels with half of the frames dropped; networks of 48 units",
    models=tuple(f"stable-{form}" for form in FORMS),
    build=build,
    check=check,
    judge=judge,
    trained=True,
)
