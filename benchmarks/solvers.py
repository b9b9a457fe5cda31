"""Error against network rows for every deterministic solver, beside diffusers' schedulers and the searched programs.

    make bench ARGS=solvers
    make bench ARGS="solvers --few"      # the spread of N(1, 1) in 1 to 10 steps alone

On two random mixtures (exact networks, float64) and on the demo's digit model (ONNX Runtime, float32): the RMSE of end
points to a fine reference from the same noise. A solver's figure is that of its best named grid; diffusers' schedulers
run on the same path (`trained_betas`), with their own spacing. Prints a table per problem, the aims, and how long
plans take to compile and to run; draws docs/solvers.png. And, for every table on every path in 1 to 10 steps, the
standard deviation that it gives to data N(1, 1), in closed form.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import steering
from serving.models.offline import open_sampler, solve
from steering.plans import grids
from steering.plans.compile import compile_plan, deterministic
from steering.plans.plan import End
from steering.problems import GaussianMixture
from steering.sampling.sampler import evaluate
from steering.search import search

ROOT = Path(__file__).resolve().parents[1]
ROWS = (3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
FEW = (5, 8, 10)
GRIDS = tuple(grids.GRIDS)
REFERENCE = ("trig_adams_3", 1000)
TRAINED = 1000
FIXED = sorted(deterministic(steering.solvers))
SHOWN = {"ddim": "C7", "dpmpp_2m": "C0", "unipc_2": "C1", "deis_tab3": "C2", "trig_adams_3": "C3"}


@dataclass(frozen=True)
class Problem:
    """What is sampled: `network(x, t)` with its path and prediction, from the first states x_T [n, *event]."""

    name: str
    path: steering.Path
    prediction: str
    dtype: torch.dtype
    start: Tensor
    solve: Callable[[Any], Any]
    programs: Mapping[int, steering.Program]

    def plan(self, solver: str, steps: int, grid: str | None = None, **other: Any) -> steering.Plan:
        return steering.plan(solver, path=self.path, steps=steps, prediction=self.prediction, grid=grid, **other)

    def end(self, plan: steering.Plan) -> Tensor:
        """End points [n, *event] of a plan."""
        problem = steering.Problem(plan=plan, event=tuple(self.start.shape[1:]), dtype=self.dtype)
        noise = steering.Noise(0, range(len(self.start)))
        return self.solve(steering.sample(problem, noise, x_init=self.start))[0]

    def denoised(self, x: Tensor, t: float) -> Tensor:
        problem = steering.Problem(plan=self.plan("ddim", 1), event=tuple(x.shape[1:]), dtype=self.dtype)
        return self.solve(evaluate(problem, problem.plan.denoise(t), x))


def mixture(dimension: int, seed: int) -> Problem:
    law, path = GaussianMixture.random(dimension, 5, seed), steering.paths.vp_cosine()
    network = law.network(path)
    g = torch.Generator().manual_seed(seed)
    start = float(path.sigma(path.t_max)) * torch.randn(256, dimension, generator=g, dtype=torch.float64)
    return Problem(
        f"mixture, {dimension} dimensions, seed {seed}", path, "x0", torch.float64, start,
        lambda generator: steering.solve(generator, network, tile=None), {},
    )  # fmt: skip


def digits(samples: int, seed: int) -> Problem:
    model = open_sampler(ROOT / "deploy" / "models", "digits")
    g = torch.Generator().manual_seed(seed)
    start = float(model.path.sigma(model.path.t_max)) * torch.randn(samples, *model.card.event_shape, generator=g)
    return Problem(
        "digits", model.path, model.card.prediction or "", torch.float32, start,
        lambda generator: solve(generator, model), model.programs,
    )  # fmt: skip


def rmse(x: Tensor, y: Tensor) -> float:
    return float((x - y).to(torch.float64).square().mean().sqrt())


def steps_for(solver: str, rows: int) -> int | None:
    """How many steps take exactly that many rows; None if no number does."""
    entry = steering.solvers[solver]
    guess = max(1, round(rows / entry.rows_per_step))
    for steps in (guess, guess + 1, guess - 1):
        if steps >= 1 and steering.plan(solver, path=steering.paths.edm(), steps=steps, prediction="x0").rows == rows:
            return steps
    return None


Curve = dict[int, tuple[float, str]]
"""Rows -> (error, what it was reached with)."""


def fixed(problem: Problem, solver: str, rows: tuple[int, ...], reference: Tensor) -> Curve:
    curve = {}
    for budget in rows:
        if (steps := steps_for(solver, budget)) is None:
            continue
        curve[budget] = min((rmse(problem.end(problem.plan(solver, steps, grid)), reference), grid) for grid in GRIDS)
    return curve


def searched(problem: Problem, seed: int, reference: Tensor) -> Curve:
    """The searched programs' errors: those kept with the model, or found here from other noise than is judged by."""
    programs = problem.programs
    if not programs:
        whole = steering.Problem(
            plan=problem.plan("ddim", 1), event=tuple(problem.start.shape[1:]), dtype=problem.dtype
        )
        found = problem.solve(search(whole, FEW, seed=seed + 100))
        programs = {each.rows: each.program for each in found}
    return {
        rows: (rmse(problem.end(problem.plan("searched", rows, program=program)), reference), "its own")
        for rows, program in programs.items()
    }


def diffusers_curves(problem: Problem, rows: tuple[int, ...], reference: Tensor) -> dict[str, Curve]:
    """The same end points by diffusers' schedulers, told the path by its betas at TRAINED times."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_dpmsolver_singlestep import DPMSolverSinglestepScheduler
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
    from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    path = problem.path
    times = torch.linspace(path.t_min, path.t_max, TRAINED, dtype=torch.float64)
    kept = path.alpha(times) ** 2
    betas = 1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    common: dict[str, Any] = {"trained_betas": betas.numpy(), "num_train_timesteps": TRAINED}
    least: dict[str, Any] = {"final_sigmas_type": "sigma_min"}
    makers: dict[str, tuple[Callable[..., Any], dict[str, Any], bool]] = {
        "DDIM": (
            DDIMScheduler,
            {"set_alpha_to_one": False, "timestep_spacing": "trailing", "clip_sample": False},
            False,
        ),
        "Euler": (EulerDiscreteScheduler, {}, True),
        "Heun": (HeunDiscreteScheduler, {}, True),
        "DPM-Solver++ 2M": (DPMSolverMultistepScheduler, {"solver_order": 2, **least}, False),
        "DPM-Solver++ 3M": (DPMSolverMultistepScheduler, {"solver_order": 3, **least}, False),
        "DPM-Solver++ 2S": (DPMSolverSinglestepScheduler, {"solver_order": 2, **least}, False),
        "DEIS 2": (DEISMultistepScheduler, {"solver_order": 2}, False),
        "DEIS 3": (DEISMultistepScheduler, {"solver_order": 3}, False),
        "UniPC 2": (UniPCMultistepScheduler, {"solver_order": 2, **least}, False),
        "UniPC 3": (UniPCMultistepScheduler, {"solver_order": 3, **least}, False),
    }
    clean = problem.denoised(reference, path.t_min)  # what those reach that step on to sigma = 0
    curves: dict[str, Curve] = {}
    for name, (maker, arguments, to_zero) in makers.items():
        curve: Curve = {}
        for budget in rows:
            steps = (budget + 1) // 2 if name == "Heun" else budget
            if name == "Heun" and budget % 2 == 0:
                continue
            scheduler = maker(**common, **arguments, beta_schedule="linear")
            scheduler.set_timesteps(steps)
            x = problem.start
            if to_zero:  # states of these are x / alpha
                x = x / float(path.alpha(path.t_max))
            for timestep in scheduler.timesteps:
                t = path.t_min + float(timestep) / (TRAINED - 1) * (path.t_max - path.t_min)
                state = scheduler.scale_model_input(x, timestep)
                alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
                eps = (state - alpha * problem.denoised(state.to(problem.dtype), t)) / sigma
                x = scheduler.step(eps, timestep, x).prev_sample
            curve[budget] = (rmse(x, clean if to_zero else reference), "its own")
        curves[name] = curve
    return curves


PATHS: Mapping[str, steering.Path] = {
    "vp_cosine": steering.paths.vp_cosine(),
    "vp_linear": steering.paths.vp_linear(),
    "vp_betas": steering.paths.vp_betas(),
    "vp_betas, end=denoise": steering.paths.vp_betas(),
    "vp_betas, zero terminal SNR": steering.paths.vp_betas(zero_terminal_snr=True, t_max=1.0),
    "sub_vp": steering.paths.sub_vp(),
    "ve": steering.paths.ve(),
    "edm": steering.paths.edm(),
    "edm from 0": steering.paths.edm().between(0, 80),
    "rectified_flow": steering.paths.rectified_flow(),
    "rectified_flow 0..1": steering.paths.rectified_flow(t_min=0, t_max=1),
    "trig_flow": steering.paths.trig_flow(),
    "one_sided": steering.paths.one_sided(coefficients="sbdm"),
    "mean_reverting": steering.paths.mean_reverting(),
}


def few() -> None:
    """Standard deviations of N(1, 1) at the end, over the right ones; with the grid if it is not the solver's own."""
    steps = range(1, 11)
    for title, path in PATHS.items():
        print(
            f"\n{title}: the spread of N(1, 1) by steps, on the default grid\n{'':18}"
            + "".join(f"{n:>9}" for n in steps)
        )
        for name, solver in steering.solvers.items():
            if not solver.updates or solver.generates:
                continue
            row = ""
            for n in steps:
                end: End | None = "denoise" if title.endswith("denoise") else None
                plan = steering.plan(name, path=path, steps=n, prediction="v", end=end)
                other = "" if plan.grid == solver.default_grid else plan.grid[0]
                row += f"{plan.amplification:8.2f}{other or ' '}"
            print(f"{name:18}{row}", flush=True)
    print("\nbehind a figure: l logsnr, k karras, a angle, u uniform, s shifted(3) instead of the solver's own grid")


def overhead() -> None:
    """How long a 50-step plan takes to compile, and a stage's update beside reading its registers twice."""
    path = steering.paths.vp_cosine()
    print(
        "\nsolver              compile 50 steps (ms)   update / reading its registers twice, [16, 3, 256, 256] float32"
    )
    for name in FIXED:

        def fresh(name: str = name) -> steering.Plan:
            return compile_plan(steering.solvers, name, path=path, steps=50, prediction="x0")

        plan = fresh()
        stage = max(plan.stages, key=lambda each: len(each.update.A))
        registers = [torch.randn(16, 3, 256, 256) for _ in range(max(map(len, stage.update.A)))]
        denoised = torch.randn(16, 3, 256, 256)
        reading = median(lambda: [r.sum() for _ in range(2) for r in (*registers, denoised)])  # noqa: B023
        update = median(lambda: stage.advance(registers, denoised))  # noqa: B023
        print(f"{name:20}{median(fresh) * 1e3:12.2f}{update / reading:24.2f}")


def median(call: Callable[[], object], times: int = 9) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def table(title: str, curves: dict[str, Curve], rows: tuple[int, ...]) -> None:
    print(f"\n{title}\n{'':18}" + "".join(f"{r:>9}" for r in rows))
    for name, curve in curves.items():
        print(f"{name:18}" + "".join(f"{curve[r][0]:9.1e}" if r in curve else f"{'-':>9}" for r in rows), flush=True)


def best(curves: dict[str, Curve], rows: int) -> tuple[float, str]:
    return min((curve[rows][0], f"{name} on {curve[rows][1]}") for name, curve in curves.items() if rows in curve)


def draw(panels: list[tuple[str, dict[str, Curve], dict[str, Curve], Curve]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.8), layout="constrained")
    for axis, (title, ours, theirs, searched) in zip(axes, panels, strict=True):
        for name, curve in theirs.items():
            label = "diffusers" if name == next(iter(theirs)) else None
            axis.plot(list(curve), [e for e, _ in curve.values()], color="0.8", lw=1, label=label, zorder=1)
        for name, color in SHOWN.items():
            curve = ours[name]
            axis.plot(list(curve), [e for e, _ in curve.values()], color=color, marker="o", ms=3, lw=1.2, label=name)
        if searched:
            axis.plot(list(searched), [e for e, _ in searched.values()], "k*", ms=9, label="searched")
        axis.set(xscale="log", yscale="log", title=title, xlabel="network rows per sample")
        axis.set_xticks([3, 5, 10, 20, 50], ["3", "5", "10", "20", "50"], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("RMSE to the exact flow's end points")
    axes[0].legend(fontsize=7)
    figure.savefig(out, dpi=110)
    print(f"\ndrawn: {out}")


def main(
    seed: Annotated[int, typer.Option(help="Of the mixtures and of all noise.")] = 0,
    samples: Annotated[int, typer.Option(help="Digits per figure; 0 leaves the digit model out.")] = 16,
    out: Path = ROOT / "docs" / "solvers.png",
    only_few: Annotated[bool, typer.Option("--few", help="Only the spread of N(1, 1) in 1 to 10 steps.")] = False,
) -> None:
    """Print the tables and draw the plot."""
    torch.set_num_threads(2)
    if only_few:
        few()
        return
    panels = []
    problems = [mixture(2, seed), mixture(16, seed + 1)] + ([digits(samples, seed)] if samples else [])
    for problem in problems:
        rows = ROWS if problem.dtype == torch.float64 else (5, 8, 10, 20)
        reference = problem.end(problem.plan(*REFERENCE))
        ours = {name: fixed(problem, name, rows, reference) for name in FIXED}
        theirs = diffusers_curves(problem, rows, reference)
        table(f"{problem.name}: RMSE by network rows, each solver at its best grid", ours, rows)
        table("diffusers", theirs, rows)
        for r in (10, 20):
            error, which = best(ours, r)
            print(f"best of {r} rows: {error:.2e} ({which}), 1/{ours['ddim'][r][0] / error:.0f} of DDIM's")
        programs = searched(problem, seed, reference)
        for r, (error, _) in programs.items():
            fixed_error, which = best(ours, r)
            print(f"searched for {r} rows: {error:.2e}, {error / fixed_error:.2f} of the best fixed ({which})")
        panels.append((problem.name, ours, theirs, programs))
    draw(panels, out)
    overhead()
    few()


if __name__ == "__main__":
    typer.run(main)
