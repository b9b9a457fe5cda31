"""Twelve-lead electrocardiograms by rectified flow, as FlowECG has them: 10 to 25 evaluations instead of 200.

Eight leads are independent (I, II, V1 to V6) and are drawn; the other four are sums of I and II, a plain model beside
the sampler, whose identities are exact. FlowECG's S4 layers are replaced by dilated convolutions. The data are
synthetic: a heart is one dipole, which five waves a beat turn and stretch (P, Q, R, S, T), and a lead sees its
projection; so the eight leads of a true record span three dimensions, and this is what samples are held to. Vectors of
leads and waves are this file's own; nothing is taken from a recording.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from exporters.export import export_model
from exporters.gallery.drawing import network, samples
from exporters.gallery.fitting import fitted
from exporters.gallery.recipe import Figure, Recipe, at_least, at_most
from exporters.gallery.waves import UNet1d
from exporters.network import open_session
from protos.card import Card, Condition, Defaults

LENGTH, RATE = 128, 64.0
"""Points of a record, and points a second: two seconds."""
LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
TWELVE = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
KINDS = ("normal", "inverted T", "wide QRS")
NO_KIND = len(KINDS)
STEPS = 2500

_ELECTRODES = torch.tensor(  # x to the left, y to the feet, z to the front
    [[1.0, 0.0, 0.0], [0.5, 0.87, 0.0], [-0.45, 0.1, 0.9], [-0.05, 0.1, 1.2],
     [0.45, 0.15, 1.1], [0.85, 0.2, 0.8], [1.0, 0.2, 0.4], [0.95, 0.2, 0.05]]
)  # fmt: skip
_WAVES = (  # seconds after R, width in seconds, dipole (x, y, z)
    (-0.17, 0.025, (0.10, 0.12, 0.04)),  # P
    (-0.035, 0.012, (-0.10, -0.05, 0.18)),  # Q
    (0.0, 0.016, (0.95, 0.80, -0.30)),  # R
    (0.035, 0.014, (-0.15, -0.20, -0.55)),  # S
    (0.26, 0.055, (0.28, 0.22, 0.15)),  # T
)


def records(n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n 8 128"], Int[Tensor, " n"]]:
    """Records in quarters of a millivolt, and their kinds: hearts of 55 to 110 beats a minute, whose axis, strength
    and first beat are random."""
    kind = torch.randint(len(KINDS), (n,), generator=generator)
    uniform = lambda low, high, *shape: low + (high - low) * torch.rand(n, *shape, generator=generator)  # noqa: E731
    period, first = uniform(0.55, 1.1, 1, 1), uniform(-1.0, 0.0, 1, 1)
    beat = first * period + torch.arange(6)[None, :, None] * period  # R waves of six beats, from before the record on
    time = torch.arange(LENGTH)[None, None] / RATE
    strength, turn = uniform(0.8, 1.2, 1), uniform(-0.5, 0.5)
    dipole = torch.zeros(n, 3, LENGTH)
    wide, inverted = (kind == 2)[:, None, None], (kind == 1)[:, None]
    for name, (after, width, moment) in zip("PQRST", _WAVES, strict=True):
        spread = torch.where(wide & (name in "QRS"), 2.0 * width, width)
        late = torch.where(wide & (name in "RS"), 1.8 * after + 0.02, after)
        if name == "T":  # it comes sooner in a fast heart
            late = late * torch.sqrt(period / 0.8)
        shape = torch.exp(-(((time - beat - late) / spread) ** 2) / 2).sum(1)
        sign = torch.where(inverted & (name == "T"), -1.0, 1.0)
        dipole += sign[..., None] * torch.tensor(moment)[None, :, None] * shape[:, None]
    c, s = torch.cos(turn), torch.sin(turn)
    x, y, z = dipole.unbind(1)
    turned = torch.stack([c[:, None] * x - s[:, None] * y, s[:, None] * x + c[:, None] * y, z], dim=1)
    return 4 * torch.einsum("ij,bjl->bil", _ELECTRODES, strength[..., None] * turned), kind


class Twelve(nn.Module):
    """`leads [B, 8, L] -> twelve [B, 12, L]`: III = II - I, aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2."""

    def forward(self, leads: Float[Tensor, "b 8 l"]) -> Float[Tensor, "b 12 l"]:
        one, two = leads[:, 0:1], leads[:, 1:2]
        limbs = [two - one, -(one + two) / 2, one - two / 2, two - one / 2]
        return torch.cat([leads[:, :2], *limbs, leads[:, 2:]], dim=1)


class Velocity(nn.Module):
    """`(x [B, 8, 128], t [B], kind [B]) -> e - x0`, kind 3 for any."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet1d(len(LEADS), labels=len(KINDS))

    def forward(self, x: Float[Tensor, "b 8 128"], t: Float[Tensor, " b"], kind: Int[Tensor, " b"]) -> Tensor:
        return self.net(x, t, kind)


def trained(steps: int) -> Velocity:
    """By the rectified flow's loss |u - (e - x0)|^2 at uniform times; one record in ten is told no kind."""
    torch.manual_seed(0)

    def loss(network: Velocity, generator: torch.Generator) -> Tensor:
        x0, kind = records(32, generator)
        e, t = torch.randn(x0.shape, generator=generator), torch.rand(len(x0), generator=generator)
        told = torch.where(torch.rand(len(x0), generator=generator) < 0.1, NO_KIND, kind)
        at = t[:, None, None]
        return F.mse_loss(network((1 - at) * x0 + at * e, t, told), e - x0)

    return fitted(Velocity(), loss, steps=steps, peak=2e-3, name="ecg")


def outside(leads: Float[Tensor, "n 8 l"]) -> float:
    """Share of the power of records that lies outside the three dimensions which a dipole spans."""
    basis, _ = torch.linalg.qr(_ELECTRODES.to(torch.float64))
    x = leads.to(torch.float64)
    inside = torch.einsum("ik,jk,bjl->bil", basis, basis, x)
    return float(((x - inside) ** 2).sum() / (x**2).sum())


def spectrum(leads: Float[Tensor, "n 8 l"]) -> Float[Tensor, "8 k"]:
    """Mean power by frequency of each lead."""
    return (torch.fft.rfft(leads.to(torch.float64), dim=-1).abs() ** 2).mean(0)


def spectral_distance(a: Tensor, b: Tensor) -> float:
    """Mean |log ratio| of two sets' spectra below 20 Hz."""
    below = int(20 * LENGTH / RATE)
    return float((spectrum(a)[:, 1:below] / spectrum(b)[:, 1:below]).log().abs().mean())


def rate_of(leads: Float[Tensor, "n 8 l"]) -> float:
    """Mean spacing of R waves in seconds, by the largest autocorrelation of lead II's slope from 0.5 to 1.15 s on."""
    slope = leads[:, 1].to(torch.float64).diff(dim=-1)
    spectrum_ = torch.fft.rfft(slope, n=2 * LENGTH).abs() ** 2
    lags = torch.fft.irfft(spectrum_)[:, int(0.5 * RATE) : math.ceil(1.15 * RATE)]
    return float((lags.argmax(1) + int(0.5 * RATE)).double().mean() / RATE)


def told(leads: Float[Tensor, "n 8 l"], kind: Int[Tensor, " n"]) -> float:
    """Share of records with the T wave of their kind, normal up and inverted down, in lead II 0.2 to 0.32 s after the
    highest R wave; a wide QRS is left out."""
    two = leads[:, 1].to(torch.float64)
    top = two[:, 8 : -int(0.35 * RATE)].argmax(1) + 8
    after = torch.arange(int(0.2 * RATE), int(0.32 * RATE))
    wave = two.gather(1, top[:, None] + after).mean(1) - two.median(dim=1).values
    up, down = (kind == 0) & (wave > 0), (kind == 1) & (wave < 0)
    return float((up | down).sum() / (kind < 2).sum())


CARD = Card(
    name="ecg",
    path={"kind": "rectified_flow"},
    prediction="velocity",
    event_shape=(len(LEADS), LENGTH),
    output="u",
    conditions={"kind": Condition(dtype="int64", null=NO_KIND)},
    defaults=Defaults(solver="euler", steps=25),
)
TWELVE_CARD = Card(name="ecg.twelve")


def build(repository: Path, effort: float) -> None:
    x, kind = records(16, torch.Generator().manual_seed(1))
    export_model(
        trained(round(effort * STEPS)), repository / "ecg", CARD,
        examples={"x": x, "t": torch.linspace(0, 1, 16), "kind": kind}, outputs=["u"],
    )  # fmt: skip
    export_model(
        Twelve(), repository / "ecg.twelve", TWELVE_CARD, examples={"leads": x}, outputs=["twelve"]
    )  # fmt: skip


def check(repository: Path) -> list[Figure]:
    """Samples at 10 and 25 evaluations beside the same at 200, and beside fresh records."""
    net = network(repository, "ecg")
    kind = torch.arange(96) % len(KINDS)
    drawn = {steps: samples(net, 96, solver="euler", steps=steps, kind=kind) for steps in (10, 25, 200)}
    generator = torch.Generator().manual_seed(2)
    true, _ = records(96, generator)
    session = open_session(repository / "ecg.twelve" / "1" / "model.onnx", threads=1)
    twelve = torch.from_numpy(session.run(None, {"leads": drawn[25].numpy()})[0])
    lead = dict(zip(TWELVE, twelve.unbind(1), strict=True))
    return [
        at_most("III - (II - I), largest", (lead["III"] - (lead["II"] - lead["I"])).abs().max(), 0),
        at_most("aVR + aVL + aVF, largest", (lead["aVR"] + lead["aVL"] + lead["aVF"]).abs().max(), 1e-5),
        at_most("power outside the dipole's three dimensions, 25 evaluations", outside(drawn[25]), 0.02),
        at_least("share of T waves as their kind says", told(drawn[25], kind), 0.9),
        at_most("spectral distance to records, 25 evaluations", spectral_distance(drawn[25], true), 0.5),
        at_most("spectral distance, 25 to 200 evaluations", spectral_distance(drawn[25], drawn[200]), 0.3),
        at_most("rms distance of a sample at 25 from itself at 200 evaluations, relative",
                (drawn[25] - drawn[200]).norm() / drawn[200].norm(), 0.35),
        at_most("seconds from beat to beat, samples less records", abs(rate_of(drawn[25]) - rate_of(true)), 0.08),
    ]  # fmt: skip


RECIPE = Recipe(
    name="ecg",
    paper="FlowECG: rectified flow for 12-lead ECG, 10 to 25 evaluations instead of 200",
    replaced="S4 layers by dilated convolutions; PTB-XL by synthetic dipole records of three kinds, 2 s at 64 Hz",
    models=("ecg", "ecg.twelve"),
    build=build,
    check=check,
    trained=True,
)
