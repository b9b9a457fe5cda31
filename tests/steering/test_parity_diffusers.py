"""Parity with diffusers' schedulers on their own grids, and a proof of every difference that is meant.

A scheduler is asked for its noise levels; a plan is compiled with its nodes there, and both draw from the same first
state with the same network and the same noise. What differs on purpose:

- The last level. Most schedulers end at sigma = 0, where the sample is D itself. A path ends at sigma_min > 0, and the
  schedulers are set to end there, with none of the lower orders that they take for their last steps.
- DPM-Solver-3 and DPM-Solver++(3S). The paper has one formula for the inner node v and another for t; diffusers has
  both, and takes the one or the other for v and t alike.
- DPM-Solver++(3M). diffusers has half of the second derivative, and so order 2: that is `dpmpp_3m_compat`.
- DEIS. diffusers interpolates eps in log rho, the paper in t (`deis_tab*`) or rho (`deis_rhoab*`). Theirs is a program
  here (`searched`), and so is their multistep DPM-Solver-2 of the kind "heun".
"""

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

import steering
from steering import paths
from steering.numerics.noise import Draw, Noise
from steering.paths import Path
from steering.plans.plan import Node, Plan
from steering.plans.program import Choice, Program
from steering.problems import GaussianMixture

from .test_solvers import slopes

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

diffusers: Any = importlib.import_module("diffusers")  # its classes are made on demand, out of a type checker's sight

Network = Callable[[Tensor, Tensor], Tensor]

LAW = GaussianMixture.random(dimension=2, components=3, seed=3)
SAMPLES, SEED = 32, 5
NOISE = Noise(SEED, range(SAMPLES))


@dataclass(frozen=True)
class Space:
    """What a family of schedulers works with.

    Attributes:
        arguments: of `steering.plan`, for the network.
        level: what the scheduler calls sigma.
        unit: of its states: they are x / unit.
    """

    path: Path
    arguments: Mapping[str, Any]
    network: Network
    level: Callable[[Node], float] = lambda node: node.rho
    unit: Callable[[Node], float] = lambda node: 1.0

    def times(self, rho: Tensor) -> list[float]:
        """A grid at these levels of rho = sigma / alpha, ended by the path's own end."""
        path = self.path
        inner = path.time_of_log_snr(-torch.log(rho.to(torch.float64))).clamp(path.t_min, path.t_max)
        return [*inner.tolist(), path.t_min]

    def plan(self, solver: str, times: Sequence[float], **options: Any) -> Plan:
        steps = len(times) - 1
        return steering.plan(solver, path=self.path, steps=steps, grid=times, **self.arguments, **options)

    def start(self, plan: Plan) -> Tensor:
        g = torch.Generator().manual_seed(SEED)
        return plan.nodes[0].sigma * torch.randn(SAMPLES, 2, generator=g, dtype=torch.float64)


BETAS: Mapping[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
DISCRETE = paths.vp_discrete(alpha_bars=diffusers.EulerDiscreteScheduler(**BETAS).alphas_cumprod.tolist())
EPS = {"prediction": "eps"}, LAW.network(DISCRETE, "eps")
VP = Space(DISCRETE, *EPS)
VE = Space(DISCRETE, *EPS, unit=lambda node: node.alpha)
TRIG = Space(paths.trig_flow(), {"prediction": "v"}, LAW.network(paths.trig_flow(), "v"))
LINE = paths.rectified_flow(t_min=5e-4)
FLOW = Space(LINE, {"prediction": "velocity"}, LAW.network(LINE, "velocity"), level=lambda node: node.sigma)

SIGMA_DATA = 0.5
EDM_PATH = paths.edm(sigma_min=1e-3)


def raw(scaled: Tensor, t: Tensor) -> Tensor:
    """F of the exact D(x) = c_skip x + c_out F(c_in x) (Karras et al. 2022, arXiv:2206.00364, table 1)."""
    sigma = t[:, None]
    norm = torch.sqrt(sigma**2 + SIGMA_DATA**2)
    x = scaled * norm
    return (LAW.network(EDM_PATH)(x, t) - SIGMA_DATA**2 / norm**2 * x) / (sigma * SIGMA_DATA / norm)


EDM = Space(EDM_PATH, {"prediction": "x0", "preconditioning": "edm", "sigma_data": SIGMA_DATA}, raw)


@dataclass(frozen=True)
class Case:
    solver: str
    scheduler: Callable[[], Any]
    space: Space = VP
    options: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 1  # per step, of a single-step method

    def __str__(self) -> str:
        with warnings.catch_warnings(action="ignore"):
            kind = type(self.scheduler()).__name__
        told = [f"{key}={value}" for key, value in self.options.items() if key != "program"]
        return "-".join([self.solver, kind, *told])


SINGLE = diffusers.DPMSolverSinglestepScheduler


def dpm(
    order: int, algorithm: str = "dpmsolver++", kind: Any = diffusers.DPMSolverMultistepScheduler, **other: Any
) -> Any:
    return kind(
        solver_order=order, algorithm_type=algorithm, final_sigmas_type="sigma_min", lower_order_final=False,
        **BETAS, **other,
    )  # fmt: skip


def printed(algorithm: str) -> Any:
    """The third order as the papers combine its formulas: that called heun here for v, and midpoint for t."""
    scheduler = dpm(3, algorithm, SINGLE)
    whole = scheduler.step

    def step(*arguments: Any, **options: Any) -> Any:
        at_v = (scheduler.step_index or 0) % 3 == 1
        scheduler.register_to_config(solver_type="heun" if at_v else "midpoint")
        return whole(*arguments, **options)

    scheduler.step = step
    return scheduler


def unipc(order: int, bh: int) -> Any:
    return diffusers.UniPCMultistepScheduler(
        solver_order=order, solver_type=f"bh{bh}", final_sigmas_type="sigma_min", lower_order_final=False, **BETAS
    )


def deis(order: int) -> Any:
    return diffusers.DEISMultistepScheduler(solver_order=order, lower_order_final=False, **BETAS)


def ddim() -> Any:
    return diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing", **BETAS)


def trailing(kind: Any) -> Any:
    return kind(timestep_spacing="trailing", **BETAS)


def karras(**other: Any) -> Any:
    return diffusers.EDMDPMSolverMultistepScheduler(final_sigmas_type="sigma_min", lower_order_final=False, **other)


def log_rho(order: int) -> Program:
    """eps interpolated in log rho = -log-SNR; the grid is given apart."""
    return Program(tuple(i / 20 for i in range(21)), (Choice("noise", order, "log_snr"),) * 20)


CASES = [
    *(Case("ddim", ddim, options={"eta": eta}, step={"eta": eta}) for eta in (0.0, 0.5, 1.0)),
    Case("euler", lambda: trailing(diffusers.EulerDiscreteScheduler), VE),
    Case("euler", lambda: diffusers.EDMEulerScheduler(), EDM),
    Case("euler_ancestral", lambda: trailing(diffusers.EulerAncestralDiscreteScheduler), VE),
    Case("heun", lambda: trailing(diffusers.HeunDiscreteScheduler), VE),
    Case("dpm_solver_1", lambda: dpm(1, "dpmsolver")),
    Case("dpm_solver_1", lambda: dpm(1, "dpmsolver", SINGLE)),
    Case("dpm_solver_2", lambda: dpm(2, "dpmsolver", SINGLE), rows=2),
    Case("dpm_solver_3", lambda: printed("dpmsolver"), rows=3),
    Case("dpmpp_2s", lambda: dpm(2, kind=SINGLE), rows=2),
    Case("dpmpp_3s", lambda: printed("dpmsolver++"), rows=3),
    Case("dpmpp_2m", lambda: dpm(2)),
    Case("dpmpp_2m", lambda: karras(solver_order=2), EDM),
    Case("dpmpp_3m_compat", lambda: dpm(3)),
    Case("dpmpp_3m_compat", lambda: karras(solver_order=3), EDM),
    Case("sde_dpmpp_1", lambda: dpm(1, "sde-dpmsolver++")),
    Case("sde_dpmpp_2m", lambda: dpm(2, "sde-dpmsolver++")),
    Case("sde_dpmpp_2m", lambda: karras(solver_order=2, algorithm_type="sde-dpmsolver++"), EDM),
    *(Case(f"unipc_{p}", partial(unipc, p, bh), options={"bh": bh}) for p in (1, 2, 3) for bh in (1, 2)),
    *(Case(name, lambda: deis(1)) for name in ("deis_tab0", "deis_rhoab0")),
    Case("searched", lambda: deis(2), options={"program": log_rho(2)}),
    Case("searched", lambda: deis(3), options={"program": log_rho(3)}),
    Case("searched", lambda: dpm(2, "dpmsolver", solver_type="heun"), options={"program": log_rho(2)}),
    Case("ipndm_4", diffusers.IPNDMScheduler, TRIG),
    Case("flow_euler", diffusers.FlowMatchEulerDiscreteScheduler, FLOW),
]  # fmt: skip


def own_times(scheduler: Any, space: Space, evaluations: int, rows: int) -> list[float]:
    """The scheduler's own grid: its levels but the last, which is the path's end."""
    scheduler.set_timesteps(evaluations)
    if isinstance(scheduler, diffusers.DDIMScheduler):
        alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps].to(torch.float64)
        return space.times(torch.sqrt(1 / alpha_bar - 1))
    if isinstance(scheduler, diffusers.IPNDMScheduler):
        return space.times(scheduler.betas[:-1] / scheduler.alphas[:-1])
    levels = torch.unique_consecutive(scheduler.sigmas)[:-1:rows]
    return space.times(levels / (1 - levels) if space is FLOW else levels)


def set_levels(scheduler: Any, plan: Plan, space: Space) -> None:
    """Make the scheduler evaluate where the plan does, and end where it does; in float64."""
    nodes = [*(stage.update.at for stage in plan.stages), plan.nodes[-1]]
    if isinstance(scheduler, diffusers.IPNDMScheduler):
        scheduler.alphas, scheduler.betas = torch.tensor([[n.alpha, n.sigma] for n in nodes], dtype=torch.float64).T
    elif not isinstance(scheduler, diffusers.DDIMScheduler):
        scheduler.sigmas = torch.tensor([space.level(node) for node in nodes], dtype=torch.float64)
        scheduler.set_begin_index(0)


def theirs(
    scheduler: Any, plan: Plan, space: Space, monkeypatch: pytest.MonkeyPatch, step: Mapping[str, Any] | None = None
) -> Tensor:
    """The scheduler's samples at the end of the plan, with the plan's first state and noise."""
    drawn = iter(range(plan.rows))

    def draw(shape: Sequence[int], **_: Any) -> Tensor:
        return NOISE.normal(next(drawn), Draw.SOLVER, shape[1:])

    monkeypatch.setattr(importlib.import_module(type(scheduler).__module__), "randn_tensor", draw, raising=False)
    first, last = plan.nodes[0], plan.nodes[-1]
    x = space.start(plan) / space.unit(first)
    for time, stage in zip(scheduler.timesteps, plan.stages, strict=True):
        scaled = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        output = space.network(scaled, torch.full((SAMPLES,), stage.t, dtype=torch.float64))
        x = scheduler.step(output, time, x, return_dict=False, **(step or {}))[0]
    return x * space.unit(last)


def ours(plan: Plan, space: Space) -> Tensor:
    return steering.run(
        plan, space.network, (SAMPLES, 2), SEED, x_init=space.start(plan), dtype=torch.float64, tile=None
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_samples_agree(case: Case, monkeypatch: pytest.MonkeyPatch):
    scheduler, space = case.scheduler(), case.space
    times = own_times(scheduler, space, 20 if case.rows == 1 else 24, case.rows)
    plan = space.plan(case.solver, times, **case.options)
    set_levels(scheduler, plan, space)
    assert torch.allclose(
        theirs(scheduler, plan, space, monkeypatch, case.step), ours(plan, space), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("solver", "before", "scheduler", "space"),
    [
        ("euler", "euler", lambda: trailing(diffusers.EulerDiscreteScheduler), VE),
        ("heun", "rho_heun", lambda: trailing(diffusers.HeunDiscreteScheduler), VE),
        ("dpmpp_2m", "dpmpp_2m", lambda: diffusers.DPMSolverMultistepScheduler(solver_order=2, **BETAS), VP),
    ],
    ids=["euler", "heun", "dpmpp_2m"],
)
def test_a_last_level_of_zero_makes_the_denoised_estimate(
    solver: str, before: str, scheduler: Callable[[], Any], space: Space, monkeypatch: pytest.MonkeyPatch
):
    """What a scheduler does with its sigma = 0: D of the sample one level higher, to which Heun's steps are whole."""
    made = scheduler()
    times = own_times(made, space, 20, 1)
    plan, shorter = space.plan(solver, times), space.plan(before, times[:-1])
    set_levels(made, plan, space)
    made.sigmas[-1] = 0
    x = ours(shorter, space)
    last = shorter.nodes[-1]
    eps = space.network(x, torch.full((SAMPLES,), last.t, dtype=torch.float64))
    denoised = (x - last.sigma * eps) / last.alpha
    reached = theirs(made, plan, space, monkeypatch) / space.unit(plan.nodes[-1])
    assert torch.allclose(reached, denoised, rtol=1e-5, atol=1e-5)


@cache
def reference() -> Tensor:
    return ours(steering.plan("rho_rk4", path=DISCRETE, steps=500, prediction="eps"), VP)


def errors_by_steps(
    scheduler: Callable[[], Any] | None, solver: str, steps: Sequence[int], monkeypatch: pytest.MonkeyPatch, grid: str
) -> list[float]:
    """Distances from a fine run: the solver's, or those of a scheduler that evaluates where it does."""
    exact, found = reference(), []
    for n in steps:
        plan = steering.plan(solver, path=DISCRETE, steps=n, grid=grid, prediction="eps")
        if scheduler is None:
            x = ours(plan, VP)
        else:
            made = scheduler()
            made.set_timesteps(plan.rows)
            set_levels(made, plan, VP)
            x = theirs(made, plan, VP, monkeypatch)
        found.append(float((x - exact).norm()))
    return found


def test_their_third_multistep_order_is_no_third(monkeypatch: pytest.MonkeyPatch):
    """Half of D'' is missing; solvers/test_dpmpp_3m.py shows it in each step, and order 2 in the limit."""
    steps = (50, 100, 200)
    half = errors_by_steps(lambda: dpm(3), "dpmpp_3m", steps, monkeypatch, "karras")
    whole = errors_by_steps(None, "dpmpp_3m", steps, monkeypatch, "karras")
    assert max(slopes(half)) < 2.5
    assert min(slopes(whole)) > 3
    assert whole[-1] < half[-1] / 3


@pytest.mark.parametrize(("algorithm", "solver"), [("dpmsolver", "dpm_solver_3"), ("dpmsolver++", "dpmpp_3s")])
@pytest.mark.parametrize("kind", ["midpoint", "heun"])
def test_their_third_singlestep_order_is_another_of_the_same_order(
    algorithm: str, solver: str, kind: str, monkeypatch: pytest.MonkeyPatch
):
    steps = (40, 80, 160)
    other = errors_by_steps(lambda: dpm(3, algorithm, SINGLE, solver_type=kind), solver, steps, monkeypatch, "logsnr")
    paper = errors_by_steps(None, solver, steps, monkeypatch, "logsnr")
    assert other[0] != pytest.approx(paper[0], rel=0.01)
    assert slopes(other) == pytest.approx([3, 3], abs=0.3)
    assert slopes(paper) == pytest.approx([3, 3], abs=0.3)
