"""A diffusers scheduler's own loop, and our plan of the same configuration, on the same network and noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

import steering
from exporters.diffusers.schedule import Schedule, schedule

EVENT = (1, 2, 4)
MEANS = (-0.9, 0.1, 0.8)
SPREADS = (0.08, 0.3, 0.15)
WEIGHTS = (0.5, 0.2, 0.3)


class Mixture:
    """A network in closed form: data of a Gaussian mixture in every coordinate, noise on any path.

    It is asked at what diffusers calls the timestep, and knows the levels of `levels`, a table over it or a formula.
    Between the trained steps the table is straight in log rho: what a network says there is anyone's guess, and both
    sides ask the same.
    """

    def __init__(self, prediction: str, level: "Level") -> None:
        self.prediction, self.level = prediction, level

    def __call__(self, x: Tensor, timestep: Tensor | float) -> Tensor:
        """The output [n, *EVENT] for states x at timesteps, one for all or [n]."""
        t = torch.as_tensor(timestep, dtype=torch.float64).reshape(-1, *(1 for _ in EVENT))
        alpha, sigma, scale = self.level(t)
        y = x.to(torch.float64) / scale
        parts = []
        for mean, spread, weight in zip(MEANS, SPREADS, WEIGHTS, strict=True):
            variance = alpha**2 * spread**2 + sigma**2
            off = y - alpha * mean
            log = torch.log(torch.as_tensor(weight)) - 0.5 * (torch.log(variance) + off**2 / variance)
            parts.append((log.expand(y.shape), mean + alpha * spread**2 / variance * off))
        shares = torch.softmax(torch.stack([log for log, _ in parts]), dim=0)
        denoised = (shares * torch.stack([d for _, d in parts])).sum(dim=0)
        return self._output(y, denoised, alpha, sigma).to(x.dtype)

    def _output(self, y: Tensor, denoised: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        eps = (y - alpha * denoised) / sigma
        match self.prediction:
            case "epsilon":
                return eps
            case "sample" | "original_sample":
                return denoised
            case "v_prediction":
                return alpha * eps - sigma * denoised
            case "flow_prediction":
                return eps - denoised
            case "edm":  # F of D = c_skip y + c_out F, at sigma_data .5
                norm = sigma**2 + 0.25
                return (denoised - 0.25 / norm * y) * norm.sqrt() / (0.5 * sigma)
            case "edm_v":
                norm = sigma**2 + 0.25
                return -(denoised - 0.25 / norm * y) * norm.sqrt() / (0.5 * sigma)
        raise ValueError(self.prediction)


class Level:
    """alpha, sigma and the scale of the network's input at a timestep."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError


@dataclass(frozen=True)
class TableLevel(Level):
    """Trained steps of alpha_bar, from step 0; beyond them the nearest."""

    alpha_bars: Tensor

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bars = self.alpha_bars.to(torch.float64).clamp(min=2.0**-24)
        log_rho = 0.5 * torch.log((1 - bars) / bars)
        t = t.clamp(0, len(bars) - 1)
        low = t.floor().long().clamp(max=len(bars) - 2)
        value = log_rho[low] + (t - low) * (log_rho[low + 1] - log_rho[low])
        alpha = 1 / torch.sqrt(1 + torch.exp(2 * value))
        return alpha, torch.exp(value) * alpha, torch.ones_like(t)


@dataclass(frozen=True)
class FlowLevel(Level):
    trained: int

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sigma = (t / self.trained).clamp(1e-7, 1)
        return 1 - sigma, sigma, torch.ones_like(t)


@dataclass(frozen=True)
class EdmLevel(Level):
    """sigma of c_noise, and input scaled by c_in."""

    sigma_data: float = 0.5

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sigma = torch.exp(4 * t)
        return torch.ones_like(t), sigma, 1 / torch.sqrt(sigma**2 + self.sigma_data**2)


@dataclass(frozen=True)
class ContinuousLevel(Level):
    """rho of log(rho) / 4, on a variance-preserving path."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rho = torch.exp(4 * t)
        alpha = 1 / torch.sqrt(1 + rho**2)
        return alpha, rho * alpha, torch.ones_like(t)


@dataclass(frozen=True)
class Compared:
    """Largest and root mean square difference of samples, in parts of their spread."""

    largest: float
    rms: float
    rows: int


def network_of(config: Mapping[str, Any], scheduler: Any) -> Mixture:
    name = config["_class_name"]
    prediction = scheduler.config.get("prediction_type", "flow_prediction")
    if name.startswith("EDM"):
        return Mixture("edm" if prediction == "epsilon" else "edm_v", EdmLevel())
    if name.startswith("FlowMatch") or scheduler.config.get("use_flow_sigmas"):
        return Mixture(prediction, FlowLevel(scheduler.config.num_train_timesteps))
    if scheduler.config.get("timestep_type") == "continuous" and prediction == "v_prediction":
        return Mixture(prediction, ContinuousLevel())
    return Mixture(prediction, TableLevel(scheduler.alphas_cumprod))


def theirs(config: Mapping[str, Any], steps: int, noise: Tensor, **told: Any) -> Tensor:
    """Samples of diffusers' loop, deterministic; it is `told` its arguments of set_timesteps."""
    scheduler = getattr(diffusers, config["_class_name"]).from_config(dict(config))
    network = network_of(config, scheduler)
    if told.pop("even", False):
        told["sigmas"] = torch.linspace(1, 1 / steps, steps, dtype=torch.float64).numpy()
    scheduler.set_timesteps(steps, **told)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    own = {"use_clipped_model_output": True} if config["_class_name"] == "DDIMScheduler" else {}
    if hasattr(scheduler, "set_begin_index"):  # else it looks for a timestep, of which there may be two
        scheduler.set_begin_index(0)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(scaled, t), t, x, **own).prev_sample
    return x


def plan_of(made: Schedule, steps: int) -> tuple[steering.Plan, steering.Path]:
    """The plan that a card with these defaults is sampled by, and its path."""
    assert made.defaults is not None
    assert made.defaults.solver is not None
    path = steering.paths.build(made.path, made.t_range)
    threshold = made.dynamic_threshold
    options: dict[str, Any] = dict(made.defaults.options or {})
    plan = steering.plan(
        made.defaults.solver, path=path, steps=steps, prediction=made.prediction, grid=made.defaults.grid,
        end=made.end, preconditioning=made.preconditioning, sigma_data=made.sigma_data,
        limit=steering.limits.build(made.clip, None if threshold is None else threshold.model_dump()),
        **options,
    )  # fmt: skip
    return plan, path


def started(made: Schedule, plan: steering.Plan) -> float:
    """What unit noise is multiplied by to be diffusers' first state, on our path."""
    node = plan.nodes[0]
    return {"one": 1.0, "sigma": node.sigma, "norm": (node.alpha**2 + node.sigma**2) ** 0.5}[made.start]


def ours(made: Schedule, network: Mixture, steps: int, noise: Tensor) -> tuple[Tensor, int]:
    """Samples of our plan from the same noise, and its rows."""
    plan, path = plan_of(made, steps)
    time = steering.paths.time_input(made.time)

    def asked(x: Tensor, t: Tensor) -> Tensor:
        output = network(x, time(path, t))
        return output if made.output_scale is None else output * made.output_scale

    return steering.run(plan, asked, tuple(noise.shape), x_init=noise * started(made, plan), tile=None), plan.rows


def compare(config: Mapping[str, Any], steps: int, n: int = 256, **told: Any) -> Compared:
    """Our samples beside diffusers', from the same noise."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn((n, *EVENT), generator=generator)
    known = {"even": told["even"]} if "even" in told else {}
    if "image_seq_len" in told:
        known["image_seq_len"] = told.pop("image_seq_len")
    made = schedule(config, **known)
    scheduler = getattr(diffusers, config["_class_name"]).from_config(dict(config))
    expected = theirs(config, steps, noise, **told)
    got, rows = ours(made, network_of(config, scheduler), steps, noise)
    off = (got - expected).abs() / expected.std()
    return Compared(float(off.max()), float((off**2).mean().sqrt()), rows)


def compare_noisy(config: Mapping[str, Any], steps: int, n: int = 64) -> Compared:
    """As `compare` for solvers that draw noise: both are given the same noise at every step."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn((n, *EVENT), generator=generator)
    made = schedule(config)
    scheduler = getattr(diffusers, config["_class_name"]).from_config(dict(config))
    network = network_of(config, scheduler)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for i, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        drawn = torch.Generator().manual_seed(100 + i)
        x = scheduler.step(network(scaled, t), t, x, generator=drawn).prev_sample
    plan, path = plan_of(made, steps)
    time = steering.paths.time_input(made.time)
    registers = [noise * started(made, plan)]
    for i, stage in enumerate(plan.stages):
        state = registers[0]
        at = time(path, torch.full((n,), float(stage.denoise.t), dtype=torch.float64))
        denoised = stage.denoise(state, network(stage.denoise.scaled(state), at))
        drawn = torch.Generator().manual_seed(100 + i)
        draws = [torch.randn(tuple(noise.shape), generator=drawn) for _ in range(stage.draws)]
        registers = stage.advance(registers, denoised, draws)
    off = (registers[0] - x).abs() / x.std()
    return Compared(float(off.max()), float((off**2).mean().sqrt()), plan.rows)
