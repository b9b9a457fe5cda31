"""One stage of Doob's transform after another: the correction D_h - D from a bank, local candidates, or selection."""

import math
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from steering.methods.select import Kernel, select
from steering.numerics.noise import Draw, Noise
from steering.numerics.tiles import Matrix
from steering.numerics.weights import effective_size, flat, softmax
from steering.plans.plan import Stage
from steering.posteriors import Candidates, Local, TiltedBank
from steering.posteriors.bank import HAND_OVER
from steering.sampling.rows import Rows, part_of, remembering
from steering.sampling.sampler import Guided, Problem, Report, Tilt
from steering.targets.target import Target

EASED = 0.25
"""If no candidate meets an event, this share of them, the best, stands in for it."""


@dataclass
class Progress:
    """What samples carry from stage to stage, [n] each.

    Attributes:
        on_bank: samples still corrected by the bank; a sample that has left it does not return.
        drowned: samples whose averages were mostly noise at the last stage.
        spent: reward rows so far.
    """

    on_bank: Bool[Tensor, " n"]
    drowned: Bool[Tensor, " n"]
    spent: Int64[Tensor, " n"]

    @classmethod
    def start(cls, n: int, bank: bool) -> "Progress":
        return cls(torch.full((n,), bank), torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class Averaged:
    """Corrections [m, d], with the effective sizes of their weights, log h, and whether they drowned, [m] each."""

    correction: Float[Tensor, "m d"]
    size: Float[Tensor, " m"]
    log_h: Float[Tensor, " m"]
    drowned: Bool[Tensor, " m"]


class DoobTilt(Tilt):
    """`Doob`, prepared for one problem."""

    def __init__(
        self,
        problem: Problem,
        target: Target,
        tilted: TiltedBank | None,
        local: Local,
        particles: int,
        reward_budget: int | None = None,
    ) -> None:
        self.problem, self.target, self.tilted, self.local = problem, target, tilted, local
        self.particles, self.reward_budget = particles, reward_budget
        self.log_z = None if tilted is None else tilted.log_z
        self.choices: list[str] = []
        self.warnings: list[str] = []
        self.ess: list[Tensor] = []
        self.methods: Counter[str] = Counter()
        self.no_hit = 0
        self.progress: Progress | None = None

    def start_shift(self) -> Tensor | None:
        """Implements `Tilt.start_shift`."""
        return None if self.tilted is None else self.tilted.start_shift().reshape(self.problem.event)

    def continued(self, ancestors: Int64[Tensor, " n"]) -> None:
        """Implements `Tilt.continued`."""
        if self.progress is not None:
            each = self.progress
            self.progress = Progress(each.on_bank[ancestors], each.drowned[ancestors], each.spent[ancestors])

    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        """Implements `Tilt.steer`: x and denoised are [n, *event]."""
        n = len(x)
        state, centre = x.flatten(1), denoised.flatten(1)
        correction, ess = torch.zeros_like(state), torch.ones(n, dtype=state.dtype)
        log_h = torch.full((n,), torch.nan, dtype=state.dtype)
        if self.progress is None:
            self.progress = Progress.start(n, self.tilted is not None)
        now = self.progress
        known: dict[Matrix, Tensor] = {}  # products of the states: neighbours may ask for the bank's again
        if self.tilted is not None and bool(now.on_bank.any()):
            on_bank = self.tilted.correction(state, stage.update.at)
            shift, prior_size, rewarded_size, bank_log_h = yield from remembering(on_bank, state, known)
            now.on_bank = now.on_bank & (torch.minimum(prior_size, rewarded_size) >= HAND_OVER)
            if not self.tilted.flat:
                correction = torch.where(now.on_bank[:, None], shift, correction)
            ess = torch.where(now.on_bank, rewarded_size, ess)
            log_h = torch.where(now.on_bank, -torch.inf if self.tilted.no_hit else bank_log_h, log_h)
            self.methods["bank"] += int(now.on_bank.sum())
            if self.tilted.no_hit:
                self.no_hit += int(now.on_bank.sum())
        off_bank = (~now.on_bank).nonzero().squeeze(1)
        allowance = self._pairs(stage, now.spent[off_bank])
        now.spent[off_bank] += 2 * allowance
        kernel = Kernel.of(stage, self.problem.plan, self.local)
        z: Tensor | None = None
        for pairs in allowance.unique().tolist():
            rows = off_bank[allowance == pairs]
            if not pairs:
                self.methods["none"] += len(rows)
                continue
            if kernel is not None and bool(now.drowned[rows].any()):
                chosen = rows[now.drowned[rows]]
                if z is None:
                    z = noise.normal(stage.index, Draw.SOLVER, self.problem.event, x.dtype).flatten(1)
                selection = self._select(stage, kernel, centre[chosen], pairs, noise[chosen])
                z[chosen], ess[chosen], log_h[chosen] = yield from selection
                rows = rows[~now.drowned[rows]]
            if len(rows):
                products = part_of(known, rows)
                problem = self.problem if len(rows) == n else self.problem.rows(rows)
                averaged = yield from self._average(
                    problem, stage, kernel, state[rows], centre[rows], pairs, noise[rows], products
                )
                correction[rows], ess[rows] = averaged.correction, averaged.size
                log_h[rows], now.drowned[rows] = averaged.log_h, averaged.drowned
        self.ess.append(ess)
        # a correction of 0 must leave even the sign of a zero alone
        steered = torch.where(correction == 0, centre, centre + correction)
        return Guided(steered.reshape(x.shape), None if z is None else [z.reshape(x.shape)], log_h)

    def _pairs(self, stage: Stage, spent: Int64[Tensor, " m"]) -> Int64[Tensor, " m"]:
        """Antithetic pairs that each sample may spend on a stage: an even share of what its budget leaves."""
        most = self.particles // 2
        if self.reward_budget is None:
            return torch.full_like(spent, most)
        left = self.reward_budget - 1 - spent  # one row scores the finished sample
        return (left // (2 * (self.problem.plan.rows - stage.index))).clamp(min=0, max=most)

    def _average(
        self,
        problem: Problem,
        stage: Stage,
        kernel: Kernel | None,
        x: Float[Tensor, "m d"],
        centre: Float[Tensor, "m d"],
        pairs: int,
        noise: Noise,
        products: dict[Matrix, Tensor],
    ) -> Generator[Rows, Tensor, Averaged]:
        """The weighted mean of local candidates, less what their unweighted mean says of D, which is known.

        `problem` is that of these m samples; `products` of x by matrix [m, k] need not be made again.
        """
        candidates = yield from remembering(self.local.draw(problem, stage, x, centre, pairs, noise), x, products)
        weights, log_h = yield from self._weigh(centre, candidates)
        self.methods["average"] += len(x)
        deviations = candidates.deviations
        if candidates.log_ratio is None:  # pairs +d, -d: sum_p (w+_p - w-_p) d_p
            deviations, weights_of = deviations[:, :pairs], weights[:, :pairs] - weights[:, pairs:]
        else:
            plain = softmax(candidates.log_ratio)
            represented = effective_size(plain) / plain.shape[1]
            weights_of = weights - represented[:, None] * plain
            # all rewards are equal and candidates are draws of q itself: D keeps its bits
            idle = flat(candidates.log_ratio) & flat(weights)
            weights_of = torch.where(idle[:, None], torch.zeros_like(weights_of), weights_of)
        correction = torch.zeros_like(centre)
        for k in range(deviations.shape[1]):  # one after another: a reduction's bits would depend on the batch
            correction = correction + weights_of[:, k, None] * deviations[:, k]
        sunk = torch.zeros(len(x), dtype=torch.bool) if kernel is None else kernel.drowned(weights_of, deviations)
        return Averaged(correction, effective_size(weights), log_h, sunk)

    def _select(
        self, stage: Stage, kernel: Kernel, centre: Float[Tensor, "m d"], pairs: int, noise: Noise
    ) -> Generator[Rows, Tensor, tuple[Float[Tensor, "m d"], Float[Tensor, " m"], Float[Tensor, " m"]]]:
        """The solver's noise z, chosen among antithetic candidates by the reward of what each leads to, the effective
        size of their weights, and log h."""
        z = noise.normal(stage.index, Draw.PARTICLES, (pairs, centre.shape[1]), centre.dtype)
        candidates = Candidates.pairs(kernel.deviations(z, stage, noise))
        weights, log_h = yield from self._weigh(centre, candidates)
        self.methods["select"] += len(centre)
        return select(weights, z, noise.uniform(stage.index, Draw.SELECT, 1)), effective_size(weights), log_h

    def _weigh(
        self, centre: Float[Tensor, "m d"], candidates: Candidates
    ) -> Generator[Rows, Tensor, tuple[Float[Tensor, "m k"], Float[Tensor, " m"]]]:
        """Normalised weights of the candidates, and log of their mean weight (-inf where none has any)."""
        m, k, _ = candidates.deviations.shape
        x_0 = (centre[:, None] + candidates.deviations).reshape(m * k, *self.problem.event)
        rewards = (yield from self.target.score(x_0, centre.dtype)).reshape(m, k)
        hit = self.target.hit(rewards)
        self.no_hit += int((~hit).sum())
        logs, scale = self.target.log_weights(rewards), self.target.log_scale(rewards)
        ratio = candidates.log_ratio if candidates.log_ratio is not None else torch.zeros_like(logs)
        log_h = torch.logsumexp(ratio + logs, dim=-1) - torch.logsumexp(ratio, dim=-1) + scale
        if self.target.threshold is not None:
            logs = torch.where(hit[:, None], logs, self._eased(rewards))
        # if no candidate has weight, their density ratios do not tell the reward either
        weights = torch.where(hit[:, None] | ~flat(logs)[:, None], softmax(ratio + logs), softmax(ratio))
        return weights, torch.where(hit, log_h, -torch.inf)

    def _eased(self, rewards: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
        """Log-weights of the best candidates of each row, for an event that none of them meets."""
        kept = max(1, math.ceil(EASED * rewards.shape[1]))
        least = rewards.topk(kept, dim=-1).values[:, -1:]
        best = torch.where(rewards >= least, 0.0, -torch.inf).to(rewards.dtype)
        return torch.where((least == -torch.inf) | flat(rewards)[:, None], torch.zeros_like(best), best)

    def finish(self, x: Tensor, report: Report) -> Generator[Rows, Tensor, None]:
        """Implements `Tilt.finish`."""
        report.rewards = yield from self.target.score(x, x.dtype)
        report.ess, report.methods, report.no_hit = torch.stack(self.ess), self.methods, self.no_hit
        report.choices, report.warnings = self.choices, list(self.warnings)
        if self.log_z is not None:
            report.log_z = torch.tensor([self.log_z], dtype=torch.float64)
        missed = f"(stage, sample) pairs: no candidate had weight, reward {self.target.name!r}"
        report.tallies[missed] = self.no_hit, report.ess.numel()
