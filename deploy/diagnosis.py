"""A served model's diagnosis: every diagnostic of `steering.diagnostics` at a fixed number of network rows."""

import math
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

import steering
from serving.models.model import Sampler
from serving.models.offline import solve
from steering import Noise, Problem, diagnostics
from steering.flow.reflow import couple
from steering.plans.plan import Node, nodes_at
from steering.sampling.rows import Rows, metered

LEVELS, KNOTS = 7, 24
"""Noise levels at which the score is looked at, and those of the denoising error."""
RANGE = 0.03, 10.0
"""Lowest and highest noise level, over the spread of the data."""
WIDE = 0.005, 200.0
"""The same for the denoising error."""
CLOSE = 0.02, 0.1
"""Levels of the intrinsic dimension."""
ODE_STEPS, SDE_STEPS = 32, 48
PROBES, POINTS = 8, 16
EXACT = 4
"""Most dimensions in which the Fokker-Planck residual is taken exactly."""
MOST_SAMPLES, MOST_STATES, MOST_PLACES = 1024, 64, 4
FEWEST_SAMPLES, FEWEST_STATES = 8, 2

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shares:
    """How the rows are spent: samples drawn twice, noised states at each level, places whose dimension is counted."""

    samples: int
    states: int
    places: int

    @classmethod
    def of(cls, rows: int, dimension: int) -> "Shares":
        """Half the rows for samples, a quarter for states, a fifth for places, where that is enough for one.

        Raises:
            ValueError: too few rows for anything; names the fewest.
        """
        sample = ODE_STEPS + 1 + SDE_STEPS + LEVELS
        state = LEVELS * (2 * PROBES + (POINTS if dimension > 1 else 0) + fokker_planck_rows(dimension)) + KNOTS
        fewest = math.ceil(max(FEWEST_SAMPLES * sample / 0.5, FEWEST_STATES * state / 0.3))
        if rows < fewest:
            raise ValueError(f"expected at least {fewest}, got {rows}")
        place = len(CLOSE) * 2 * dimension
        return cls(
            min(int(0.5 * rows / sample), MOST_SAMPLES),
            min(int(0.3 * rows / state), MOST_STATES, int(0.5 * rows / sample)),
            min(int(0.2 * rows / place), MOST_PLACES),
        )


def fokker_planck_rows(dimension: int) -> int:
    """Rows for one state's residual."""
    return 4 * dimension**2 + 2 * dimension + 3 if dimension <= EXACT else 2 * PROBES + 3


@dataclass(frozen=True, eq=False)
class LevelDiagnosis:
    """What was seen at one noise level; circles need two dimensions."""

    noise: float
    fokker_planck: diagnostics.FokkerPlanck
    asymmetry: diagnostics.Asymmetry
    loops: diagnostics.Loops | None
    gauge: diagnostics.Gauge


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """All of it; noise levels are sigma / alpha."""

    model: str
    version: str
    dimension: int
    seed: int
    condition: Mapping[str, Any]
    shares: Shares
    rows: int
    levels: tuple[LevelDiagnosis, ...]
    gap: diagnostics.Distance
    straightness: diagnostics.Straightness
    kinetic: diagnostics.Kinetic
    places: tuple[tuple[float, diagnostics.IntrinsicDimension], ...]

    def report(self) -> dict[str, Any]:
        """Everything but the spectra, ready for JSON."""
        return {
            "model": self.model,
            "version": self.version,
            "dimension": self.dimension,
            "seed": self.seed,
            "condition": dict(self.condition),
            "rows": self.rows,
            **asdict(self.shares),
            "levels": [asdict(level) for level in self.levels],
            "ode_sde_gap": asdict(self.gap),
            "straightness": asdict(self.straightness),
            "kinetic": asdict(self.kinetic),
            "intrinsic_dimension": [
                {"noise": noise, "dimension": each.dimension.tolist(), "effective": each.effective.tolist()}
                for noise, each in self.places
            ],
        }


def diagnose(
    model: Sampler,
    condition: Mapping[str, Tensor],
    shares: Shares,
    seed: int,
    tell: Callable[[str], None] = lambda stage: None,
) -> Diagnosis:
    """Diagnose a model under one condition ([1, ...] by name).

    Args:
        tell: is called with what is done next.

    Raises:
        ValueError: a path on which a diagnostic is not defined.
        NetworkError: the network returned NaN.
    """
    event, dimension = model.card.event_shape, math.prod(model.card.event_shape)
    meter: Counter[str] = Counter()

    def ask(generator: Generator[Rows, Tensor, Result]) -> Result:
        return solve(metered(generator, meter), model)

    def problem(plan: steering.Plan, n: int) -> Problem:
        expanded = {name: value.expand(n, *value.shape[1:]) for name, value in condition.items()}
        return Problem(plan=plan, event=event, dtype=torch.float32, condition=expanded, model=model.digest)

    ode, sde = (
        model.plan(solver, steps, path=model.path.finite, end="t_min")
        for solver, steps in (("dpmpp_2m", ODE_STEPS), ("sde_dpmpp_2m", SDE_STEPS))
    )
    n = shares.samples
    tell("probability flow")
    coupling = ask(couple(problem(ode, n), Noise(seed, range(n))))
    tell("reverse SDE")
    flowed = coupling.data * ode.nodes[-1].alpha  # the states that plans end with
    gap = ask(diagnostics.ode_sde_gap(problem(sde, n), flowed, Noise(seed, range(n, 2 * n))))

    # noises of their own, since samples that were noised with what they were made of would be no fair states
    data, noise = coupling.data, Noise(seed, range(2 * n, 3 * n))
    scale = float(data.to(torch.float64).square().mean().sqrt())
    some = slice(0, shares.states)
    levels = []
    for at in _levels(ode, scale, RANGE, LEVELS):
        tell(f"noise level {at.rho:.3g}")
        states = (problem(ode, shares.states), data[some], noise[torch.arange(shares.states)], at.t)
        level = LevelDiagnosis(
            at.rho,
            ask(diagnostics.residual(*states) if dimension <= EXACT else diagnostics.drift(*states, probes=PROBES)),
            ask(diagnostics.asymmetry(*states, probes=PROBES)),
            ask(diagnostics.loops(*states, points=POINTS)) if dimension > 1 else None,
            ask(diagnostics.gauge(problem(ode, n), data, noise, at.t)),
        )
        levels.append(level)
    tell("kinetic energy")
    times = [at.t for at in _levels(ode, scale, WIDE, KNOTS)]
    kinetic = ask(
        diagnostics.kinetic(problem(ode, shares.states), data[some], noise[torch.arange(shares.states)], times)
    )
    places = []
    for at in _levels(ode, scale, CLOSE, len(CLOSE)) if shares.places else ():
        tell(f"intrinsic dimension at noise level {at.rho:.3g}")
        few = torch.arange(shares.places)
        found = diagnostics.intrinsic_dimension(problem(ode, shares.places), data[few], noise[few], at.t)
        places.append((at.rho, ask(found)))
    return Diagnosis(
        model=model.name,
        version=model.version,
        dimension=dimension,
        seed=seed,
        condition={name: value[0].tolist() for name, value in condition.items()},
        shares=shares,
        rows=meter["network"],
        levels=tuple(levels),
        gap=gap,
        straightness=diagnostics.straightness(coupling),
        kinetic=kinetic,
        places=tuple(places),
    )


def _levels(plan: steering.Plan, scale: float, between: tuple[float, float], count: int) -> tuple[Node, ...]:
    """Nodes even in log noise level, as far as the path goes, with room for differences at its ends."""
    low, high = plan.nodes[-1].rho * 1.1, plan.nodes[0].rho / 1.1
    lowest, highest = (math.log(min(max(each * scale, low), high)) for each in between)
    levels = torch.linspace(lowest, highest, count, dtype=torch.float64)
    return nodes_at(plan.path, plan.path.time_of_log_snr(-levels))
