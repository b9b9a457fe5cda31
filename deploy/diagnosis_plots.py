"""A diagnosis as one page of plots, quantities against the noise level sigma / alpha."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from deploy.diagnosis import Diagnosis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, BLUE, RED, GREY = "#222222", "#33608c", "#b0513f", "#9a9a9a"
NOISE = r"noise level $\sigma\,/\,\alpha$"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def write(diagnosis: Diagnosis, file: Path) -> None:
    """Six panels as a PNG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 6.6), layout="constrained")
        panels = figure.subplots(2, 3)
        draw = (_fokker_planck, _asymmetry, _loops, _gauge, _denoising, _spectrum)
        for axes, panel in zip(panels.flat, draw, strict=True):
            panel(diagnosis, axes)
        figure.suptitle(
            f"{diagnosis.model}, version {diagnosis.version}: {diagnosis.rows} network rows, seed {diagnosis.seed}",
            x=0.01, ha="left", fontsize=11,
        )  # fmt: skip
        figure.savefig(file, dpi=130)


def _against_noise(axes: "Axes", title: str, label: str, log: bool = False) -> None:
    axes.set(title=title, xscale="log", xlabel=NOISE, ylabel=label)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _noise(diagnosis: Diagnosis) -> list[float]:
    return [level.noise for level in diagnosis.levels]


def _fokker_planck(diagnosis: Diagnosis, axes: "Axes") -> None:
    found = [level.fokker_planck for level in diagnosis.levels]
    axes.fill_between(_noise(diagnosis), [each.floor for each in found], color=GREY, alpha=0.3, lw=0, label="floor")
    axes.plot(_noise(diagnosis), [each.residual for each in found], "o-", color=BLUE, label="residual")
    _against_noise(axes, "Fokker-Planck residual", r"$|R|\,/\,|S|$")


def _asymmetry(diagnosis: Diagnosis, axes: "Axes") -> None:
    found = [level.asymmetry for level in diagnosis.levels]
    axes.plot(_noise(diagnosis), [each.denoiser for each in found], "s-", color=RED, label="of the denoiser")
    axes.plot(_noise(diagnosis), [each.score for each in found], "o-", color=BLUE, label="of the score")
    _against_noise(axes, "Asymmetry of the Jacobian", r"$|J - J^T|\,/\,|J|$")


def _loops(diagnosis: Diagnosis, axes: "Axes") -> None:
    found = [(level.noise, level.loops.circulation) for level in diagnosis.levels if level.loops is not None]
    if found:
        axes.plot(*zip(*found, strict=True), "o-", color=BLUE)
        _against_noise(axes, "Integral of the score around circles", "nats")
    else:
        _nothing(axes, "Integral of the score around circles", "no circles in one dimension")


def _gauge(diagnosis: Diagnosis, axes: "Axes") -> None:
    found = [level.gauge for level in diagnosis.levels]
    axes.fill_between(_noise(diagnosis), [each.floor for each in found], color=GREY, alpha=0.3, lw=0, label="floor")
    strain, rotation = (
        [value or math.nan for value in row] for row in zip(*((e.strain, e.rotation) for e in found), strict=True)
    )
    axes.plot(_noise(diagnosis), strain, "s-", color=RED, label="strain, which changes the density")
    axes.plot(_noise(diagnosis), rotation, "o-", color=BLUE, label="rotation, which does not")
    _against_noise(axes, "Linear error of the score (0 is not drawn)", "share of the score", log=True)


def _denoising(diagnosis: Diagnosis, axes: "Axes") -> None:
    error = diagnosis.kinetic.error
    noise = [math.exp(-level) for level in error.log_snr]
    axes.plot(noise, [level**2 for level in noise], "--", color=GREY, label="of the noised data themselves")
    axes.plot(noise, error.mse, "o-", color=BLUE, label="of the model")
    _against_noise(axes, "Denoising error", r"$E|x_0 - D|^2$ per dimension", log=True)
    axes.set_ylim(min(error.mse) / 2, max(error.mse) * 5)


def _spectrum(diagnosis: Diagnosis, axes: "Axes") -> None:
    title = "Intrinsic dimension"
    if not diagnosis.places:
        _nothing(axes, title, "too few rows: two for each dimension, place and level")
        return
    for (noise, found), colour in zip(diagnosis.places, (BLUE, RED), strict=True):
        count = found.spectrum.shape[1]
        for row, spectrum in enumerate(found.spectrum.tolist()):
            label = rf"noise level {noise:.2g}" if row == 0 else None
            axes.plot(range(count, 0, -1), spectrum, "." if count < 20 else "-", color=colour, lw=1, label=label)
        for dimension in found.dimension.tolist():
            axes.axvline(dimension, color=colour, lw=0.7, ls=":")
    axes.set(title=title, xlabel="singular value, from the smallest", ylabel="share of noise recognised", ylim=0)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.legend()


def _nothing(axes: "Axes", title: str, why: str) -> None:
    axes.set(title=title, xticks=[], yticks=[])
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, color=GREY)
