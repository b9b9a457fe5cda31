"""A picture of six models of the gallery, as docs/gallery.md shows it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.gallery import chromatograph, co2, ecg, flows, kovasznay, turbulence
from exporters.gallery.drawing import network, samples
from exporters.gallery.solving import Model
from exporters.network import open_session


def draw(repository: Path, file: Path) -> None:
    """Draw six panels, each with what is known of the model beside it where that can be seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(10.5, 5.2), layout="constrained")
    panels = (_beats, _flatness, _ridges, _breakthrough, _wake, _air)
    for panel, ax in zip(panels, axes.flat, strict=True):
        panel(repository, ax)
        ax.tick_params(labelsize=7)
        ax.title.set_fontsize(9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _beats(repository: Path, ax: Any) -> None:
    net = network(repository, "ecg")
    drawn = samples(net, 3, solver="euler", steps=25, seed=3, kind=torch.arange(3))
    for row, name in enumerate(ecg.KINDS):
        ax.plot(np.arange(ecg.LENGTH) / ecg.RATE, drawn[row, 1] / 4 - 1.6 * row, lw=1, label=name)
    ax.legend(fontsize=6, loc="upper right")
    ax.set(title="ecg: lead II of drawn records, mV", xlabel="s", yticks=[], ylim=(-3.6, 2.2))


def _flatness(repository: Path, ax: Any) -> None:
    drawn = samples(network(repository, "turbulence"), 384, solver="dpmpp_2m", steps=40)
    true = turbulence.trajectories(8000, torch.Generator().manual_seed(3))
    ax.semilogx(turbulence.LAGS, turbulence.flatness(true), "k-", lw=1, label="data")
    ax.semilogx(turbulence.LAGS, turbulence.flatness(drawn), "o", ms=4, label="samples")
    ax.axhline(3, ls=":", c="grey")
    ax.legend(fontsize=6)
    ax.set(title="turbulence: flatness by lag (Gaussian: 3)")


def _ridges(repository: Path, ax: Any) -> None:
    model = Model(repository, "double-gyre")
    x, y = torch.linspace(0.01, 1.99, 100), torch.linspace(0.01, 0.99, 50)
    grid = torch.cartesian_prod(x.double(), y.double())
    usual = {name: torch.tensor([value], dtype=torch.float64) for name, value in flows.USUAL.items()}
    field = flows.exponents(flows.gradients(model, grid, [0.0, 15.0], rtol=1e-7, atol=1e-9, **usual), 15)
    ax.imshow(field.reshape(100, 50).T, origin="lower", extent=(0, 2, 0, 1), cmap="magma")
    ax.set(title="double-gyre: Lyapunov exponents")


def _breakthrough(repository: Path, ax: Any) -> None:
    model, times = Model(repository, "chromatograph"), torch.linspace(0, 5, 60, dtype=torch.float64)
    gases = {"speed": [1.0, 1.0, 2.0], "attach": [0.0, 1.0, 8.0], "detach": [1.0, 1.0, 4.0]}
    rows = {name: torch.tensor(value, dtype=torch.float64) for name, value in gases.items()}
    solved = model.solve(torch.zeros(3, 2, chromatograph.CELLS, dtype=torch.float64), times, **rows).y[:, :, 0, -1]
    for row, gas in enumerate(zip(*gases.values(), strict=True)):
        ax.plot(times, solved[row], lw=1)
        some = times[4::6]
        ax.plot(some, chromatograph.breakthrough(some, *gas), "k.", ms=4)
    ax.set(title="chromatograph: gas at the end; dots are exact", xlabel="t")


def _wake(repository: Path, ax: Any) -> None:
    session = open_session(repository / "kovasznay" / "1" / "model.onnx", threads=1)
    x, y = np.linspace(kovasznay.LEFT, kovasznay.RIGHT, 60), np.linspace(kovasznay.LOW, kovasznay.HIGH, 80)
    at = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
    u, v, _ = session.run(["flow"], {"at": at})[0].reshape(80, 60, 3).transpose(2, 0, 1)
    ax.streamplot(x, y, u, v, density=0.9, linewidth=0.6, arrowsize=0.6, color=np.hypot(u, v), cmap="viridis")
    ax.set(title="kovasznay: flow behind a grid", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))


def _air(repository: Path, ax: Any) -> None:
    model, generator = Model(repository, "co2"), torch.Generator().manual_seed(5)
    m, (u, v) = co2.air(1, generator), co2.winds(1, generator)
    after = model.solve(m, [0.0, 40.0], conserve=co2.AREA, u=u, v=v).y[0, -1]
    true = m.double()
    for _ in range(40):
        true = co2.transported(true, u.double(), v.double())
    ax.imshow(after, cmap="YlOrBr", origin="lower")
    ax.contour(true[0], levels=6, colors="k", linewidths=0.5)
    ax.set(title="co2: after 40 steps; lines are the truth")
