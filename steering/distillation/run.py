"""The offline driver: a distillation gradient of a network in this process."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from steering.distillation.gradient import Distilled, gradient, prior
from steering.distillation.levels import Times
from steering.distillation.perp_neg import Negatives
from steering.distillation.ramps import Ramp
from steering.distillation.schedules import Schedule, schedule
from steering.distillation.settings import Settings
from steering.errors import PlanError
from steering.paths import Path
from steering.plans.limits import Limit
from steering.sampling.rows import answered
from steering.sampling.run import TILE, Network, Scoring, answer, conditions_of
from steering.sampling.sampler import Problem, Steering, Tilting
from steering.targets.target import Target


def distill(
    network: Network,
    x: Tensor,
    *,
    path: Path,
    prediction: str,
    iteration: int,
    seed: int = 0,
    mode: str = "sds",
    times: Schedule | Times | str = "coarse",
    noise: str | None = None,
    noises: int | None = None,
    weighting: str = "uniform",
    clip: float | Ramp | None = None,
    rescale: float = 0.0,
    condition: Mapping[str, Tensor] | None = None,
    guidance: float = 1.0,
    null: Mapping[str, Tensor] | None = None,
    keep: Collection[str] = (),
    negatives: Negatives | None = None,
    steer: Tilting | Sequence[Tilting] | None = None,
    reward: Callable[[Tensor], Tensor] | None = None,
    beta: float = 1.0,
    views: Sequence[int] | None = None,
    over: int | None = None,
    preconditioning: str = "none",
    sigma_data: float = 0.5,
    limit: Limit | None = None,
    deviation: float | None = None,
    dtype: torch.dtype = torch.float32,
    tile: int | None = TILE,
) -> Distilled:
    """The gradient of a distillation loss with respect to views x [B, *event]; see `distillation.gradient`.

        for i in range(600):
            x = scene.render(cameras(i))
            answer = steering.distill(network, x.detach(), path=path, prediction="eps", iteration=i,
                                      times=steering.distillation.schedule("coarse", i_end=600),
                                      condition={"camera": cameras(i)})
            x.backward(answer.gradient)
            optimiser.step()

    Args:
        network: raw outputs [B, *event] for rows x [B, *event] at path times t [B] and conditions by name.
        times: a preset's name ("coarse", "coarse_long", "refine", "texture", "texture_long"), a `Schedule`, or `Times`.
        noise, noises, weighting, clip, rescale: see `Settings`; `noises` is 4 for mode "reward_sds", else 1.
        condition: tensors [B, ...] or [1, ...] by name.
        guidance: w in null + w (conditional - null); other than 1 needs `null`, see `steering.run`.
        steer: a `Doob` tilts the prior toward its reward.
        reward, beta: weigh the noises of mode "reward_sds".

    Raises:
        ValueError: arguments out of range (`PlanError`), a mode that cannot be had ("vsd"), a reward that failed.
    """
    kinds = Settings(
        mode=mode, times=schedule(times) if isinstance(times, str) else times, noise=noise,
        noises=(4 if mode == "reward_sds" else 1) if noises is None else noises,
        weighting=weighting, clip=clip, rescale=rescale,
    )  # fmt: skip
    conditions, nulls = conditions_of(len(x), condition, null, keep, guidance)
    problem = Problem(
        plan=prior(path, prediction, preconditioning, sigma_data, limit), event=tuple(x.shape[1:]), dtype=dtype,
        condition=conditions, guidance=guidance, null=nulls, model=network,
    )  # fmt: skip
    target = None if reward is None else Target(reward, beta)
    if not isinstance(steer, Steering | None) and not steer:
        raise PlanError(f"steer: expected one method for each of {len(x)} views, got none")
    asking = gradient(
        problem, x, kinds, iteration=iteration, seed=seed, views=views, over=over, steer=steer, target=target,
        negatives=negatives, deviation=deviation,
    )  # fmt: skip
    method = steer if steer is None or isinstance(steer, Steering) else steer[0]
    scoring = Scoring.of(method) if target is None else Scoring(target.reward, target.name)
    return answered(asking, lambda rows: answer(rows, network, tile, scoring))
