"""The denoised estimate D that a distillation gradient is made of: guided, and tilted where a steering method is given.

All modes work in units of the data: z = x_t / alpha = x_0 + rho eps, rho = sigma / alpha, and

    eps_w(z, rho) = (z - D(z, rho)) / rho.

With a steering method D is D_h(z, rho) = E[x_0 exp(r(x_0) / beta) | z] / E[exp(r(x_0) / beta) | z], the denoiser of
the tilted law, so every mode's gradient is that of the tilted law, exactly where D_h is.

States are float64 here, and rounded to the problem's precision only for the network and for steering.
"""

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.distillation.levels import Levels
from steering.distillation.perp_neg import Negatives, pushed
from steering.distillation.together import together
from steering.errors import NetworkError
from steering.methods.correction import DoobTilt
from steering.numerics.noise import Noise
from steering.numerics.tiles import by_tiles
from steering.plans.plan import Stage, Update, nodes_at
from steering.plans.predictions import Denoise
from steering.sampling.guidance import extrapolated
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, Report, Tilt, Tilting, prepared

State = Float64[Tensor, "n *event"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """What is known of states z [n, *event] at noise levels rho [n].

    Attributes:
        z: as the network saw them.
        denoised: D, guided and tilted.
        conditional: D of the condition alone, tilted likewise.
    """

    z: State
    rho: Float64[Tensor, " n"]
    denoised: State
    conditional: State

    @property
    def eps(self) -> State:
        """The noise that D leaves of z: (z - D) / rho."""
        return (self.z - self.denoised) / along(self.rho, self.z)

    def rescaled(self, share: float) -> "Estimate":
        """D moved by `share` (0..1) toward D times the ratio of two standard deviations over a view, those of the
        conditional and the guided estimate: what large scales would over-expose (Lin et al. 2023, arXiv:2305.08891)."""
        if not share:
            return self
        guided, conditional = deviations(self.denoised), deviations(self.conditional)
        factor = share * (conditional + _LEAST) / (guided + _LEAST) + (1 - share)
        return replace(self, denoised=self.denoised * along(factor, self.denoised))


_LEAST = 1e-8
"""Added to standard deviations, so that constant views have a ratio."""


@dataclass
class Estimator:
    """Asks a problem's network for D, and steering for its correction.

    Attributes:
        problem: of all views; its plan's path is the one the network was trained on.
        steer: the steering method of each view, or none at all.
        noise: what steering draws candidates with, an index a view.
        negatives: see `perp_neg`.
        ess: effective sizes of the steering's weights, of every call, [n] each.
    """

    problem: Problem
    steer: Sequence[Tilting] = ()
    noise: Noise | None = None
    negatives: Negatives | None = None
    report: Report = field(default_factory=Report)
    ess: list[Tensor] = field(default_factory=list)

    def __call__(
        self, z: State, level: Levels, views: Tensor, call: int, unconditional: bool = False
    ) -> Generator[Rows, Tensor, Estimate]:
        """The estimate at z [n, *event].

        Args:
            views: [n], the view that each state belongs to.
            call: its number among the calls of one gradient: steering draws other candidates in each.
            unconditional: under the null condition, where the problem has one.
        """
        problem = self.problem.rows(views)
        if unconditional:
            problem = _null(problem)
        rule = level.rule
        alpha = along(level.alpha, z)
        given = (z * alpha).to(problem.dtype)
        state = given.to(torch.float64)
        output, conditional = yield from self._outputs(problem, rule, given, None if unconditional else views)
        mean = None if problem.mean is None else problem.mean.to(torch.float64)

        def denoised(raw: Tensor) -> State:
            estimate = rule(state, raw.to(torch.float64))
            return estimate - mean if mean is not None and problem.plan.prediction == "x0" else estimate

        estimate = denoised(output)
        alone = estimate if conditional is output else denoised(conditional)
        if self.steer:
            correction = yield from self._correction(problem, rule, level, given, estimate, views, call)
            estimate, alone = estimate + correction, alone + correction
        return Estimate(state / alpha, level.rho, estimate, alone)

    def prepare(self) -> Generator[Rows, Tensor, None]:
        """The work that steering does once: drawing, calibrating and scoring a bank."""
        for view, steer in {id(steer): (view, steer) for view, steer in enumerate(self.steer)}.values():
            one = self.problem.rows(torch.tensor([view]))
            tilt = yield from prepared(steer.prepare(one), self.report)
            if isinstance(tilt, DoobTilt):
                self.report.choices += [each for each in tilt.choices if each not in self.report.choices]
                self.report.warnings += [each for each in tilt.warnings if each not in self.report.warnings]

    def _outputs(
        self, problem: Problem, rule: Denoise, given: Tensor, views: Tensor | None
    ) -> Generator[Rows, Tensor, tuple[Tensor, Tensor]]:
        """The raw outputs under guidance, and those of the condition alone; all rows are asked for at once."""
        scaled = rule.scaled(given)
        if problem.mean is not None:
            scaled = scaled + problem.mean
        rows = Rows.network(scaled, torch.as_tensor(rule.t), problem.condition)
        guided = problem.guided(rows.t)
        negatives = None if self.negatives is None or views is None else self.negatives[views]
        if guided is None:
            (output,) = yield from _asked([rows])
            return output, output
        lots = [rows, Rows.network(rows.x[guided], rows.t[guided], problem.null_condition(guided))]
        if negatives is not None:
            part = problem.rows(guided)
            for k in range(negatives.weights.shape[1]):
                other = {name: tensor[guided][:, k] for name, tensor in negatives.condition.items()}
                lots.append(Rows.network(rows.x[guided], rows.t[guided], {**part.condition, **other}))
        conditional, null, *others = yield from _asked(lots)
        if others:
            assert negatives is not None
            away = pushed(conditional[guided] - null, [each - null for each in others], negatives.weights[guided])
            moved = extrapolated(null + away.to(null.dtype), null, problem.guidance, problem.guidance_rescale)
        else:
            moved = extrapolated(conditional[guided], null, problem.guidance, problem.guidance_rescale)
        if isinstance(guided, slice):
            return moved, conditional
        return conditional.index_copy(0, guided, moved), conditional

    def _correction(
        self, problem: Problem, rule: Denoise, level: Levels, given: Tensor, denoised: State, views: Tensor, call: int
    ) -> Generator[Rows, Tensor, State]:
        """D_h - D of each state; each is steered by its view's method, at its own time."""
        assert self.noise is not None
        centre = denoised.to(problem.dtype)
        nodes = nodes_at(problem.plan.path, level.t)
        seen: dict[int, int] = {}
        running = []
        for i, view in enumerate(views.tolist()):
            seen[view] = seen.get(view, -1) + 1
            update = Update(at=nodes[i], to=nodes[i], A=((1.0,),), b=(0.0,))
            # further states of a view in one call have candidates of their own
            stage = Stage(index=call + _CALLS * seen[view], update=update, denoise=rule)
            one = torch.tensor([i])
            noise = self.noise[torch.tensor([view])]
            running.append(self._steered(problem.rows(one), self.steer[view], stage, given[one], centre[one], noise))
        steered = yield from together(running)
        self.ess.append(torch.cat([ess for _, ess in steered]))
        return torch.cat([each for each, _ in steered]).to(torch.float64) - centre.to(torch.float64)

    def _steered(
        self, problem: Problem, steer: Tilting, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise
    ) -> Generator[Rows, Tensor, tuple[Tensor, Tensor]]:
        """D_h of one state [1, *event], and the effective size of its weights [1]."""
        if not bool(denoised.isfinite().all()):  # counted where the gradient is
            return denoised, torch.full((1,), torch.nan, dtype=x.dtype)
        tilt: Tilt = yield from steer.prepare(problem)
        guided = yield from tilt.steer(stage, x, denoised, noise)
        ess = torch.full((1,), torch.nan, dtype=x.dtype)
        if isinstance(tilt, DoobTilt):
            self.report.methods += Counter(tilt.methods)
            self.report.no_hit += tilt.no_hit
            ess = tilt.ess[-1]
        return guided.denoised, ess


_CALLS = 16
"""More than a mode's calls of the estimator that are steered."""


def along(factor: Tensor, x: Tensor) -> Tensor:
    """A factor for each row of x [n, *event]."""
    return factor.reshape(-1, *(1 for _ in x.shape[1:]))


def deviations(x: State) -> Float64[Tensor, " n"]:
    """The standard deviation of each row over its event, with the same bits in any batch."""
    return by_tiles(lambda tile: (tile.std(dim=1, correction=0),), x.flatten(1))[0]


def _null(problem: Problem) -> Problem:
    """The problem under its null condition and without guidance; itself where there is none."""
    if not problem.condition or not problem.null:
        return replace(problem, guidance=1.0)
    return replace(problem, condition=problem.null_condition(slice(None)), guidance=1.0)


def _asked(lots: Sequence[Rows]) -> Generator[Rows, Tensor, list[Tensor]]:
    """The replies to several lots of network rows, asked for in as few requests as their conditions' shapes allow.

    NaN and infinity are let through: one view that went wrong is no reason to end an optimisation, and its numbers are
    counted.
    """
    replies: list[Tensor] = []
    joined: list[list[Rows]] = []
    for rows in lots:
        if joined and joined[-1][-1].beside(rows) is not None:
            joined[-1].append(rows)
        else:
            joined.append([rows])
    for group in joined:
        whole = group[0]
        for rows in group[1:]:
            both = whole.beside(rows)
            assert both is not None
            whole = both
        reply: object = yield whole
        if not isinstance(reply, Tensor) or reply.shape != whole.x.shape:
            got = list(reply.shape) if isinstance(reply, Tensor) else type(reply).__name__
            raise NetworkError(f"network: expected output of shape {list(whole.x.shape)}, got {got}")
        replies += reply.split([len(rows) for rows in group])
    return replies
