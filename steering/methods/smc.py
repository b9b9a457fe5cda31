"""Sequential Monte Carlo: chains with weights, resampled on the way, so that the tilted law is exact as they grow.

Chains of a population start at x_T and move by a proposal q(x_t | x_s). A chain's weight is

    p(x_T) / q(x_T)  prod_t p(x_t | x_s) / q(x_t | x_s)  prod_t G_t  w(x_0) / prod_t G_t,   w = exp(r / beta),

p the plan's own steps. The potentials G_t decide which chains survive on the way and cancel at the end, so with any G_t
> 0 and
any q samples follow p(x_0) w(x_0) in the limit; good ones keep the weights even.

- FK steering (Singhal et al. 2025, arXiv:2501.06848): q = p, G_t from intermediate rewards r(D(x_t)).
- Twisted (TDS, Wu et al. 2023, arXiv:2306.17775): q moves by D_h, not D, and G_t = h(x_t) / h(x_s), both of `inner`.
- Tempered (DAS, Kim et al. 2025, arXiv:2501.05803): log G_t and D_h - D are scaled by lambda_t, which rises to 1.

What p is, the plan decides: few steps of `ddim` sample a narrower law than the model's, and its tilt is what comes out.
"""

from collections import Counter
from collections.abc import Hashable

import torch
from jaxtyping import Int64
from torch import Tensor

from steering.errors import SteeringError, UnsuitableError, choose
from steering.methods.aimed import Aimed
from steering.methods.chains import ACCUMULATE, Populations, Potential, Settings
from steering.numerics.noise import Noise
from steering.plans.plan import Plan
from steering.sampling.rows import Condition, metered
from steering.sampling.sampler import Drawing, Noised, Problem, Report, Start, Tilting, prepared, unsteerable
from steering.targets.target import Reward, Target


class Smc(Aimed):
    """Steering toward p(x_0) exp(reward(x_0) / beta) by populations of chains. The plan must draw noise.

    Args:
        reward: scores samples, [B, *event] -> [B]; -inf is legal (weight 0), NaN and +inf are errors.
        beta: temperature > 0; smaller is stronger.
        threshold: condition on reward >= threshold instead; beta is then not used.
        inner: makes the proposals, toward the same reward; the plan's own steps when absent.
        population: chains that share their weights, at least 2.
        keep: samples drawn from a population, 1..population; by default as many as chains, with copies among them.
        potential: "twisted" (log h of `inner`; the default with an inner method), "difference" (the default without),
            "max" or "sum" of intermediate rewards r(D(x_t)). The last two count early rewards again at every stage:
            with more than a few stages of them (see `every`) weights are uneven.
        resample_at: share of effective chains, 0..1, below which a population is resampled.
        tempering: share of the stages, 0..1, over which potentials and proposals rise linearly to their full strength.
        every: stages from one evaluation of intermediate rewards to the next.
        key: identifies the reward, see `Target`.

    Samples of a population share condition and x_init. Rows 0..k of a larger run equal the smaller run.
    """

    def __init__(
        self,
        reward: Reward,
        beta: float = 1.0,
        *,
        threshold: float | None = None,
        inner: Tilting | None = None,
        population: int = 64,
        keep: int | None = None,
        potential: Potential | None = None,
        resample_at: float = 0.5,
        tempering: float = 0.0,
        every: int = 1,
        key: Hashable = None,
    ) -> None:
        if not isinstance(population, int) or population < 2:
            raise SteeringError(f"population: expected an integer >= 2, got {population!r}")
        keep = population if keep is None else keep
        if not isinstance(keep, int) or not 1 <= keep <= population:
            raise SteeringError(f"keep: expected an integer in 1..{population}, got {keep!r}")
        potential = potential or ("difference" if inner is None else "twisted")
        if potential not in ACCUMULATE:
            raise SteeringError(choose("potential", potential, ACCUMULATE))
        if potential == "twisted" and inner is None:
            raise SteeringError("potential 'twisted': expected an inner method to take log h from, got none")
        if inner is not None and inner.reward not in (None, reward):
            raise SteeringError("inner: expected a method toward the same reward, got one toward another")
        for name, share in (("resample_at", resample_at), ("tempering", tempering)):
            if not 0 <= share <= 1:
                raise SteeringError(f"{name}: expected a number in 0..1, got {share!r}")
        if not isinstance(every, int) or every < 1:
            raise SteeringError(f"every: expected an integer >= 1, got {every!r}")
        self.inner = inner
        super().__init__(Target(reward, beta, threshold, key))
        self.settings = Settings(self.target, population, keep, potential, resample_at, tempering, every)

    @property
    def held(self) -> int:
        """Implements `Steering.held`."""
        return -(-self.settings.population // self.settings.keep) * (1 if self.inner is None else self.inner.held)

    @property
    def together(self) -> int:
        """Samples of one population, which no group of samples may divide."""
        return self.settings.keep

    @property
    def stage_rows(self) -> int:
        """Network rows of a population at a stage, at most."""
        return self.settings.population * (1 if self.inner is None else self.inner.stage_rows)

    @property
    def stage_evaluations(self) -> int:
        """Implements `Steering.stage_evaluations`."""
        return 1 if self.inner is None else self.inner.stage_evaluations

    @property
    def needs_gradients(self) -> bool:
        """Implements `Steering.needs_gradients`."""
        return self.inner is not None and self.inner.needs_gradients

    def unsuitable(self, plan: Plan) -> str:
        """Why it cannot draw by a plan; empty if it can."""
        if plan.uses_noise:
            return ""
        return (
            f"solver {plan.solver!r} with eta {plan.eta:g} draws no noise, without which resampled chains stay copies: "
            "expected eta above 0, such as sde_dpmpp_2m or ddim with eta 1"
        )

    def draw(self, problem: Problem, noise: Noise, x_init: Start | None) -> Drawing:
        """Implements `Steering.draw`: sample i is one of population i // keep, whose chain j has the noise of index
        population * (i // keep) + j."""
        if why := unsteerable(problem.plan, problem.mean is not None) or self.unsuitable(problem.plan):
            raise UnsuitableError(why)
        population, keep = self.settings.population, self.settings.keep
        numbers, home = torch.unique(noise.indices // keep, return_inverse=True)
        first = torch.stack([(home == p).nonzero()[0, 0] for p in range(len(numbers))])
        _check_shared(_shared(problem, x_init), first[home], keep)
        whose = first.repeat_interleave(population)
        indices = numbers[:, None] * population + torch.arange(population)
        chains, start = problem.rows(whose), None if x_init is None else x_init[whose]
        report, meter = Report(), Counter[str]()
        tilt = None if self.inner is None else (yield from prepared(self.inner.prepare(chains), report))
        populations = Populations(
            self.settings, chains, Noise(noise.seed, indices.flatten().tolist()), Noise(noise.seed, numbers.tolist()),
            (home, noise.indices % keep), tilt, report,
        )  # fmt: skip
        x, drawn = yield from metered(populations.march(start), meter)
        report.count(meter)
        picked = drawn[populations.samples]
        report.rewards = None if report.rewards is None else report.rewards[picked]
        report.ess = report.ess[:, picked] if report.ess.numel() else report.ess
        return x[picked], report


def _shared(problem: Problem, x_init: Start | None) -> Condition:
    """What must be the same for all samples of a population."""
    nulls = {f"null_{name}": tensor for name, tensor in problem.null.items() if len(tensor) > 1}
    start = x_init.data if isinstance(x_init, Noised) else x_init
    return {**problem.condition, **nulls, **({} if start is None else {"x_init": start})}


def _check_shared(tensors: Condition, leader: Int64[Tensor, " n"], keep: int) -> None:
    """Weights compare chains of one law: a population has one condition, and one start where it is given."""
    for name, tensor in tensors.items():
        if not torch.equal(tensor, tensor[leader]):
            raise UnsuitableError(
                f"{name}: expected the same for all samples of a population, every {keep} in a row, got several; "
                "keep=1 gives each sample a population of its own"
            )
